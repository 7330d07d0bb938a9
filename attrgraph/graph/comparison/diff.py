"""What two graphs have in common, and what only one of them has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from attrgraph.errors import checked
from attrgraph.graph.comparison import side_by_side
from attrgraph.graph.comparison.alignment import KEY, Pair, check_comparable, keyed, placed_edges
from attrgraph.graph.comparison.alignment import align as positions_of
from attrgraph.graph.comparison.differences import differences
from attrgraph.influence.influence import row_shares
from attrgraph.schema import answer_of, unique_names
from attrgraph.viz import diff_dot

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

STATUSES = ("common", "left", "right")


@dataclass(frozen=True, eq=False)
class Diff:
    """Two graphs, node by node and edge by edge.

    A node is the same if its kind, layer, feature (of embeddings and logits: token) and place are; logits are at the
    last place always. Bias nodes are left out. `status` is "common", "left" (in the left graph only) or "right". What
    a graph does not have is NaN there and counts as 0 in `delta`, which is right minus left. In a pruned graph what is
    not there may just be weak: compare graphs as traced where that matters.

    Attributes:
        left, right: the graphs.
        places: one row a place: `left_pos`, `right_pos` (-1 if the prompt has no position there), `left_token`,
            `right_token` ("" then).
        nodes: index `node` (the id, with the place for the position). Columns: `kind`, `layer`, `place`, `feature`,
            `label`, `status`, then `activation` and `influence` as `_left`, `_right` and `_delta`.
        edges: columns `source` and `target` (of `nodes`), `status`, `weight_left`, `weight_right`, `weight_delta`,
            `share_left`, `share_right` (of the target's |input|).
        notes: how the graphs were made otherwise, as far as they say: other models or transcoders, precision, settings;
            and what cannot be verified. Graph 1 is the left one.
        matches: rows of the same node in the left and the right graph.
    """

    left: "Graph"
    right: "Graph"
    places: pd.DataFrame
    nodes: pd.DataFrame
    edges: pd.DataFrame
    notes: list[str]
    matches: Int[np.ndarray, "n_common 2"]

    def __repr__(self) -> str:
        nodes, edges = (
            ", ".join(f"{int((table['status'] == status).sum())} {status}" for status in STATUSES)
            for table in (self.nodes, self.edges)
        )
        return f"Diff(nodes: {nodes}; edges: {edges})"

    def summary(self) -> dict[str, Any]:
        """The comparison in numbers that JSON can hold; None where there is nothing to divide by.

        `nodes`, `edges`: how many of each status, and `jaccard`: common over all. `influence_overlap`: the sum over
        nodes of the smaller share of influence, over the sum of the larger one; each graph's influence is divided by
        its sum. `edge_correlation`: Pearson's, of the weights of common edges. `left_answer`, `right_answer`: the most
        probable logits' tokens, and `is_answer_changed`. `notes`: see `Diff`.
        """
        shares = [self.nodes[f"influence_{side}"].fillna(0).to_numpy() for side in ("left", "right")]
        ours, theirs = (each / each.sum() if each.sum() > 0 else each for each in shares)
        common = self.edges[self.edges["status"] == "common"]
        answers = [_answer(graph) for graph in (self.left, self.right)]
        return {
            "nodes": _counts(self.nodes),
            "edges": _counts(self.edges),
            "influence_overlap": _overlap(ours, theirs),
            "edge_correlation": _correlation(common["weight_left"].to_numpy(), common["weight_right"].to_numpy()),
            "left_answer": answers[0],
            "right_answer": answers[1],
            "is_answer_changed": answers[0] != answers[1],
            "notes": self.notes,
        }

    to_dot = diff_dot.to_dot
    explore = side_by_side.explore_both


@checked
def diff(left: "Graph", right: "Graph", *, align: str = "end") -> Diff:
    """Compare two graphs of one model and its transcoders; see `Diff`.

    Args:
        left, right: of two prompts, or of one prompt traced twice; pruned or not.
        align: which positions correspond: `end`: counted from the end; `start`: from the start; `tokens`: equal
            tokens do, as `difflib` matches them, and what stands between them from its end.

    Raises:
        AttrGraphError: an unknown alignment, or graphs with other numbers of layers.

    Example:
        >>> import attrgraph as ag
        >>> model = ag.load_model("demo")
        >>> prompt = "in the state containing {} the capital is"
        >>> graphs = [ag.trace(model, prompt.format(city)).prune() for city in ("dallas", "chicago")]
        >>> ag.diff(*graphs).summary()["right_answer"]
        'springfield'
    """
    check_comparable([left, right])
    notes = differences([left, right])
    left, right = left.without_bias(), right.without_bias()
    pairs = positions_of(left.prompt_tokens, right.prompt_tokens, align)
    tables = []
    for side, graph in enumerate((left, right)):
        place_of = {pair[side]: place for place, pair in enumerate(pairs)}
        tables.append(keyed(graph, [place_of[pos] for pos in range(len(graph.prompt_tokens))], len(pairs)))
    nodes = _nodes(*tables)
    edges = _edges(nodes, left, right)
    at = nodes[["at_left", "at_right"]].to_numpy()
    nodes = nodes.drop(columns=["at_left", "at_right"])
    return Diff(left, right, _places(pairs, left, right), nodes, edges, notes, at[(at >= 0).all(1)])


def _places(pairs: list[Pair], left: "Graph", right: "Graph") -> pd.DataFrame:
    columns: dict[str, list[Any]] = {}
    for name, graph, side in (("left", left, 0), ("right", right, 1)):
        columns[f"{name}_pos"] = [-1 if pair[side] is None else pair[side] for pair in pairs]
        columns[f"{name}_token"] = ["" if pos < 0 else graph.prompt_tokens[pos] for pos in columns[f"{name}_pos"]]
    order = ["left_pos", "right_pos", "left_token", "right_token"]
    return pd.DataFrame(columns, index=pd.RangeIndex(len(pairs), name="place"))[order]


def _nodes(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The nodes of both in an order that does not depend on which is left; `at_` is their row in each graph."""
    columns = [*KEY, "activation", "influence", "label", "name", "at"]
    ours, theirs = (table.reset_index()[columns] for table in (ours, theirs))
    both = _joined(ours, theirs, on=KEY, measured=["activation", "influence"])
    both = both.sort_values(["layer", "place", "kind", "feature", "copy"])
    labels = [both["label_left"].fillna(both["label_right"]), both["label_right"].fillna(both["label_left"])]
    # a logit's label holds its probability in its own graph; which one is taken must not depend on which is left
    both["label"] = [min(pair) for pair in zip(*labels, strict=True)]
    for side in ("left", "right"):
        both[f"at_{side}"] = both[f"at_{side}"].fillna(-1).astype("int64")
    names = both["name_left"].fillna(both["name_right"])
    both.index = pd.Index(unique_names(names.tolist()), name="node", dtype="str")
    measured = [f"{name}_{of}" for name in ("activation", "influence") for of in ("left", "right", "delta")]
    return both[["kind", "layer", "place", "feature", "label", "status", *measured, "at_left", "at_right"]]


def _edges(nodes: pd.DataFrame, left: "Graph", right: "Graph") -> pd.DataFrame:
    parts = []
    for side, graph in (("left", left), ("right", right)):
        edges, target, source = placed_edges(graph, nodes[f"at_{side}"].to_numpy())
        ends = {"target": target, "source": source}
        values = {"weight": edges.data.astype(np.float64), "share": row_shares(graph.adjacency).data}
        parts.append(pd.DataFrame(ends | values))
    both = _joined(*parts, on=["target", "source"], measured=["weight"])
    names = nodes.index.to_numpy()
    for end in ("source", "target"):
        both[end] = names[both[end].to_numpy(dtype=np.int64)]
    weights = ["weight_left", "weight_right", "weight_delta"]
    return both[["source", "target", "status", *weights, "share_left", "share_right"]].reset_index(drop=True)


def _joined(ours: pd.DataFrame, theirs: pd.DataFrame, *, on: list[str], measured: list[str]) -> pd.DataFrame:
    """Rows of both tables, sorted by what they are joined on: columns of each, `status`, and the change of some."""
    both = ours.merge(theirs, how="outer", on=on, suffixes=("_left", "_right"), indicator="status")
    both["status"] = both["status"].map({"both": "common", "left_only": "left", "right_only": "right"}).astype("str")
    for name in measured:
        both[f"{name}_delta"] = both[f"{name}_right"].fillna(0) - both[f"{name}_left"].fillna(0)
    return both


def _counts(table: pd.DataFrame) -> dict[str, Any]:
    counts: dict[str, Any] = {status: int((table["status"] == status).sum()) for status in STATUSES}
    return {**counts, "jaccard": counts["common"] / len(table) if len(table) else None}


def _overlap(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    whole = np.maximum(ours, theirs).sum()
    return float(np.minimum(ours, theirs).sum() / whole) if whole > 0 else None


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def _answer(graph: "Graph") -> str | None:
    return answer_of(graph.nodes, graph.metadata)[0] if (graph.nodes["kind"] == "logit").any() else None
