"""What the checksum of a native graph file costs: loading a graph, and hashing what the file holds, side by side.

    python benchmarks/native_files.py -o benchmarks/results/native_files.json

The graph is random: as many features as asked, each reading a share of those below it.
"""

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

import attrgraph as ag
from attrgraph.influence.influence import with_influence
from attrgraph.schema import with_names

N_LAYERS, N_POS, SHARE = 12, 64, 0.2


def make_graph(n_features: int) -> ag.Graph:
    rng = np.random.default_rng(0)
    kinds = ["feature"] * n_features + ["embedding"] * N_POS + ["logit"]
    layers = np.r_[np.sort(rng.integers(0, N_LAYERS, n_features)), np.full(N_POS, -1), N_LAYERS]
    nodes = pd.DataFrame({"kind": kinds, "layer": layers, "feature": np.arange(len(kinds)), "token": "x"})
    nodes["pos"] = np.r_[rng.integers(0, N_POS, n_features), np.arange(N_POS), N_POS - 1]
    nodes["activation"], nodes["probability"] = 1.0, np.where(nodes["kind"] == "logit", 1.0, 0.0)
    below = sparse.random_array((len(kinds), len(kinds)), density=SHARE, rng=rng, dtype=np.float32).tocoo()
    kept = (layers[below.row] > layers[below.col]) & (below.row != below.col)
    edges = sparse.csr_array((below.data[kept], (below.row[kept], below.col[kept])), shape=below.shape)
    table = with_influence(with_names(nodes, {}, n_layers=N_LAYERS), edges)
    return ag.Graph(table, edges, ["x"] * N_POS, {"n_layers": N_LAYERS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=7500)
    parser.add_argument("-n", type=int, default=7, help="rounds")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"load": [], "of it, the checksum": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.safetensors"
        graph = make_graph(arguments.features)
        graph.save(path)
        content = path.read_bytes()
        for _ in range(arguments.n):
            begin = time.perf_counter()
            ag.load_graph(path)
            middle = time.perf_counter()
            hashlib.sha256(content).digest()
            seconds["load"].append(middle - begin)
            seconds["of it, the checksum"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}},
        "megabytes": round(len(content) / 1e6, 1),
        "edges": int(graph.adjacency.nnz),
        "seconds": {
            name: {"median": round(medians[name], 3), "least": round(min(values), 3), "most": round(max(values), 3)}
            for name, values in seconds.items()
        },
        "share_of_loading": round(medians["of it, the checksum"] / medians["load"], 2),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
