"""What questions to a graph cost: `python benchmarks/queries.py [-o OUT.json] [--figure OUT.svg]`.

Random layered graphs of 10,000 nodes (features, errors and tokens of 24 layers and 60 positions, and logits) with up to
a million edges; each size is loaded, pruned and asked, in a process of its own whose peak memory is that size's.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

import attrgraph as ag
from attrgraph.influence.influence import with_influence
from attrgraph.viz.figures import draw_figure

N_NODES, N_LAYERS, N_POS, N_LOGITS = 10_000, 24, 60, 10
N_EDGES = (30_000, 100_000, 300_000, 1_000_000)


def random_graph(n_edges: int, seed: int = 0) -> ag.Graph:
    """Edges lead upwards and never back in the text; every feature has inputs."""
    rng = np.random.default_rng(seed)
    n_errors, n_features = N_LAYERS * N_POS, N_NODES - N_LAYERS * N_POS - N_POS - N_LOGITS
    layer, pos = np.sort(rng.integers(0, N_LAYERS, n_features)), rng.integers(1, N_POS, n_features)
    e_layer, e_pos = np.divmod(np.arange(n_errors), N_POS)
    layers = np.concatenate([layer, e_layer, np.full(N_POS, -1), np.full(N_LOGITS, N_LAYERS)])
    positions = np.concatenate([pos, e_pos, np.arange(N_POS), np.full(N_LOGITS, N_POS - 1)])
    kinds = np.repeat(["feature", "error", "embedding", "logit"], [n_features, n_errors, N_POS, N_LOGITS])
    targets = np.flatnonzero(np.isin(kinds, ("feature", "logit")))
    sources = np.flatnonzero(kinds != "logit")
    rows, columns = rng.choice(targets, 4 * n_edges), rng.choice(sources, 4 * n_edges)
    is_edge = (layers[columns] < layers[rows]) & (positions[columns] <= positions[rows])
    rows, columns = rows[is_edge][:n_edges], columns[is_edge][:n_edges]
    weights = rng.standard_normal(len(rows)).astype(np.float32)
    adjacency = sparse.csr_array((weights, (rows, columns)), shape=(N_NODES, N_NODES))
    probability = np.where(kinds == "logit", 0.9 / N_LOGITS, 0.0)
    nodes = pd.DataFrame(
        {
            "kind": kinds,
            "layer": layers,
            "pos": positions,
            "feature": np.where(kinds == "error", -1, np.arange(N_NODES)),
            "token": "word",
            "activation": np.where(kinds == "feature", 1.0 + rng.random(N_NODES), 0.0),
            "probability": probability,
            "influence": 0.0,
            "cumulative_influence": 1.0,
            "label": "feature",
        }
    )
    ids = [f"{layer}_{i}_{pos}" for i, (layer, pos) in enumerate(zip(layers, positions, strict=True))]
    nodes.index = pd.Index(ids, name="node_id", dtype="str")
    return ag.Graph(with_influence(nodes, adjacency), adjacency, ["word"] * N_POS, {"n_layers": N_LAYERS})


def seconds_of(ask: Callable[[], Any], n_repeats: int) -> float:
    seconds = []
    for _ in range(n_repeats):
        started = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(path: Path, n_repeats: int) -> dict[str, Any]:
    """In a process of its own: load the graph and ask it."""
    graph = ag.load_graph(path)
    source, target = graph.nodes.index[N_NODES - N_LOGITS - 1], graph.nodes.index[-1]
    questions: dict[str, Callable[[], Any]] = {
        "load": lambda: ag.load_graph(path),
        "prune": lambda: graph.prune(),
        "influence": lambda: graph.influence(),
        "effect": lambda: graph.effect(source, target),
        "10 best paths": lambda: graph.paths(k=10),
        "1,000 best paths": lambda: graph.paths(k=1000),
        "query": lambda: graph.query("kind == 'feature' and layer > 10 and influence > 0.0001"),
        "scores": lambda: graph.scores(),
        "stats": lambda: graph.stats(),
    }
    found: dict[str, Any] = {name: seconds_of(ask, n_repeats) for name, ask in questions.items()}
    stats = graph.stats()
    return {
        "n_edges": int(graph.adjacency.nnz),
        "n_paths": f"{stats['paths']:.1e}",
        "seconds": found,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def draw(figure: Any, results: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    edges = [found["n_edges"] for found in results]
    for name, marker in zip(results[0]["seconds"], "os^DvP*Xd", strict=True):
        axes.plot(edges, [found["seconds"][name] for found in results], marker=marker, markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="seconds")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.graph:
        print(json.dumps(measure(arguments.graph, arguments.repeats)))
        sys.exit()
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "scipy", "pandas")},
        "n_nodes": N_NODES,
        "results": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        for n_edges in N_EDGES:
            path = Path(temporary) / f"{n_edges}.safetensors"
            random_graph(n_edges).save(path)
            command = [sys.executable, __file__, "--graph", str(path), "--repeats", str(arguments.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            report["results"].append(found)
            print(found, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw_figure(lambda figure: draw(figure, report["results"]), arguments.figure, size=(5.5, 3.6), overwrite=True)
