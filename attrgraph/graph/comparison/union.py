"""Many graphs in one: which nodes and edges recur, and with what weights."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph.comparison.alignment import ALIGNMENTS, KEY, check_comparable, keyed, unique_names
from attrgraph.influence.influence import cumulative_share
from attrgraph.schema import node_label, node_table

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# half the width of a 95% interval, in standard deviations of a normal distribution
_Z = 1.959963984540054
_WAYS = tuple(way for way in ALIGNMENTS if way != "tokens")


def union(graphs: "Iterable[Graph]", *, min_count: int = 1, align: str = "end") -> "Graph":
    """The nodes that occur in at least `min_count` graphs, with mean weights.

    Nodes are the same as in `Diff`. What a row of the result says is the mean over the graphs that have its target, in
    which an edge that is not there counts as 0; so, of graphs as traced and with min_count=1, edges into a node still
    sum to its activation:

        A[t, s] = sum over graphs with t of A_g[t, s] / number of graphs with t

    `activation` is the mean over the graphs that have the node; `influence` and `probability` are means over all
    graphs, 0 where a node is not there, so that all probabilities still sum to 1 at most; `cumulative_influence`
    follows from these. A position's token is what most graphs have there, the first of these on a tie. Logits stay
    however few graphs have them: influence is on them.

    `metadata["union"]` has `n_graphs`, `min_count`, `align`, `prompts`, and what `union_nodes` and `union_edges` read.
    The latter is as long as there are edges: prune graphs of large models first.

    Args:
        graphs: of one model and its transcoders; pruned or not.
        min_count: in how many graphs a node must be.
        align: which positions correspond: `end`: counted from the end; `start`: from the start. The result has as
            many positions as the longest prompt.

    Raises:
        AttrGraphError: no graph, a number out of range, an unknown alignment, or graphs with other layers or
            transcoders.
    """
    graphs = list(graphs)
    if not graphs:
        raise AttrGraphError("union of no graph; give at least one.")
    if not 1 <= min_count <= len(graphs):
        raise AttrGraphError(f"min_count is {min_count}; expected 1 to {len(graphs)}, the number of graphs.")
    if align not in _WAYS:
        raise AttrGraphError(f"align={align!r}; expected one of {', '.join(_WAYS)}.")
    check_comparable(graphs)
    n_pos = max(len(graph.prompt_tokens) for graph in graphs)
    offsets = [n_pos - len(graph.prompt_tokens) if align == "end" else 0 for graph in graphs]
    tokens = _tokens(graphs, offsets, n_pos)
    tables = []
    for graph, offset in zip(graphs, offsets, strict=True):
        places = [offset + pos for pos in range(len(graph.prompt_tokens))]
        tables.append(keyed(graph, places, n_pos))
    keys, rows = _kept(tables, min_count)
    nodes, statistics = _nodes(tables, keys, rows, tokens)
    adjacency, edge_statistics = _adjacency(graphs, rows)
    about = {
        "n_graphs": len(graphs),
        "min_count": min_count,
        "align": align,
        "prompts": [str(graph.metadata.get("prompt") or " ".join(graph.prompt_tokens)) for graph in graphs],
        "nodes": statistics,
        "edges": {
            "target": nodes.index.to_numpy()[edge_statistics.pop("row")].tolist(),
            "source": nodes.index.to_numpy()[edge_statistics.pop("column")].tolist(),
            **{name: values.tolist() for name, values in edge_statistics.items()},
        },
    }
    metadata = {**_shared_metadata(graphs), "union": about}
    return graphs[0].replace(nodes=nodes, adjacency=adjacency, prompt_tokens=tokens, metadata=metadata)


def union_nodes(graph: "Graph") -> pd.DataFrame:
    """How often each node of a union occurs.

    Returns:
        Index `node_id`. Columns: `count` (of graphs), `presence` (share of graphs), `presence_low` and `presence_high`
        (Wilson's 95% interval, as if graphs were drawn at random), `influence_mean` and `influence_std` (over all
        graphs, 0 where it is not there; the standard deviation is that of these graphs, divided by their number).

    Raises:
        AttrGraphError: the graph is no union.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22 (158)
    """
    about = _about(graph)
    table = pd.DataFrame(about["nodes"])
    table = table.set_index(pd.Index(table.pop("node_id"), name="node_id", dtype="str"))
    low, high = wilson_interval(table["count"].to_numpy(), about["n_graphs"])
    table.insert(1, "presence", table["count"] / about["n_graphs"])
    table.insert(2, "presence_low", low)
    table.insert(3, "presence_high", high)
    return table[table.index.isin(graph.nodes.index)]


def union_edges(graph: "Graph") -> pd.DataFrame:
    """How often each edge of a union occurs.

    Returns:
        Columns `target`, `source`, `count` (of graphs with this edge), `n_possible` (of graphs with its target),
        `weight_mean` and `weight_std` (over these graphs, 0 where the edge is not there).

    Raises:
        AttrGraphError: the graph is no union.
    """
    table = pd.DataFrame(_about(graph)["edges"])
    ids = graph.nodes.index
    return table[table["target"].isin(ids) & table["source"].isin(ids)].reset_index(drop=True)


def wilson_interval(counts: Any, n_trials: int) -> tuple[Any, Any]:
    """Bounds of a share of trials, at 95%: the shares p with |count / n - p| <= z sqrt(p (1 - p) / n)."""
    share = counts / n_trials
    middle = share + _Z**2 / (2 * n_trials)
    half = _Z * np.sqrt(share * (1 - share) / n_trials + _Z**2 / (4 * n_trials**2))
    scale = 1 + _Z**2 / n_trials
    return ((middle - half) / scale).clip(0, 1), ((middle + half) / scale).clip(0, 1)


def _about(graph: "Graph") -> dict[str, Any]:
    if "union" not in graph.metadata:
        raise AttrGraphError("the graph is not a union; make one with attrgraph.union.")
    about: dict[str, Any] = graph.metadata["union"]
    return about


def _tokens(graphs: list["Graph"], offsets: list[int], n_pos: int) -> list[str]:
    votes: list[Counter[str]] = [Counter() for _ in range(n_pos)]
    for graph, offset in zip(graphs, offsets, strict=True):
        for pos, token in enumerate(graph.prompt_tokens):
            votes[offset + pos][token] += 1
    return [vote.most_common(1)[0][0] for vote in votes]  # of equals, the one counted first


def _kept(tables: list[pd.DataFrame], min_count: int) -> tuple[pd.MultiIndex, list[Int[np.ndarray, " n_nodes"]]]:
    """The nodes in enough graphs, in the order in which they first occur, kind by kind; and their rows, -1 for none."""
    first = pd.concat([table.reset_index()[KEY] for table in tables])
    counts = first.groupby(KEY, sort=False).size()
    stays = (counts >= min_count) | (counts.index.get_level_values("kind") == "logit")
    found: pd.MultiIndex = counts.index[stays.to_numpy()]
    kinds = found.get_level_values("kind")
    rank = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    found = found[np.argsort([rank[kind] for kind in kinds], kind="stable")]
    return found, [table.index.get_indexer(found) for table in tables]


def _nodes(
    tables: list[pd.DataFrame], keys: pd.MultiIndex, rows: list[np.ndarray], tokens: list[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    n_graphs, is_there = len(tables), np.stack(rows) >= 0  # [n_graphs, n_nodes]
    columns = ("activation", "probability", "influence")
    values = {name: np.zeros(is_there.shape) for name in columns}
    texts = {name: np.full(len(keys), "", dtype=object) for name in ("token", "label", "name")}
    for number in reversed(range(n_graphs)):  # so that the first graph that has a node names it
        here, table = is_there[number], tables[number].iloc[rows[number][is_there[number]]]
        for name in columns:
            values[name][number, here] = table[name].to_numpy()
        for name, column in texts.items():
            column[here] = table[name].to_numpy()
    count = is_there.sum(0)
    nodes = keys.to_frame(index=False).rename(columns={"place": "pos"})
    nodes["token"], nodes["label"] = texts["token"], texts["label"]
    own_token = nodes["kind"].isin(["embedding", "logit", "bias"]) | (nodes["pos"] < 0)
    at = [
        token if own else tokens[pos] for token, own, pos in zip(nodes["token"], own_token, nodes["pos"], strict=True)
    ]
    nodes["token"] = at
    nodes["activation"] = values["activation"].sum(0) / count
    nodes["probability"], nodes["influence"] = values["probability"].mean(0), values["influence"].mean(0)
    if n_graphs > 1:  # labels of logits hold their probability
        nodes["label"] = [
            node_label("logit", row.layer, row.feature, row.token, row.probability)
            if row.kind == "logit"
            else row.label
            for row in nodes.itertuples()
        ]
    cumulative, is_bias = np.ones(len(nodes)), (nodes["kind"] == "bias").to_numpy()
    cumulative[~is_bias] = cumulative_share(nodes["influence"].to_numpy()[~is_bias])
    nodes["cumulative_influence"] = cumulative
    names = unique_names([str(name) for name in texts["name"]])
    nodes.index = pd.Index(names, name="node_id", dtype="str")
    spread = values["influence"].std(0)
    statistics = {
        "node_id": names,
        "count": count.tolist(),
        "influence_mean": nodes["influence"].tolist(),
        "influence_std": spread.tolist(),
    }
    return node_table(nodes), statistics


def _adjacency(graphs: list["Graph"], rows: list[np.ndarray]) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """Mean edges, and for each of them, by its row and column, how often it is there and how far it varies."""
    n_nodes, n_possible = len(rows[0]), np.sum([row >= 0 for row in rows], axis=0)
    parts = [_edges_among(graph, row) for graph, row in zip(graphs, rows, strict=True)]
    ends, weights = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    pairs, at = np.unique(ends, return_inverse=True)
    row, column = np.divmod(pairs, n_nodes)
    count, of = np.bincount(at, minlength=len(pairs)), n_possible[row]
    mean = np.bincount(at, weights, minlength=len(pairs)) / of
    squares = np.bincount(at, (weights - mean[at]) ** 2, minlength=len(pairs)) + (of - count) * mean**2
    adjacency = sparse.csr_array((mean.astype(np.float32), (row, column)), shape=(n_nodes, n_nodes))
    adjacency.eliminate_zeros()
    statistics = {"count": count, "n_possible": of, "weight_mean": mean, "weight_std": np.sqrt(squares / of)}
    return adjacency, {"row": row, "column": column, **statistics}


def _edges_among(graph: "Graph", row: Int[np.ndarray, " n_nodes"]) -> tuple[np.ndarray, np.ndarray]:
    """A graph's edges between nodes of the union: target * n_nodes + source, and weight."""
    place = np.full(len(graph.nodes), -1, dtype=np.int64)
    place[row[row >= 0]] = np.flatnonzero(row >= 0)
    edges = graph.adjacency.tocoo()
    targets, sources = place[edges.row], place[edges.col]
    kept = (targets >= 0) & (sources >= 0) & (edges.data != 0)
    return targets[kept] * len(row) + sources[kept], edges.data[kept].astype(np.float64)


def _shared_metadata(graphs: list["Graph"]) -> dict[str, Any]:
    """What all graphs say alike about where they come from; of one graph, all that it says."""
    first = graphs[0].metadata
    if len(graphs) == 1:
        return dict(first)
    names = ("n_layers", "generator", "versions", "model", "transcoders", "dtype", "pruning")
    return {
        name: first[name]
        for name in names
        if name in first and all(graph.metadata.get(name) == first[name] for graph in graphs)
    }
