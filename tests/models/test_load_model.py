"""Folders and arguments from which a model would be loaded that is not the one that was meant."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import make_model

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.demo.shipped import shipped_folder
from attrgraph.errors import ModelLoadError, UnsupportedModelError

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


@pytest.mark.parametrize("how", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes"}, {}, "fp8"])
def test_quantised_weights_are_refused_in_one_line(how: object, tmp_path: Path) -> None:
    make_model("llama").hf_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    with pytest.raises(UnsupportedModelError) as found:
        ag.load_model(tmp_path)
    assert "\n" not in str(found.value)
