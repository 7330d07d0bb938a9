"""Many graphs in one: which nodes and edges recur, and with what weights."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy import sparse

from attrgraph.errors import AttrGraphError, checked, whole_number
from attrgraph.graph.comparison.alignment import ALIGNMENTS, KEY, check_comparable, keyed, placed_edges
from attrgraph.graph.comparison.differences import differences
from attrgraph.influence.influence import cumulative_share
from attrgraph.schema import node_label, node_table, unique_names

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# half the width of a 95% interval, in standard deviations of a normal distribution
_Z = 1.959963984540054
_WAYS = tuple(way for way in ALIGNMENTS if way != "tokens")


@checked
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
    The latter is as long as there are edges: prune graphs of large models first. `metadata["notes"]` says how the
    graphs were made otherwise, as far as they say, and what cannot be verified.

    Args:
        graphs: of one model and its transcoders; pruned or not.
        min_count: in how many graphs a node must be.
        align: which positions correspond: `end`: counted from the end; `start`: from the start. The result has as
            many positions as the longest prompt.

    Raises:
        AttrGraphError: no graph, a number out of range, an unknown alignment, or graphs with other numbers of layers.
    """
    graphs = list(graphs)
    if not graphs:
        raise AttrGraphError("union of no graph; give at least one.")
    if whole_number("min_count", min_count, least=1) > len(graphs):
        raise AttrGraphError(f"min_count is {min_count}; expected 1 to {len(graphs)}, the number of graphs.")
    if align not in _WAYS:
        raise AttrGraphError(f"align={align!r}; expected one of {', '.join(_WAYS)}.")
    check_comparable(graphs)
    lengths = [len(graph.prompt_tokens) for graph in graphs]
    n_pos = max(lengths)
    places = [range(n_pos - length, n_pos) if align == "end" else range(length) for length in lengths]
    tokens = _tokens(graphs, places, n_pos)
    tables = [keyed(graph, at, n_pos) for graph, at in zip(graphs, places, strict=True)]
    keys, rows = _kept(tables, min_count)
    nodes, statistics = _nodes(tables, keys, rows, tokens)
    adjacency, edge_statistics = _adjacency(graphs, rows, nodes.index.to_numpy())
    about = {
        "n_graphs": len(graphs),
        "min_count": int(min_count),
        "align": align,
        "prompts": [str(graph.metadata.get("prompt") or " ".join(graph.prompt_tokens)) for graph in graphs],
        "nodes": statistics,
        "edges": edge_statistics,
    }
    metadata = {**_shared_metadata(graphs), "union": about}
    if len(graphs) > 1 and (notes := differences(graphs)):
        metadata["notes"] = notes
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
    table = pd.DataFrame(about["nodes"]).astype({"node_id": "str"}).set_index("node_id")
    low, high = wilson_interval(table["count"].to_numpy(), about["n_graphs"])
    table.insert(1, "presence", table["count"] / about["n_graphs"])
    table.insert(2, "presence_low", low)
    table.insert(3, "presence_high", high)
    return table[table.index.isin(graph.nodes.index)]


def union_edges(graph: "Graph") -> pd.DataFrame:
    """How often each edge of a union occurs; of a part of it, those that are still there with their mean weight.

    Returns:
        Columns `target`, `source`, `count` (of graphs with this edge), `n_possible` (of graphs with its target),
        `weight_mean` and `weight_std` (over these graphs, 0 where the edge is not there).

    Raises:
        AttrGraphError: the graph is no union.
    """
    table = pd.DataFrame(_about(graph)["edges"])
    rows, columns = (graph.nodes.index.get_indexer(table[end]) for end in ("target", "source"))
    is_there = (rows >= 0) & (columns >= 0)
    if is_there.any():  # scipy has no empty selection of entries
        weights = np.asarray(graph.adjacency[rows[is_there], columns[is_there]]).reshape(-1)
        is_there[is_there] = weights == table["weight_mean"].to_numpy(np.float32)[is_there]
    return table[is_there].reset_index(drop=True)


# that are named of a position at which prompts differ
_MOST_TOKENS = 3


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


def _tokens(graphs: list["Graph"], places: list[range], n_pos: int) -> list[str]:
    votes: list[Counter[str]] = [Counter() for _ in range(n_pos)]
    for graph, at in zip(graphs, places, strict=True):
        for pos, token in zip(at, graph.prompt_tokens, strict=True):
            votes[pos][token] += 1
    return [_named([token for token, _ in vote.most_common()]) for vote in votes]  # of equals, the one counted first


def _named(tokens: list[str]) -> str:
    """What stands at a position in the prompts: all that differ, the commonest first, as far as they are few."""
    return "|".join(tokens[:_MOST_TOKENS]) + ("|…" if len(tokens) > _MOST_TOKENS else "")


def _kept(tables: list[pd.DataFrame], min_count: int) -> tuple[pd.MultiIndex, list[Int[np.ndarray, " n_nodes"]]]:
    """The nodes in enough graphs, in the order in which they first occur, kind by kind; and their rows, -1 for none."""
    first = pd.concat([table.reset_index()[KEY] for table in tables])
    counts = first.groupby(KEY, sort=False).size()
    stays = (counts >= min_count) | (counts.index.get_level_values("kind") == "logit")
    found: pd.MultiIndex = counts.index[stays.to_numpy()]
    kinds = pd.factorize(found.get_level_values("kind"))[0]
    found = found[np.argsort(kinds, kind="stable")]
    return found, [table.index.get_indexer(found) for table in tables]


def _nodes(
    tables: list[pd.DataFrame], keys: pd.MultiIndex, rows: list[np.ndarray], tokens: list[str]
) -> tuple[pd.DataFrame, dict[str, list[Any]]]:
    """The union's table, and how often each node is there and how far its influence varies."""
    is_there = np.stack(rows) >= 0  # [n_graphs, n_nodes]
    activation, probability, bias_share, influence = (
        np.stack(
            [np.where(row >= 0, table[name].to_numpy()[row], 0.0) for table, row in zip(tables, rows, strict=True)]
        )
        for name in ("activation", "probability", "bias_share", "influence")
    )
    count, first = is_there.sum(0), is_there.argmax(0)  # the first graph that has a node names it
    begins = np.cumsum([0, *(len(table) for table in tables[:-1])])
    texts = pd.concat([table[["token", "label", "name"]] for table in tables])
    texts = texts.iloc[begins[first] + np.stack(rows)[first, np.arange(len(keys))]].reset_index(drop=True)
    nodes = keys.to_frame(index=False).rename(columns={"place": "pos"})
    own_token = nodes["kind"].isin(["embedding", "logit", "bias"]) | (nodes["pos"] < 0)
    nodes["token"] = texts["token"].where(own_token, nodes["pos"].map(dict(enumerate(tokens))))
    nodes["activation"], nodes["bias_share"] = activation.sum(0) / count, bias_share.sum(0) / count
    nodes["probability"], nodes["influence"] = probability.mean(0), influence.mean(0)
    nodes["label"] = texts["label"]
    if len(tables) > 1:  # labels of logits hold their probability
        for row in nodes[nodes["kind"] == "logit"].itertuples():
            nodes.loc[row.Index, "label"] = node_label("logit", row.layer, row.feature, row.token, row.probability)
    nodes["cumulative_influence"] = cumulative_share(nodes["influence"].to_numpy(), nodes["kind"].to_numpy() != "bias")
    names = unique_names(texts["name"].tolist())
    nodes.index = pd.Index(names, name="node_id", dtype="str")
    means, spread = nodes["influence"].tolist(), influence.std(0).tolist()
    statistics = {"node_id": names, "count": count.tolist(), "influence_mean": means, "influence_std": spread}
    return node_table(nodes), statistics


def _adjacency(
    graphs: list["Graph"], rows: list[np.ndarray], ids: np.ndarray
) -> tuple[sparse.csr_array, dict[str, list[Any]]]:
    """Mean edges, and for each of them how often it is there and how far it varies."""
    n_nodes, n_possible = len(ids), np.sum([row >= 0 for row in rows], axis=0)
    parts = [_edges_among(graph, row) for graph, row in zip(graphs, rows, strict=True)]
    ends, weights = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    pairs, at = np.unique(ends, return_inverse=True)
    row, column = np.divmod(pairs, n_nodes)
    count, of = np.bincount(at, minlength=len(pairs)), n_possible[row]
    mean = np.bincount(at, weights, minlength=len(pairs)) / of
    squares = np.bincount(at, (weights - mean[at]) ** 2, minlength=len(pairs)) + (of - count) * mean**2
    adjacency = sparse.csr_array((mean.astype(np.float32), (row, column)), shape=(n_nodes, n_nodes))
    columns = {"target": ids[row], "source": ids[column], "count": count, "n_possible": of}
    columns |= {"weight_mean": mean, "weight_std": np.sqrt(squares / of)}
    return adjacency, {name: values.tolist() for name, values in columns.items()}


def _edges_among(graph: "Graph", row: Int[np.ndarray, " n_nodes"]) -> tuple[np.ndarray, np.ndarray]:
    """A graph's edges between nodes of the union: target * n_nodes + source, and weight."""
    edges, targets, sources = placed_edges(graph, row)
    kept = (targets >= 0) & (sources >= 0)
    return targets[kept] * len(row) + sources[kept], edges.data[kept].astype(np.float64)


def _shared_metadata(graphs: list["Graph"]) -> dict[str, Any]:
    """What all graphs say alike of their origin, worst checks and mean bias share; of one graph, everything."""
    first, all_checks = graphs[0].metadata, [graph.metadata.get("checks") or {} for graph in graphs]
    if len(graphs) == 1:
        return first
    names = ("n_layers", "generator", "versions", "model", "transcoders", "dtype", "pruning")
    shared = {
        name: first[name]
        for name in names
        if name in first and all(graph.metadata.get(name) == first[name] for graph in graphs[1:])
    }
    if all(all_checks):
        worst: dict[str, Any] = {
            name: max(each[name] for each in all_checks) for name in ("logit_deviation", "input_sum_gap")
        }
        shared["checks"] = {**worst, "is_exact": all(each.get("is_exact", True) for each in all_checks)}
        if all("bias_share" in each for each in all_checks):
            shared["checks"]["bias_share"] = sum(each["bias_share"] for each in all_checks) / len(graphs)
    return shared
