"""How much of a graph comes from the bias node: by brute force, and where an answer is caused by what is off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boolean_toy import make_boolean_toy, prompt_of

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.influence.influence import bias_share
from attrgraph.models.language_model import LanguageModel


@pytest.mark.parametrize("settings", [{}, {"cross_layer": False, "activation": "jumprelu"}], ids=["clt", "plt"])
def test_shares_are_those_of_the_dense_edges(
    settings: dict[str, Any], traced_model: Callable[..., LanguageModel], prompt: list[int]
) -> None:
    graph = ag.trace(traced_model(**settings), prompt, max_feature_nodes=20)
    shares, kinds = np.abs(graph.adjacency.toarray().astype(np.float64)), graph.nodes["kind"].to_numpy()
    sums = shares.sum(1, keepdims=True)
    shares = np.divide(shares, sums, out=np.zeros_like(shares), where=sums > 0)
    # stored in float32 and summed in float64
    np.testing.assert_allclose(graph.nodes["bias_share"], shares[:, kinds == "bias"][:, 0], rtol=1e-6)
    over_paths = graph.weights @ (np.linalg.inv(np.eye(len(shares)) - shares) - np.eye(len(shares)))
    of_ends = over_paths[kinds == "bias"].sum() / over_paths[np.isin(kinds, ("bias", "error", "embedding"))].sum()
    assert graph.metadata["checks"]["bias_share"] == pytest.approx(of_ends) and 0.01 < of_ends < 0.99


def test_the_share_follows_what_is_taken_out(traced_model: Callable[..., LanguageModel], prompt: list[int]) -> None:
    graph = ag.trace(traced_model(), prompt, max_feature_nodes=20)
    rest, before = graph.without(graph.nodes.index[:5]), graph.metadata["checks"]["bias_share"]
    now = rest.metadata["checks"]["bias_share"]
    assert now == bias_share(rest.nodes, rest.adjacency) != before == graph.metadata["checks"]["bias_share"]
    assert "bias_share" not in graph.without(graph.select(kind="bias")).metadata["checks"]
    united = ag.union([graph, rest])
    assert united.metadata["checks"]["bias_share"] == pytest.approx((now + before) / 2)


def test_an_answer_of_features_that_are_off_comes_from_the_bias_alone() -> None:
    """`x and y and z` is false because nothing is active: no token explains the answer, whatever the scores say."""
    graph = ag.trace(make_boolean_toy(is_cross_layer=True), prompt_of(True, False, False))
    assert graph.scores().completeness == 1.0
    assert graph.metadata["checks"]["bias_share"] == 1.0
    assert set(graph.nodes.loc[graph.nodes["kind"] == "logit", "bias_share"]) == {1.0}


def test_nothing_comes_from_nothing() -> None:
    graph = ag.trace(make_boolean_toy(is_cross_layer=True), prompt_of(True, True, True))
    empty = graph.replace(adjacency=graph.adjacency * 0)
    assert bias_share(empty.nodes, empty.adjacency) == 0.0


@pytest.mark.doors
def test_files_summaries_and_reports_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = make_boolean_toy(is_cross_layer=True)
    graph = ag.trace(toy, prompt_of(True, True, True))
    pruned = graph.prune()
    for name in ("g.safetensors", "g.json"):
        ag.export_graph(pruned, tmp_path / name)
        again = ag.load_graph(tmp_path / name)
        assert again.nodes["bias_share"].to_dict() == pruned.nodes["bias_share"].to_dict()
    assert main(["info", str(tmp_path / "g.json")]) == 0
    assert "bias         61.6% of the answer comes from constants" in capsys.readouterr().out
    fast: dict[str, Any] = {"mode": "frozen", "modes": ["frozen"], "n_controls": 0, "n_resamples": 10, "n_paths": 1}
    found = ag.validate(toy, graph, **fast)
    assert "leave out the 62% of the answer that come from the bias" in found.verdict[1].text
    for share, level in ((0.95, "weak"), (0.2, "good")):
        checks = graph.metadata["checks"] | {"bias_share": share}
        judged = ag.validate(toy, graph.replace(metadata=graph.metadata | {"checks": checks}), **fast).verdict[1]
        assert judged.level == level and ("leave out" in judged.text) == (share > 0.5)
