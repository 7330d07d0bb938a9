"""Numbers that callers give: whole ones where they are asked for, no truth values, no NaN, and none of numpy's kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_graphs import Case

import attrgraph as ag
from attrgraph.attribution.trace_settings import TraceSettings
from attrgraph.errors import AttrGraphError

NAN, TRUE = float("nan"), np.bool_(True)
NO_WHOLE = (1.5, 2.0, NAN, True, TRUE, "1", None, -1, np.float32(2))
NO_SHARE = (-0.1, 1.1, NAN, True, TRUE, "0.5", [0.5], np.float32("nan"))


@pytest.fixture
def graph() -> ag.Graph:
    return Case(5, 2, 3, 0.8, seed=1).build()


WHOLE: dict[str, Callable[[ag.Graph, Any], Any]] = {
    "hops": lambda graph, x: graph.neighborhood("E_5_0", hops=x),
    "k": lambda graph, x: graph.paths(k=x),
    "min_count": lambda graph, x: ag.union([graph, graph, graph], min_count=x),
    "max_n_logits": lambda _, x: TraceSettings(max_n_logits=x),
    "max_feature_nodes": lambda _, x: TraceSettings(max_feature_nodes=x),
    "n": lambda graph, x: graph.auto_groups(n=3 if x is None else x),
}
SHARES: dict[str, Callable[[ag.Graph, Any], Any]] = {
    "node_threshold": lambda graph, x: graph.prune(x),
    "edge_threshold": lambda graph, x: graph.prune(0.8, x),
    "min_share": lambda graph, x: graph.neighborhood("E_5_0", min_share=x),
    "desired_logit_prob": lambda _, x: TraceSettings(desired_logit_prob=x),
    "min_score": lambda graph, x: graph.auto_groups(min_score=x),
    "drawn": lambda graph, x: graph.to_dot(min_share=x),
}


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("ask", "wrong", "right"),
    [
        *((ask, NO_WHOLE, np.int64(2)) for ask in WHOLE.values()),
        *((ask, NO_SHARE, np.float16(1)) for ask in SHARES.values()),
    ],
    ids=[*WHOLE, *SHARES],
)
def test_what_is_no_such_number_is_refused(
    ask: Callable[[ag.Graph, Any], Any], wrong: tuple[Any, ...], right: Any, graph: ag.Graph
) -> None:
    for value in wrong:
        if value is None and ask is WHOLE["n"]:  # which is the default there
            continue
        with pytest.raises(AttrGraphError, match=r"expected a (whole )?number (of at least|from 0 to 1)") as error:
            ask(graph, value)
        assert len(str(error.value).splitlines()) == 1
    ask(graph, right)


@pytest.mark.refusal
@pytest.mark.parametrize("criterion", [True, NAN, (NAN, None), [1, True], slice(0, NAN)])
def test_criteria_are_numbers(criterion: Any, graph: ag.Graph) -> None:
    with pytest.raises(AttrGraphError, match="expected a number, a list of numbers"):
        graph.select(layer=criterion)


@pytest.mark.refusal
@pytest.mark.parametrize("limit", [True, 1.5, NAN, 0, "1G"])
def test_the_largest_file_is_a_number_of_bytes(limit: Any, graph: ag.Graph, tmp_path: Path) -> None:
    graph.to_json(tmp_path / "g.json")
    with pytest.raises(AttrGraphError, match=r"max_bytes is .*; expected a whole number of at least 1"):
        ag.load_graph(tmp_path / "g.json", max_bytes=limit)


@pytest.mark.doors
def test_numbers_of_numpy_can_be_saved(graph: ag.Graph, tmp_path: Path) -> None:
    thresholds = np.array([0.5, 0.75], dtype=np.float32)
    part = ag.union([graph.prune(*thresholds)] * 2, min_count=np.int64(2))
    for name in ("g.safetensors", "g.json"):
        ag.export_graph(part, tmp_path / name)
        again = ag.load_graph(tmp_path / name).metadata
        assert again["pruning"] == {"node_threshold": 0.5, "edge_threshold": 0.75} and again["union"]["min_count"] == 2
    assert type(TraceSettings(max_n_logits=np.int64(3)).max_n_logits) is int
