"""Estimates beside what then happens: `python benchmarks/estimate.py [-o OUT.json]`.

The shipped demo and untrained models of `attribution.py`'s shapes; each case estimates and traces in turns, in one
process.
Seconds are medians; memory is what a trace adds to the process's own (not mapped) pages at its peak, and what these are
in all. Linux only.
"""

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from attribution import build, prompt_ids
from work import machine

import attrgraph as ag
from attrgraph.memory import own_bytes

DALLAS = "in the state containing dallas the capital is"
CASES = {
    "demo": ("demo", DALLAS, 7500),
    "demo, 50 features": ("demo", DALLAS, 50),
    "demo, 25 tokens": ("demo", " ".join([DALLAS] * 3), 7500),
    "GPT-2 cross-layer, 16 tokens, 1,000 features": ("gpt2 cross-layer", 16, 1000),
    "GPT-2 cross-layer, 16 tokens, 7,500 features": ("gpt2 cross-layer", 16, 7500),
    "GPT-2 cross-layer, 64 tokens, 1,000 features": ("gpt2 cross-layer", 64, 1000),
    "GPT-2 cross-layer, 256 tokens, 1,000 features": ("gpt2 cross-layer", 256, 1000),
    "GPT-2 per-layer, 16 tokens, 1,000 features": ("gpt2 per-layer", 16, 1000),
    "GPT-2 per-layer, 16 tokens, 7,500 features": ("gpt2 per-layer", 16, 7500),
    "Llama cross-layer, 16 tokens, 1,000 features": ("llama cross-layer", 16, 1000),
    "Llama cross-layer, 64 tokens, 1,000 features": ("llama cross-layer", 64, 1000),
    "Llama cross-layer, 256 tokens, 1,000 features": ("llama cross-layer", 256, 1000),
    "Llama per-layer, 16 tokens, 1,000 features": ("llama per-layer", 16, 1000),
    "Llama per-layer, 64 tokens, 7,500 features": ("llama per-layer", 64, 7500),
    "Llama per-layer, 256 tokens, 1,000 features": ("llama per-layer", 256, 1000),
}


class PeakMemory:
    """The most of its own pages that the process holds in a `with` block, and by how much they grow."""

    def __enter__(self) -> "PeakMemory":
        own_bytes()  # gives back what the allocator keeps, which would be used again unseen
        self._start = self.most = pages()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        self.growth = self.most - self._start

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self.most = max(self.most, pages())


def pages() -> int:
    """The process's own, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("this system does not say how much memory is a process's own")


def measure(model: ag.LanguageModel, prompt: Any, max_feature_nodes: int, n_rounds: int) -> dict[str, Any]:
    estimated, estimating, seconds, growths, totals = [], [], [], [], []
    for _ in range(n_rounds):
        started = time.perf_counter()
        cost = ag.estimate(model, prompt, max_feature_nodes=max_feature_nodes)
        estimating.append(time.perf_counter() - started)
        estimated.append(sum(cost.seconds.values()))
        started = time.perf_counter()
        graph = ag.trace(model, prompt, max_feature_nodes=max_feature_nodes)
        seconds.append(time.perf_counter() - started)
        assert len(graph.nodes) == cost.n_nodes
        del graph
        with PeakMemory() as peak:  # not the timed one: being watched takes time
            ag.trace(model, prompt, max_feature_nodes=max_feature_nodes)
        growths.append(peak.growth)
        totals.append(peak.most)
    return {
        "estimated_seconds": estimated,
        "estimating_seconds": estimating,
        "seconds": seconds,
        "ratio": statistics.median(estimated) / statistics.median(seconds),
        "estimated_mib": cost.peak_bytes / 2**20,
        "peak_mib": statistics.median(growths) / 2**20,
        "estimated_total_mib": cost.total_bytes / 2**20,
        "total_mib": statistics.median(totals) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", default=list(CASES), help="all by default; others stay as OUT.json has them"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        loaded = {"demo": ag.load_model("demo")}
        for name in arguments.cases:
            which, given, rows = CASES[name]
            if which not in loaded:
                folder = Path(temporary) / which
                folder.mkdir()
                shape, kind = which.split()
                build(folder, shape, is_cross_layer=kind == "cross-layer", active_share=0.0118)
                loaded[which] = ag.load_model(folder / "model", transcoders=folder / "transcoders", device="cpu")
            model = loaded[which]
            prompt = given if isinstance(given, str) else prompt_ids(given, model.d_vocab).tolist()
            found = measure(model, prompt, rows, arguments.rounds)
            report["cases"][name] = found
            print(
                f"{name:<46} estimated / measured: {found['ratio']:.2f} seconds, "
                f"{found['estimated_mib']:.0f} / {found['peak_mib']:.0f} MiB more, "
                f"{found['estimated_total_mib']:.0f} / {found['total_mib']:.0f} MiB in all",
                flush=True,
            )
    if arguments.output:
        earlier = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else report
        found = {**earlier["cases"], **report["cases"]}
        report["cases"] = {name: found[name] for name in CASES if name in found}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
