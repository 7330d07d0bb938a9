"""Folders and arguments from which a model would be loaded that is not the one that was meant."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import MORE_FAMILIES, PROMPT, make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.demo.shipped import shipped_folder
from attrgraph.errors import ModelLoadError, UnsupportedModelError
from attrgraph.models.create import create_hf_model

pytestmark = pytest.mark.refusal


def test_arguments_that_would_be_ignored_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelLoadError, match="demo: has no revision 'nonsense'"):
        ag.load_model("demo", revision="nonsense")
    with pytest.raises(ag.AttrGraphError, match="no such folder"):
        ag.load_model("demo", "")
    with pytest.raises(ModelLoadError, match="has no chat template that could take enable_thinking"):
        ag.load_model("demo", chat_template_kwargs={"enable_thinking": False})
    for option in ("--revision", "--transcoders", "--dtype", "--device"):
        assert main(["trace", "in texas the capital is", option, ""]) == 1
    assert main(["trace", "in texas the capital is", "--transcoders", "demo", "--model", ""]) == 1
    assert main(["trace", "in texas the capital is", "--format", ".json"]) == 2
    assert "--format is for --prompts" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("has_model", [True, False])
def test_an_adapter_is_never_left_out_silently(has_model: bool, tmp_path: Path) -> None:
    if has_model:
        shutil.copytree(shipped_folder("model"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    with pytest.raises(UnsupportedModelError, match=r"would not be applied; merge it: peft\.Auto") as found:
        ag.load_model(tmp_path)
    assert "\n" not in str(found.value)
    (tmp_path / "adapter_config.json").unlink()
    save_file({"lora_A": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="an adapter would not be applied"):
        ag.load_model(tmp_path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"quant_method": "aqlm", "bits": 4}, r"\(aqlm\); load the model that it was made from"),
        ({"quant_method": "gptq", "bits": 4}, r"\(gptq\); give load_model what Auto.*\) returns\."),
        ({"quant_method": "bitsandbytes"}, r"\(bitsandbytes\); give load_model what Auto.*\) returns\."),
        ({"quant_method": "fp8"}, r'", quantization_config=FineGrainedFP8Config\(dequantize=True\)\) returns\.'),
        ({}, r"quantised \({}\)"),
        ("fp8", "not a configuration that transformers knows"),
    ],
)
def test_quantised_weights_are_refused_in_one_line(how: object, said: str, tmp_path: Path) -> None:
    make_model("llama").hf_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    with pytest.raises(UnsupportedModelError, match=said) as found:
        ag.load_model(tmp_path)
    assert "\n" not in str(found.value)


# what the 16 values of four bits stand for
_FP4 = torch.tensor([sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)])


def test_mxfp4_weights_are_dequantised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kind, config = MORE_FAMILIES["gpt_oss"]
    create_hf_model(kind, seed=0, **config | {"hidden_size": 32, "intermediate_size": 32}).save_pretrained(tmp_path)
    weights, whole = load_file(tmp_path / "model.safetensors"), {}
    for name in [name for name in weights if name.endswith("_proj") and "experts" in name]:
        n_experts, d_in, d_out = weights.pop(name).shape
        codes = torch.randint(16, (n_experts, d_out, d_in // 32, 32))
        powers = torch.randint(-4, 1, (n_experts, d_out, d_in // 32))
        weights[f"{name}_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        weights[f"{name}_scales"] = (powers + 127).to(torch.uint8)
        whole[name] = (_FP4[codes] * 2.0 ** powers[..., None]).flatten(2).transpose(1, 2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    said = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    capfd.readouterr()
    for dtype in (torch.float32, torch.bfloat16):
        model = ag.load_model(tmp_path, make_transcoders(d_model=32), dtype=dtype)
        loaded = dict(model.hf_model.named_parameters())
        for name, expected in whole.items():
            torch.testing.assert_close(loaded[name], expected.to(dtype), rtol=0, atol=0)
        assert ag.trace(model, PROMPT, max_feature_nodes=5).metadata["checks"]["is_exact"]
    assert "MXFP4" not in capfd.readouterr().err


def test_a_model_without_transcoders_says_which_are_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(shipped_folder("model"))
    ag.load_model(folder)
    assert not caplog.messages
    monkeypatch.setattr("attrgraph.models.load_model.known_for", lambda name: f"; known for it: a set for {name}")
    ag.load_model(folder)
    assert caplog.messages == [f"{folder} is loaded without transcoders; known for it: a set for {folder}"]
    ag.load_model("demo")
    assert len(caplog.messages) == 1
