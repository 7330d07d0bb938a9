"""How large the explorer's page of a graph is, and how long it takes to open, to hover, and to prune anew.

    python benchmarks/explorer.py -o benchmarks/results/explorer.json

The graph is random: 12 layers, 64 positions, edges between any two layers, with sizes as heavy-tailed as real ones.
Needs `pip install playwright` and Chromium, which runs without a window and draws on the processor.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
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
from attrgraph.schema import node_table

N_LAYERS, N_POS, N_LOGITS = 12, 64, 10


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("-n", type=int, default=5, help="rounds")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    graph = random_graph(arguments.nodes, arguments.edges)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        start = time.perf_counter()
        graph.explore(file)
        seconds_to_write = time.perf_counter() - start
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        rounds = [measure(browser, file) for _ in range(arguments.n)]
        found = {
            "machine": {
                "system": platform.platform(),
                "cores": len(os.sched_getaffinity(0)),
                "browser": browser.version,
                "load_before": load,
            },
            "versions": {"attrgraph": version("attrgraph")},
            "graph": {"nodes": len(graph.nodes), "edges": int(graph.adjacency.nnz)},
            "rounds": arguments.n,
            "page_mb": round(file.stat().st_size / 1e6, 2),
            "seconds_to_write": round(seconds_to_write, 2),
            "seconds": {name: spread([one[name] for one in rounds]) for name in rounds[0]},
        }
        browser.close()
    text = json.dumps(found, indent=1) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    print(text, end="")


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def measure(browser: Any, file: Path) -> dict[str, float]:
    """Seconds of one visit: each until the picture has been drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready]")
    drawn(page)
    found = {"open": time.perf_counter() - start}
    whole = {"nodes": 1, "edges": 1}
    for name, change in {
        "prune at 0.6": {"nodes": 0.6, "edges": 0.98},
        "show everything": whole,
        "prune at 0.8": {"nodes": 0.8, "edges": 0.98},
    }.items():
        found[name] = timed(page, "(change) => explorer.state.set(change)", change)
    move = """(i) => {
        const { x, y } = explorer.canvas.place(i);
        const canvas = document.getElementById("graph");
        const { left, top } = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: left + x, clientY: top + y, bubbles: true }));
    }"""
    shown = page.evaluate("[...explorer.look.stays.keys()].filter((i) => explorer.look.stays[i])")
    some = [shown[i * len(shown) // 8] for i in range(8)]
    found["hover, pruned"] = statistics.median(timed(page, move, i) for i in some)
    timed(page, "(change) => explorer.state.set(change)", whole)
    found["hover, everything"] = statistics.median(timed(page, move, i) for i in some)
    found["select, everything"] = timed(page, "(i) => explorer.select(i)", some[3])
    page.close()
    return found


def timed(page: Any, script: str, argument: Any) -> float:
    """Seconds from the call until the frame after it has been drawn."""
    run: Callable[..., float] = page.evaluate
    code = """([script, argument]) => new Promise((done) => {
        const run = eval(script);
        const start = performance.now();
        run(argument);
        requestAnimationFrame(() => {
            document.getElementById("graph").getContext("2d").getImageData(0, 0, 1, 1);
            done((performance.now() - start) / 1000);
        });
    })"""
    return run(code.replace("eval(script)", script).replace("([script, argument])", "(argument)"), argument)


def drawn(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("document.getElementById('graph').getContext('2d').getImageData(0, 0, 1, 1).data[0]")


def random_graph(n_nodes: int, n_edges: int) -> ag.Graph:
    """Features mostly, an error at each position of each layer, tokens, and some answers."""
    rng = np.random.default_rng(0)
    rows = [("embedding", -1, pos, pos) for pos in range(N_POS)]
    rows += [("error", layer, pos, -1) for layer in range(N_LAYERS) for pos in range(N_POS)]
    n_features = n_nodes - len(rows) - N_LOGITS
    places = np.sort(rng.integers(0, N_LAYERS * N_POS, n_features))
    features = [("feature", int(place) // N_POS, int(place) % N_POS, i) for i, place in enumerate(places)]
    rows = [*features, *rows, *(("logit", N_LAYERS, N_POS - 1, i) for i in range(N_LOGITS))]
    nodes = pd.DataFrame(rows, columns=["kind", "layer", "pos", "feature"])
    layer, pos, kind = (nodes[name].to_numpy() for name in ("layer", "pos", "kind"))
    targets, sources = rng.integers(0, n_nodes, (2, 5 * n_edges))
    may = (layer[targets] > layer[sources]) & (pos[targets] >= pos[sources])
    may &= np.isin(kind[targets], ("feature", "logit"))
    pairs = np.unique(targets[may].astype(np.int64) * n_nodes + sources[may])
    pairs = np.sort(rng.choice(pairs, min(n_edges, len(pairs)), replace=False))
    weights = rng.standard_t(1.5, len(pairs)).astype(np.float32)
    edges = sparse.csr_array((weights, (pairs // n_nodes, pairs % n_nodes)), shape=(n_nodes, n_nodes))
    nodes["activation"] = np.where(kind == "feature", 1 + rng.random(n_nodes), 0.0)
    nodes["probability"] = np.where(kind == "logit", 0.09, 0.0)
    nodes["token"] = "word"
    nodes["label"] = [f"L{each.layer} {each.kind} {each.feature}" for each in nodes.itertuples()]
    nodes["influence"], nodes["cumulative_influence"] = 0.0, 1.0
    ids = [f"{first_of(each)}_{each.feature}_{each.pos}" for each in nodes.itertuples()]
    nodes.index = pd.Index(ids, name="node_id", dtype="str")
    tokens = [f"word{i}" for i in range(N_POS)]
    return ag.Graph(with_influence(node_table(nodes), edges), edges, tokens, {"n_layers": N_LAYERS})


def first_of(node: Any) -> str:
    return {"embedding": "E", "logit": str(N_LAYERS + 1)}.get(node.kind, str(node.layer))


if __name__ == "__main__":
    main()
