"""Models whose layers run on several devices: everything is as on one, and no operation is given tensors of two."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from placed import CAN_PRETEND, PLACES, pretended_devices, spread
from texts import make_rows
from tiny import PROMPT, make_model, make_transcoders

import attrgraph as ag
from attrgraph.errors import UnsupportedModelError
from attrgraph.evaluation import evaluate, neuron_baseline
from attrgraph.models.language_model import LanguageModel

pytestmark = pytest.mark.skipif(not CAN_PRETEND, reason="this PyTorch knows no devices written in Python")
CHANGE = ag.Intervention([(1, 3, 7), (1, 3, 8)], value=2.0)
ROWS = make_rows((9, 5, 7))


@pytest.fixture(autouse=True)
def pretended_parts_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRGRAPH_KERNELS", "torch")
    for module in ("weights", "requirements"):
        monkeypatch.setattr(f"attrgraph.models.{module}.check_projection", lambda *args: None)
    # the model's forward is pretended to be its own
    for module in ("identity", "language_model"):
        monkeypatch.setattr(f"attrgraph.models.{module}.alterations", lambda hf_model: [])


def _spread(model: LanguageModel) -> LanguageModel:
    """The embeddings and the first layers on one device, the others on another."""
    body, layers = model.hf_model.get_submodule(model.family.body), model.layer_modules()
    parts = dict.fromkeys((one for one in body.children() if list(one.children()) != layers), PLACES[0])
    parts |= {layer: PLACES[i > 0] for i, layer in enumerate(layers)}
    parts |= dict.fromkeys((model.final_norm_module(), model.hf_model.get_output_embeddings()), PLACES[1])
    spread(parts, model.hf_model)
    return model


def _edges(model: LanguageModel) -> Any:
    return torch.from_numpy(ag.trace(model, PROMPT).adjacency.toarray())


def _placed(model: LanguageModel) -> Any:
    vector = torch.arange(24.0) - 11
    directions = [ag.Direction(vector, layer, 4) for layer in range(model.n_layers + 1)]
    features = [ag.FeatureTarget(layer, 3, -2) for layer in range(model.n_layers)]
    targets = [9, ag.At(3, ag.LogitDifference(4, 9)), ag.At(-2, vector), *directions, *features]
    return torch.from_numpy(ag.trace(model, PROMPT, targets=targets).adjacency.toarray())


def _loadings(model: LanguageModel) -> Any:
    graph = ag.trace(_loaded(make_model("llama")), PROMPT)
    logit = graph.nodes.query("kind == 'logit'").index[0]
    return torch.tensor(ag.head_loadings(graph, "0_-1_5", logit, model=model)["effect"])


def _evaluated(model: LanguageModel) -> Any:
    sets = (model.transcoders, neuron_baseline(model, [3.0] * model.n_layers, ROWS))
    return torch.tensor([[found.nmse, found.kl] for found in (evaluate(model, one, ROWS, n_graphs=0) for one in sets)])


QUESTIONS: dict[str, Callable[[LanguageModel], Any]] = {
    "trace": _edges,
    "targets": _placed,
    "heads": _loadings,
    "attention": lambda model: torch.tensor(ag.explain_attention(model, PROMPT, 2, 0, -1, -2).score),
    "free": lambda model: ag.intervene(model, PROMPT, CHANGE, mode="free").logits_after,
    "constrained": lambda model: ag.intervene(model, PROMPT, CHANGE).logits_after,
    "frozen": lambda model: ag.intervene(model, PROMPT, CHANGE, mode="frozen").logits_after,
    "generate": lambda model: torch.tensor(ag.generate(model, PROMPT, CHANGE, max_new_tokens=3).token_ids),
    "evaluate": _evaluated,
    "describe": lambda model: torch.tensor(ag.describe_features(model, ROWS)["2/3"]["act_max"]),
}


def _loaded(model: LanguageModel, **settings: Any) -> LanguageModel:
    return ag.load_model(model.hf_model, make_transcoders(**settings))


@pytest.mark.parametrize(("family", "question"), [*(("llama", name) for name in QUESTIONS), ("opt", "trace")])
def test_everything_is_as_on_one_device(family: str, question: str) -> None:
    expected = QUESTIONS[question](_loaded(make_model(family)))
    with pretended_devices():
        several = _spread(make_model(family))
        places = [parameter.device for parameter in several.hf_model.parameters()]
        assert set(places) == set(PLACES)
        assert torch.equal(QUESTIONS[question](_loaded(several)).cpu(), expected)
        assert places == [parameter.device for parameter in several.hf_model.parameters()]


def test_norms_after_parts_skips_and_patterns_that_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrgraph.attribution.prepare.keeps_patterns", lambda *args: False)
    how = {"write_point": "mlp.hook_out", "skip": True}
    expected = _edges(_loaded(make_model("gemma2"), **how))
    with pretended_devices():
        assert torch.equal(_edges(_loaded(_spread(make_model("gemma2")), **how)), expected)


@pytest.mark.refusal
def test_parts_that_nothing_brings_together_are_refused() -> None:
    hf_model = make_model("gpt2").hf_model
    with pretended_devices():
        hf_model.transformer.h[2].to(PLACES[1])
        with pytest.raises(UnsupportedModelError, match=r"on cpu and privateuseone:1, and nothing .*device_map=\"auto"):
            ag.load_model(hf_model)
