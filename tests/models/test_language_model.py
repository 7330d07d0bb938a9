"""Prompts to tokens, loading, and what is refused."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import BOS, D_VOCAB, FAMILY_CONFIGS, N_LAYERS, make_model, make_transcoders
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import (
    AttrGraphError,
    ModelLoadError,
    PromptError,
    ResultError,
    TranscoderError,
    UnsupportedModelError,
)
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import save_transcoders

Build = Callable[..., LanguageModel]
WORDS = ["<unk>", "<bos>", *(f"w{i}" for i in range(2, D_VOCAB))]
CHAT = "{% for m in messages %}{{ m['role'] == 'user' and 'w2' or 'w3' }} {{ m['content'] }} {% endfor %}w4"


def make_tokenizer(*, has_bos: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>"} if has_bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_model("llama").hf_model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_run_equals_the_hugging_face_model(family: str, prompt: list[int]) -> None:
    model = make_model(family)
    run = model.run(torch.tensor(prompt))
    with torch.no_grad():
        expected = model.hf_model(input_ids=torch.tensor([prompt])).logits[0, -1]
    assert_close(run.logits, expected)
    capped = run.uncapped_logits
    if family == "gemma2":
        capped = 3.0 * torch.tanh(capped / 3.0)
        assert not torch.allclose(capped, run.uncapped_logits)
    assert_close(capped, expected, rtol=1e-4, atol=1e-4)


def test_run_leaves_nothing_behind(prompt: list[int]) -> None:
    model = make_model("gemma2")
    hooks_before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules()]
    model.run(torch.tensor(prompt))
    with pytest.raises(IndexError):
        model.run(torch.tensor([D_VOCAB + 5]))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules()] == hooks_before


def test_text_gets_bos_once(model_folder: Path) -> None:
    model = ag.load_model(model_folder)
    assert model.tokenize("w5 w6").tolist() == [BOS, 5, 6]
    assert model.tokenize("<bos> w5 w6").tolist() == [BOS, 5, 6]
    assert model.tokenize([5, 6]).tolist() == [BOS, 5, 6]
    assert model.tokenize(torch.tensor([BOS, 5])).tolist() == [BOS, 5]
    assert model.tokenize([BOS]).tolist() == [BOS]


def test_no_bos_where_the_tokenizer_has_none() -> None:
    model = LanguageModel(make_model("llama").hf_model, make_tokenizer(has_bos=False))
    assert model.tokenize("w5 w6").tolist() == [5, 6]
    assert model.bos_token_id is None


def test_chat_messages_go_through_the_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    model = LanguageModel(make_model("llama").hf_model, tokenizer)
    messages = [{"role": "user", "content": "w9"}]
    assert model.tokenize(messages).tolist() == [BOS, 2, 9, 4]
    # what the assistant began is continued
    assert model.tokenize([*messages, {"role": "assistant", "content": "w8"}]).tolist() == [BOS, 2, 9, 3, 8]


def test_folder_without_tokenizer_takes_ids(tmp_path: Path, prompt: list[int]) -> None:
    make_model("qwen3").hf_model.save_pretrained(tmp_path / "m")
    save_transcoders(make_transcoders(), tmp_path / "t")
    model = ag.load_model(tmp_path / "m", transcoders=tmp_path / "t")
    assert model.tokenize(prompt).tolist() == prompt
    graph = ag.trace(model, prompt)
    assert graph.prompt_tokens[1] == "<7>"
    assert graph.metadata["settings"]["skipped_positions"] == [0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_dtype_is_the_models_and_edges_are_at_least_float32(dtype: str, model_folder: Path, prompt: list[int]) -> None:
    model = ag.load_model(model_folder, transcoders=make_transcoders(), dtype=dtype)
    assert model.hf_model.dtype == getattr(torch, dtype)
    graph = ag.trace(model, prompt)
    assert graph.metadata["dtype"] == dtype
    # bfloat16 has 8 bits: the true run itself is that coarse
    assert graph.metadata["checks"]["logit_deviation"] < (0.5 if dtype == "bfloat16" else 1e-4)
    assert graph.metadata["checks"]["input_sum_gap"] < (0.5 if dtype == "bfloat16" else 1e-4)


def test_digest_depends_on_the_weights(model_folder: Path) -> None:
    before = ag.load_model(model_folder).source["digest"]
    assert before == ag.load_model(model_folder).source["digest"]
    weights = load_file(model_folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
    assert ag.load_model(model_folder).source["digest"] != before


def test_the_digest_is_of_the_file_that_the_config_names(model_folder: Path) -> None:
    config = model_folder / "config.json"
    (model_folder / "other.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": "other.safetensors"}))
    before = ag.load_model(model_folder).source["digest"]
    for name, is_used in (("model.safetensors", False), ("other.safetensors", True)):
        weights = load_file(model_folder / name)
        weights["model.norm.weight"] += 1
        save_file(weights, model_folder / name, metadata={"format": "pt"})
        model = ag.load_model(model_folder)
        assert (model.source["digest"] != before) == is_used
        assert bool((model.final_norm_module().weight == weights["model.norm.weight"]).all()) == is_used


def test_the_digest_of_a_tokenizer_is_of_all_that_it_does(model_folder: Path, prompt: list[int]) -> None:
    def digest(**how: Any) -> str:
        model = ag.load_model(model_folder, make_transcoders(), **how)
        found: str = ag.trace(model, prompt, max_feature_nodes=1).metadata["tokenizer"]["digest"]
        return found

    before, given = digest(), make_tokenizer()
    assert before == digest(tokenizer=given)  # wherever it is from
    given(["w1", "w2 w3"], truncation=True, max_length=2)
    assert before == digest(tokenizer=given)  # whatever it was asked before
    given.chat_template = "{{ messages }}"
    given.save_pretrained(model_folder)
    assert digest() == digest(tokenizer=given) != before
    given.add_tokens(["new"])
    found = digest(tokenizer=given)
    given.add_special_tokens({"eos_token": "w7"})
    assert len({before, digest(), found, digest(tokenizer=given)}) == 4


def test_a_tokenizer_that_gives_no_account_of_itself_has_no_digest(prompt: list[int]) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()

    class Reversed:
        def pre_tokenize(self, text: object) -> None: ...

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Reversed())
    model.tokenizer, model.transcoders = tokenizer, make_transcoders()
    assert "tokenizer" not in ag.trace(model, prompt, max_feature_nodes=1).metadata


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("bad_prompt", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ([], "is empty"),
        ([BOS, D_VOCAB], f"token id {D_VOCAB} is outside the vocabulary"),
        ([BOS, -1], "token id -1 is outside"),
        ([5] * 64, "65 tokens, the model's context 64"),
        (torch.zeros(1, 3, dtype=torch.int64), "must be 1-D integers"),
        (torch.zeros(3), "must be 1-D integers"),
        ([5, 0.5], "a list has a float"),
        (None, "got NoneType"),
        ([{"role": "user", "content": "w5"}], "no chat template"),
    ],
)
def test_bad_prompts_say_what_is_wrong(bad_prompt: object, message: str, model_folder: Path) -> None:
    with pytest.raises(PromptError, match=message):
        ag.load_model(model_folder).tokenize(bad_prompt)


@pytest.mark.refusal
def test_text_without_tokenizer_is_refused() -> None:
    with pytest.raises(PromptError, match="has no tokenizer"):
        make_model("llama").tokenize("w5")


@pytest.mark.refusal
def test_unsupported_architecture_lists_the_supported_ones(tmp_path: Path) -> None:
    create_hf_model("bloom", seed=0, vocab_size=20, hidden_size=16, n_layer=1, n_head=2).save_pretrained(tmp_path / "m")
    with pytest.raises(UnsupportedModelError, match=r"'bloom' is not supported.*GPT-2.*Llama.*Gemma-3.*Pythia"):
        ag.load_model(tmp_path / "m")


@pytest.mark.refusal
def test_unsupported_options_are_refused() -> None:
    kind, config = FAMILY_CONFIGS["gpt2"]
    with pytest.raises(UnsupportedModelError, match="add_cross_attention"):
        LanguageModel(create_hf_model(kind, seed=0, **config, add_cross_attention=True))


@pytest.mark.refusal
def test_attention_that_looks_ahead_is_refused(prompt: list[int]) -> None:
    model = make_model("gpt2")
    attention = model.hf_model.transformer.h[1].attn

    def look_ahead(module: torch.nn.Module, args: object, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return output[0], torch.full_like(output[1], 1 / len(prompt))

    with attention.register_forward_hook(look_ahead), pytest.raises(UnsupportedModelError, match="layer 1 looks ahead"):
        model.run(torch.tensor(prompt))


@pytest.mark.refusal
def test_unreadable_models_are_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such folder"):
        ag.load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        ag.load_model(tmp_path / "empty")
    weights = load_file(model_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelLoadError, match=r"do not fit its config\.json: .*layers\.1\.mlp\.up_proj\.weight is missing"
    ):
        ag.load_model(model_folder)
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        ag.load_model(model_folder)
    path.unlink()
    (model_folder / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ModelLoadError, match=r"holds no \*\.safetensors"):
        ag.load_model(model_folder)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.T, r"its config\.json: NAME has shape \[40, 24\], expected \[24, 40\]; download both"),
        (lambda w: w[:0], r"NAME has shape \[0, 40\], expected \[24, 40\]"),
        (lambda w: w.to(torch.int8), r"model\.safetensors: NAME is I8; expected floating-point weights"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    change: Callable[[torch.Tensor], torch.Tensor], said: str, model_folder: Path
) -> None:
    name, path = "model.layers.1.mlp.down_proj.weight", model_folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, name: change(weights[name]).clone().contiguous()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=said.replace("NAME", re.escape(name))):
        ag.load_model(model_folder)


@pytest.mark.refusal
def test_nan_weights_are_refused_when_they_show(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
    model = ag.load_model(model_folder, transcoders=make_transcoders())
    with pytest.raises(ResultError, match="weights hold NaN"):
        ag.trace(model, [5, 6])


@pytest.mark.refusal
def test_wrong_settings_are_refused(model_folder: Path) -> None:
    with pytest.raises(AttrGraphError, match="dtype is 'int8'"):
        ag.load_model(model_folder, dtype="int8")
    with pytest.raises(AttrGraphError, match="device 'cuda:99' is not available"):
        ag.load_model(model_folder, device="cuda:99")
    with pytest.raises(TranscoderError, match="were they trained on another model"):
        ag.load_model(model_folder, transcoders=make_transcoders(n_layers=N_LAYERS + 1))


def test_loading_needs_no_code_from_the_folder(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    (model_folder / "config.json").write_text(json.dumps(config))
    (model_folder / "evil.py").write_text("raise SystemExit('code from the folder ran')")
    assert ag.load_model(model_folder).n_layers == N_LAYERS


def test_code_in_a_folder_never_runs_even_if_the_user_would_agree(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers asks on stdin whether to run code for model types it does not know; it must not get to ask."""
    config = json.loads((model_folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (model_folder / "config.json").write_text(json.dumps(config))
    (model_folder / "evil.py").write_text("print('code from the folder ran')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 5))
    assert main(["trace", "w5", "--model", str(model_folder), "--transcoders", "demo"]) == 1
    out, err = capsys.readouterr()
    assert "not a configuration that transformers knows" in err
    assert "code from the folder ran" not in out + err and "[y/N]" not in out + err


@pytest.mark.refusal
def test_training_mode_and_foreign_projections_are_refused() -> None:
    model = make_model("gpt2")
    with pytest.raises(UnsupportedModelError, match=r"call \.eval"):
        LanguageModel(model.hf_model.train())
    model.hf_model.eval()

    class Linear(torch.nn.Module):
        """As adapters do: the name of a linear layer, the weight elsewhere."""

        weight = torch.zeros(D_VOCAB, 24)

    model.hf_model.lm_head = Linear()
    with pytest.raises(UnsupportedModelError, match="expected a plain Linear"):
        LanguageModel(model.hf_model)


def test_deviation_is_measured_against_the_models_own_logits(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("qwen2")
    head = model.hf_model.lm_head
    with head.register_forward_hook(lambda module, args, out: out + 0.5 * torch.arange(D_VOCAB)):
        graph = ag.trace(model, prompt, allow_inexact=True)
    assert graph.metadata["checks"]["logit_deviation"] == pytest.approx(0.5 * (D_VOCAB - 1), rel=1e-3)


@pytest.mark.refusal
def test_a_model_of_a_million_layers_is_refused_at_once(tmp_path: Path) -> None:
    make_model("llama").hf_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    with pytest.raises(AttrGraphError, match="says 1000000 layers; expected 1 to 1000"):
        ag.load_model(tmp_path)


@pytest.mark.refusal
@pytest.mark.parametrize("verb", ["trace", "intervene", "generate"])
def test_what_autocast_would_compute_in_another_type_is_refused(verb: str) -> None:
    model = ag.load_model(make_model("llama").hf_model, make_transcoders())
    nodes = [ag.Intervention("0_-1_2", scale=2.0)] if verb != "trace" else []
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UnsupportedModelError, match=r"autocast is on.*outside"):
        getattr(ag, verb)(model, [1, 5, 9, 2], *nodes)
