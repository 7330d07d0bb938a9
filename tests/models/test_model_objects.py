"""Models of transformers, however they were made: traced exactly, or refused in one line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from subwords import byte_level
from tiny import D_MODEL, D_VOCAB, FAMILY_CONFIGS, PROMPT, make_model, make_transcoders
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import attrgraph as ag
from attrgraph.data.activations import LiveRounds
from attrgraph.data.corpus import TokenRows
from attrgraph.data.self_generate import self_generate
from attrgraph.errors import AttrGraphError, ModelLoadError, PromptError, UnsupportedModelError
from attrgraph.models.hooks import asked_for_patterns
from attrgraph.models.language_model import LanguageModel
from attrgraph.training.train import train
from attrgraph.transcoders.training.train_config import TrainConfig

ODD: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}),
    ("llama", {"output_attentions": True, "output_hidden_states": True}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": 17, "n_positions": 27}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    ("mistral", {"sliding_window": 2}),
    ("qwen2", {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1}),
    ("gemma2", {"query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0}),
    ("gemma3", {"query_pre_attn_scalar": 7, "final_logit_softcapping": 2.0, "sliding_window": 1}),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True}),
]


def hf_model_of(family: str, implementation: str = "eager", **changed: Any) -> PreTrainedModel:
    kind, config = FAMILY_CONFIGS[family]
    torch.manual_seed(0)
    hf_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **config | changed), attn_implementation=implementation
    )
    for parameter in hf_model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    return hf_model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("family", "changed"), ODD)
def test_odd_configurations_are_exact(family: str, changed: dict[str, Any]) -> None:
    hf_model, prompt = hf_model_of(family, **changed), PROMPT * 3
    model = ag.load_model(hf_model, make_transcoders())
    graph = ag.trace(model, prompt, max_feature_nodes=50)
    assert graph.metadata["checks"]["is_exact"]
    with torch.no_grad():
        assert_close(model.run(torch.tensor(prompt)).logits, hf_model(torch.tensor([prompt])).logits[0, -1])
    with pytest.raises(PromptError, match="the model's context"):
        ag.trace(model, [5] * (model.n_context + 1))


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_any_attention_implementation_is_run_as_eager_and_left_as_it_was(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = ag.Intervention((1, 3, 7), value=2.0)

    def numbers(hf_model: PreTrainedModel) -> list[Any]:
        model = ag.load_model(hf_model, make_transcoders())
        graph, score = ag.trace(model, PROMPT), ag.explain_attention(model, PROMPT, 1, 0, -1, -2)
        effects = [ag.intervene(model, PROMPT, change, mode=mode) for mode in ("free", "frozen")]
        text = ag.generate(model, PROMPT, change, max_new_tokens=4).token_ids
        return [
            graph.adjacency.toarray(),
            score.score,
            *(effect.logits_after for effect in effects),
            torch.tensor(text),
        ]

    expected = numbers(hf_model_of("mistral"))
    for is_kept in (True, False):
        for module in ("attribution.prepare", "attribution.qk"):
            monkeypatch.setattr(f"attrgraph.{module}.keeps_patterns", lambda *args, kept=is_kept: kept)
        hf_model = hf_model_of("mistral", implementation)
        for found, wanted in zip(numbers(hf_model), expected, strict=True):
            assert_close(torch.as_tensor(found), torch.as_tensor(wanted))
        assert hf_model.config._attn_implementation == implementation


def test_a_model_object_is_taken_as_it_is() -> None:
    hf_model, tokenizer = hf_model_of("llama").to(torch.bfloat16), byte_level("<s>", bos="<s>")
    model = ag.load_model(hf_model, make_transcoders(), tokenizer=tokenizer, dtype=torch.bfloat16)
    assert (model.hf_model, model.tokenizer, model.dtype) == (hf_model, tokenizer, torch.bfloat16)
    assert ag.trace(model, PROMPT, max_feature_nodes=5).metadata["model"]["digest"].startswith("tensors-sha256:")


@pytest.mark.refusal
def test_what_is_asked_of_a_model_object_it_must_have() -> None:
    hf_model = hf_model_of("llama")
    assert ag.load_model(hf_model, device=torch.device("cpu"), dtype="torch.float32").hf_model is hf_model
    with pytest.raises(UnsupportedModelError, match="a LlamaModel gives no logits; load the model with AutoModelFor"):
        ag.load_model(hf_model.model)
    for how, said in (
        ({"dtype": torch.float64}, "dtype is float64, and the model that is given has float32"),
        ({"device": "cuda"}, "device is cuda, and the model that is given has cpu"),
        ({"revision": "main"}, "revision is main"),
        ({"dtype": torch.int8}, "dtype is 'int8'; expected one of"),
    ):
        with pytest.raises(AttrGraphError, match=said):
            ag.load_model(hf_model, **how)  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match=r"model is a torch\.nn\.modules\.linear\.Linear; expected a folder"):
        ag.load_model(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def _offloaded(hf_model: PreTrainedModel) -> PreTrainedModel:
    """As accelerate does: weights lie elsewhere, and are where the module is while it runs."""

    def run(
        module: torch.nn.Module, kept: dict[str, torch.Tensor], forward: Callable[..., Any], *args: Any, **how: Any
    ):
        for name, tensor in kept.items():
            setattr(module, name, torch.nn.Parameter(tensor))
        out = forward(*args, **how)
        for name, tensor in kept.items():
            setattr(module, name, torch.nn.Parameter(tensor.to("meta")))
        return out

    for module in hf_model.modules():
        kept = {name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}
        if kept:
            hook: Any = SimpleNamespace(execution_device="cpu", weights_map=kept)
            module._hf_hook = SimpleNamespace(hooks=(SimpleNamespace(), hook))  # several are one that has them all
            module.forward = partial(run, module, kept, module.forward)
            for name, tensor in kept.items():
                setattr(module, name, torch.nn.Parameter(tensor.to("meta")))
    return hf_model


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2"])
def test_offloaded_weights_are_read_where_they_lie(family: str) -> None:
    graphs = []
    for change in (lambda hf_model: hf_model, _offloaded):
        model = ag.load_model(change(hf_model_of(family)), make_transcoders(write_point="mlp.hook_out"))
        graphs.append(ag.trace(model, PROMPT, max_feature_nodes=20))
        assert (model.device, model.d_vocab) == (torch.device("cpu"), D_VOCAB)
    assert graphs[0].metadata["model"] == graphs[1].metadata["model"]
    assert_close(*(torch.from_numpy(graph.adjacency.toarray()) for graph in graphs), rtol=0, atol=0)


class _Packed(torch.nn.Linear):
    """A linear layer as bitsandbytes has them: the weight is packed, and the first run settles the type."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.bias, self.scale, self.compute_type = plain.bias, plain.weight.detach().abs().amax(1), None
        whole = (plain.weight.detach() * 127 / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole.view(torch.uint8).reshape(-1, 1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.compute_type = self.compute_type or x.dtype
        weight = self.weight.view(torch.int8).view(len(self.scale), -1) * self.scale[:, None] / 127
        return torch.nn.functional.linear(x.to(self.compute_type), weight.to(self.compute_type), self.bias).to(x.dtype)


_Packed.__module__ = "bitsandbytes.nn.modules"


class _Grouped(torch.nn.Module):
    """A linear layer as gptqmodel has them: no parameters, and it computes in what its scales are."""

    scales: torch.Tensor
    qweight: torch.Tensor

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, weight = plain.in_features, plain.out_features, plain.weight.detach().T
        self.register_buffer("scales", weight.abs().amax(0) / 7)
        self.register_buffer("qweight", (weight / self.scales).round().to(torch.int32))
        self.register_buffer("bias", None if plain.bias is None else plain.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x @ (self.qweight * self.scales)
        return out if self.bias is None else out.add_(self.bias)  # type: ignore[operator, no-any-return]


_Grouped.__module__ = "gptqmodel.nn_modules.qlinear.torch"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_gptqmodel_are_read_as_the_weights_that_they_compute_with(dtype: torch.dtype) -> None:
    hf_model = hf_model_of("llama", attention_bias=True).to(dtype)
    digests = [ag.load_model(hf_model).source["digest"]]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        for block in hf_model.model.layers:
            setattr(block.self_attn, name, _Grouped(getattr(block.self_attn, name)))
    model = ag.load_model(hf_model, make_transcoders())
    assert model.source["digest"] not in digests and model.precision == torch.bfloat16
    exact = 1e-5 if dtype == torch.float32 else 0.1  # of bfloat16, as without
    assert ag.trace(model, PROMPT).metadata["checks"]["input_sum_gap"] < exact
    assert ag.explain_attention(model, PROMPT, 1, 0, -1, -2).deviation < 2 * exact
    assert all(block.self_attn.v_proj.bias is not None for block in hf_model.model.layers)


def test_layers_of_bitsandbytes_are_read_as_the_weights_that_they_compute_with() -> None:
    hf_model = hf_model_of("llama", attention_bias=True)
    digest = ag.load_model(hf_model).source["digest"]
    for block in hf_model.model.layers:
        for name in ("q_proj", "v_proj", "o_proj"):
            setattr(block.self_attn, name, _Packed(getattr(block.self_attn, name)))
    model, attention = ag.load_model(hf_model, make_transcoders()), hf_model.model.layers[0].self_attn
    assert attention.v_proj.compute_type is None and model.source["digest"] != digest
    assert (model.dtype, model.precision) == (torch.float32, torch.bfloat16)
    graph = ag.trace(model, PROMPT)
    assert graph.metadata["checks"]["input_sum_gap"] < 1e-5 and attention.v_proj.bias is not None
    assert ag.explain_attention(model, PROMPT, 1, 0, -1, -2).deviation < 1e-4
    attention.v_proj = torch.nn.Linear(D_MODEL, 16)
    attention.v_proj.weight = torch.nn.Parameter(
        torch.zeros(16, D_MODEL).as_subclass(type("Int4", (torch.Tensor,), {}))
    )
    with pytest.raises(UnsupportedModelError, match=r"v_proj is a torch.*Linear, whose weight is a Int4; .*torchao"):
        ag.load_model(hf_model)


class _Int8(torch.Tensor):
    """A weight as torchao packs it: a tensor that is made of others."""

    act_quant_kwargs: object = None

    @staticmethod
    def __new__(cls: type["_Int8"], qdata: torch.Tensor, scale: torch.Tensor, act_quant_kwargs: object) -> "_Int8":
        new: Any = torch.Tensor._make_wrapper_subclass
        found: _Int8 = new(cls, qdata.shape, dtype=scale.dtype, device=scale.device)
        found.qdata, found.scale, found.act_quant_kwargs = qdata, scale, act_quant_kwargs
        return found

    qdata: torch.Tensor
    scale: torch.Tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["qdata", "scale"], None

    def dequantize(self) -> torch.Tensor:  # type: ignore[override]
        return self.qdata * self.scale

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is torch.ops.aten.detach.default:
            return cls(args[0].qdata, args[0].scale, args[0].act_quant_kwargs)
        return call(*tree_map_only(cls, cls.dequantize, args), **(kwargs or {}))


_Int8.__module__ = "torchao.quantization"


def _pack(layer: torch.nn.Module, rounding: object = None) -> None:
    weight: torch.Tensor = layer.weight.detach()  # type: ignore[assignment, operator]
    scale = weight.abs().amax(1, keepdim=True) / 127
    layer.weight = torch.nn.Parameter(_Int8((weight / scale).round().to(torch.int8), scale, rounding), False)


def test_weights_of_torchao_are_read_as_what_they_stand_for() -> None:
    found = {}
    for rounding in (None, "to int8"):
        hf_model = hf_model_of("llama", attention_bias=True)
        for module in hf_model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                _pack(module, rounding)
        model = ag.load_model(hf_model, make_transcoders())
        graph = ag.trace(model, PROMPT)
        assert graph.metadata["checks"]["logit_deviation"] < 1e-4
        assert ag.explain_attention(model, PROMPT, 1, 0, -1, -2).deviation < 1e-4
        found[graph.metadata["model"]["digest"]] = model.precision
        weight: Any = hf_model.model.layers[0].self_attn.q_proj.weight
        weight.qdata[0, 0] += 1
        assert graph.metadata["model"]["digest"] != model.source["digest"]
    assert list(found.values()) == [torch.float32, torch.bfloat16]


def _adapted(hf_model: Any) -> torch.nn.Linear:
    """The class of a linear layer as peft makes it."""
    kind = type("Linear", (torch.nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    hf_model.transformer.h[1].mlp.c_fc = kind(D_MODEL, 4 * D_MODEL)
    return hf_model  # type: ignore[no-any-return]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("merge_and_unload", r"pass model\.merge_and_unload\(\), or copy\.deepcopy\(model\)\.merge_and_unload"),
        ("_orig_mod", r"pass model\._orig_mod"),
        ("module", r"pass model\.module"),
    ],
)
def test_a_model_inside_another_is_refused_with_what_to_type(name: str, said: str) -> None:
    wrapper = torch.nn.Module()
    setattr(wrapper, name, hf_model_of("gpt2"))
    with pytest.raises(ModelLoadError, match=rf"model is a torch.*: {said}") as found:
        ag.load_model(wrapper)  # type: ignore[arg-type]
    assert "\n" not in str(found.value)


def _without_patterns(hf_model: Any) -> None:
    attention = hf_model.transformer.h[1].attn
    attention.__class__ = type("GPT2FlashAttention2", (type(attention),), {})


def _train_one_attention(hf_model: PreTrainedModel) -> None:
    hf_model.transformer.h[1].attn.train()


def _train_one_dropout(hf_model: PreTrainedModel) -> None:
    hf_model.transformer.drop.train()


def _offload(hf_model: PreTrainedModel) -> None:
    hf_model.transformer.h[2].to("meta")


def _drop_a_layer(hf_model: PreTrainedModel) -> None:
    del hf_model.transformer.h[2]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda hf_model: hf_model.train(), "the model is in training mode, where dropout is random"),
        (_train_one_attention, r"transformer\.h\.1\.attn is in training mode"),
        (_train_one_dropout, r"transformer\.drop is in training mode"),
        (_offload, 'the model\'s weights lie on cpu and meta, and nothing brings them together; .* device_map="auto"'),
        (_adapted, r"transformer\.h\.1\.mlp\.c_fc has an adapter .*merged weights: peft_model\.merge_and_unload"),
        (lambda hf_model: hf_model.transformer.ln_f.double(), r"float32 \(.*\) and float64 \(transformer\.ln_f\.bias"),
        (lambda hf_model: setattr(hf_model.config, "return_dict", False), r"set model\.config\.return_dict = True"),
        (
            _without_patterns,
            'a GPT2FlashAttention2, which gives no patterns; load .*attn_implementation="eager"',
        ),
        (_drop_a_layer, "the model has 2 layers, its configuration says num_hidden_layers=3"),
    ],
)
def test_models_that_cannot_run_twice_alike_are_refused(change: Callable[[Any], Any], said: str) -> None:
    hf_model = hf_model_of("gpt2")
    change(hf_model)
    with pytest.raises(UnsupportedModelError, match=said):
        LanguageModel(hf_model)


@pytest.mark.refusal
def test_dropout_that_is_turned_on_later_is_found_before_the_next_work(tmp_path: Path) -> None:
    model = make_model("llama")
    model.transcoders = make_transcoders()
    model.hf_model.model.layers[1].self_attn.train()
    for run in (ag.trace, ag.estimate, lambda *args: ag.explain_attention(*args, 1, 0, -1, -2)):
        with pytest.raises(UnsupportedModelError, match=r"layers\.1\.self_attn is in training mode"):
            run(model, PROMPT)
    rows = [torch.tensor(PROMPT)]
    for work in (
        lambda: self_generate(model, 20),
        lambda: LiveRounds(model, rows, round_tokens=20),
        lambda: ag.describe_features(model, TokenRows(rows, [0], {})),
        lambda: train(model, TokenRows(rows, [0], {}), TokenRows(rows, [0], {}), tmp_path / "t", TrainConfig(24, 4.0)),
    ):
        with pytest.raises(UnsupportedModelError, match=r"layers\.1\.self_attn is in training mode"):
            work()
        model.hf_model.eval()
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(UnsupportedModelError, match="autocast is on"):
            work()
        model.hf_model.model.layers[1].self_attn.train()
    assert not list(tmp_path.iterdir())
    # a new layer that somebody put in drops nothing
    model.hf_model.eval()
    model.hf_model.model.layers[1].mlp.up_proj = torch.nn.Linear(D_MODEL, 40)
    assert ag.trace(model, PROMPT, max_feature_nodes=5).metadata["checks"]["is_exact"]


def test_attention_that_gives_its_pattern_only_when_asked_is_asked() -> None:
    class Shy(torch.nn.Module):
        def forward(
            self, hidden_states: torch.Tensor, output_attentions: bool = False
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            return hidden_states, hidden_states if output_attentions else None

    shy, plain, x = Shy(), torch.nn.Identity(), torch.ones(1)
    with asked_for_patterns([shy, plain]):
        assert shy(x, output_attentions=False)[1] is x and plain(x) is x
    assert shy(x)[1] is None
