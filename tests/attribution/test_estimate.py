"""Counts of an estimate are those of the trace; its seconds are held by a benchmark, not here."""

import json
from collections.abc import Callable

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import AttrGraphError, TranscoderError
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]


@pytest.mark.parametrize("max_feature_nodes", [0, 30, 600, 100_000])
@pytest.mark.parametrize("is_cross_layer", [True, False])
def test_counts_are_those_of_the_trace(
    traced_model: Build, prompt: list[int], max_feature_nodes: int, is_cross_layer: bool
) -> None:
    model = traced_model("gpt2", cross_layer=is_cross_layer)
    cost = ag.estimate(model, prompt, max_feature_nodes=max_feature_nodes)
    graph = ag.trace(model, prompt, max_feature_nodes=max_feature_nodes)
    selection = graph.metadata["selection"]
    assert (cost.n_tokens, cost.n_nodes) == (len(graph.prompt_tokens), len(graph.nodes))
    assert (cost.n_active, cost.n_selected) == (selection["n_active"], selection["n_selected"])
    n_rows = graph.nodes["kind"].isin(["feature", "logit"]).sum()
    n_columns = cost.n_active + graph.nodes["kind"].isin(["error", "embedding", "bias"]).sum()
    assert cost.bytes["edges"] > n_rows * n_columns * 4
    assert cost.bytes["graph"] >= graph.adjacency.nnz * 12
    assert cost.bytes["edges"] <= cost.peak_bytes - cost.bytes["run"] <= sum(cost.bytes.values())
    assert cost.total_bytes - cost.peak_bytes == cost.process_bytes > 2**20


@pytest.mark.refusal
def test_what_trace_refuses_is_refused(traced_model: Build, prompt: list[int]) -> None:
    with pytest.raises(AttrGraphError, match="rows of edges"):
        ag.estimate(traced_model(), prompt, memory_budget="100K")
    with pytest.raises(AttrGraphError, match="desired_logit_prob is 7"):
        ag.estimate(traced_model(), prompt, desired_logit_prob=7.0)
    model = traced_model()
    with pytest.raises(TranscoderError, match="has no transcoders"):
        ag.estimate(LanguageModel(model.hf_model), prompt)


def test_the_verb_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "in the state containing dallas the capital is"
    assert main(["estimate", prompt]) == 0
    printed = capsys.readouterr().out
    assert main(["estimate", prompt, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert printed.startswith(f"tokens    {cost['n_tokens']}\nfeatures  {cost['n_active']} active")
    assert set(cost["bytes"]) == {"weights", "run", "edges", "graph"}
