"""What graph files of other tools come to here: `python benchmarks/real_graphs.py FILE... [-o OUT.json]`.

Each file is loaded, checked, written in every profile and the native format, and read again: nodes, edges and what
viewers keep must come back equal. Its influence, effects and paths are compared with plain formulas (dense solves,
networkx's Yen), and scores and pruning with circuit-tracer's own functions, if it is installed.
"""

import argparse
import json
import tempfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np

import attrgraph as ag
from attrgraph.files import PROFILES

# what a format may number or word in its own way
_COMPARED = ["kind", "layer", "pos", "feature", "activation", "probability", "cumulative_influence", "label"]
_N_PATHS = 10


def measure(path: Path) -> dict[str, Any]:
    graph = ag.load_graph(path)
    problems = ag.check_graph_file(path)
    with tempfile.TemporaryDirectory() as temporary:
        again = {name: differences(graph, through(graph, Path(temporary), name)) for name in (*PROFILES, "native")}
    return {
        "file": path.name,
        "flavour": graph.metadata["flavour"],
        "nodes": len(graph.nodes),
        "edges": int(graph.adjacency.nnz),
        "problems": [f"{problem.severity} {problem.code}" for problem in problems],
        "repairs": graph.metadata["repairs"],
        "differences_after_writing": again,
        "largest_relative_error": {**against_dense(graph), "shares of paths": against_yen(graph)},
        **({"circuit_tracer": against_circuit_tracer(graph)} if find_spec("circuit_tracer") else {}),
    }


def through(graph: ag.Graph, folder: Path, name: str) -> ag.Graph:
    """The graph written and read again."""
    if name == "native":
        graph.save(folder / "graph.safetensors")
        return ag.load_graph(folder / "graph.safetensors")
    graph.to_json(folder / f"{name}.json", profile=name)
    return ag.load_graph(folder / f"{name}.json")


def differences(before: ag.Graph, after: ag.Graph) -> list[str]:
    """What is not the same."""
    found = [] if before.prompt_tokens == after.prompt_tokens else ["prompt_tokens"]
    if sorted(before.nodes.index) != sorted(after.nodes.index):
        return [*found, "node ids"]
    nodes = after.nodes.loc[before.nodes.index]
    found += [name for name in _COMPARED if not before.nodes[name].equals(nodes[name])]
    order = after.nodes.index.get_indexer(before.nodes.index)
    if (after.adjacency[order][:, order] != before.adjacency).nnz:
        found.append("edges")
    return found + [
        name
        for name in ("pinnedIds", "supernodes")
        if before.metadata["qParams"][name] != after.metadata["qParams"][name]
    ]


def against_dense(graph: ag.Graph) -> dict[str, float]:
    """Influence as w (I - B)^-1 - w, and signed effects likewise, with all the graph's nodes."""
    edges = graph.without_bias().adjacency.toarray().astype(np.float64)
    sums = np.abs(edges).sum(1, keepdims=True)
    shares = np.divide(np.abs(edges), sums, out=np.zeros_like(edges), where=sums > 0)
    identity, weights = np.eye(len(edges)), graph.without_bias().weights
    found = {
        "influence": error(graph.without_bias().influence(), np.linalg.solve((identity - shares).T, weights) - weights)
    }
    activation = graph.nodes["activation"].to_numpy()
    is_feature = (graph.nodes["kind"] == "feature").to_numpy()
    if activation[is_feature].all() and not (graph.nodes["kind"] == "bias").any():
        response = np.where(is_feature, 1 / np.where(is_feature, activation, 1.0), 1.0)
        # of one unit that a node reads; edges are of a source's whole
        onward = np.linalg.solve(identity - response[:, None] * edges.T, weights)
        found["signed effects"] = error(graph.influence(signed=True), onward @ edges)
    return found


def error(ours: Any, theirs: np.ndarray) -> float:
    """Relative to the largest."""
    return float(np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), np.finfo(float).tiny))


def against_yen(graph: ag.Graph) -> float:
    """The strongest paths from any token or error to the answer, by lengths that are minus the logarithms of shares."""
    graph = graph.without_bias()
    ours = graph.paths(k=_N_PATHS)["share"].to_numpy()
    edges = abs(graph.adjacency.astype(np.float64)).tocoo()
    sums = np.bincount(edges.row, edges.data, minlength=len(graph.nodes))
    network = nx.DiGraph()
    for target, source, size in zip(edges.row, edges.col, edges.data, strict=True):
        network.add_edge(int(source), int(target), length=-np.log(size / sums[target]))
    kinds = graph.nodes["kind"].to_numpy()
    for i in np.flatnonzero(np.isin(kinds, ("embedding", "error", "attention error"))):
        network.add_edge("start", int(i), length=0.0)
    for i in np.flatnonzero(graph.weights):
        network.add_edge(int(i), "end", length=-np.log(graph.weights[i]))
    best = islice(nx.shortest_simple_paths(network, "start", "end", weight="length"), _N_PATHS)
    theirs = np.exp([-nx.path_weight(network, path, "length") for path in best])
    return error(ours, theirs) if len(ours) == len(theirs) else float("inf")


def against_circuit_tracer(graph: ag.Graph) -> dict[str, Any]:
    """Its scores and its pruning of the same edges, in its order of nodes with every error and token in its place."""
    import torch
    from circuit_tracer.graph import compute_graph_scores, prune_graph

    graph = graph.without_bias()
    kinds, n_pos = graph.nodes["kind"].to_numpy(), len(graph.prompt_tokens)
    features, logits = np.flatnonzero(kinds == "feature"), np.flatnonzero(kinds == "logit")
    place = np.zeros(len(kinds), dtype=np.int64)
    place[features] = np.arange(len(features))
    is_error, is_token = kinds == "error", kinds == "embedding"
    layer, pos = graph.nodes["layer"].to_numpy(), graph.nodes["pos"].to_numpy()
    place[is_error] = len(features) + layer[is_error] * n_pos + pos[is_error]
    place[is_token] = len(features) + graph.n_layers * n_pos + pos[is_token]
    n_nodes = len(features) + (graph.n_layers + 1) * n_pos + len(logits)
    place[logits] = n_nodes - len(logits) + np.arange(len(logits))
    dense = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    edges = graph.adjacency.tocoo()
    dense[place[edges.row], place[edges.col]] = torch.from_numpy(edges.data.astype(np.float64))
    theirs = SimpleNamespace(
        adjacency_matrix=dense,
        input_tokens=graph.prompt_tokens,
        logit_targets=logits,
        logit_probabilities=torch.from_numpy(graph.weights[logits]),
        selected_features=features,
        cfg=SimpleNamespace(n_layers=graph.n_layers),
    )
    torch.set_default_dtype(torch.float64)  # it weighs logits in the default type
    scores, pruned = compute_graph_scores(theirs), prune_graph(theirs)
    torch.set_default_dtype(torch.float32)
    ours = graph.prune()
    kept = set(graph.nodes.index[pruned.node_mask.numpy()[place]])
    return {
        "scores": scores,
        "largest_score_difference": float(np.abs(np.array(graph.scores()) - scores).max()),
        "same_pruned_nodes": set(ours.nodes.index) == kept,
        "pruned_edges": [int(ours.adjacency.nnz), int((pruned.edge_mask & (dense != 0)).sum())],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report = [measure(path) for path in arguments.files]
    print(json.dumps(report, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
