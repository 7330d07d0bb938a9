"""How the cost of a trace grows: `python benchmarks/scaling.py [-o OUT.json] [--figure OUT.svg]`.

GPT-2-small's shape with cross-layer transcoders; tokens, feature rows and active features change one at a time.
Seconds are of the edges, fastest of `--repeats` traces, each case in a process of its own; exponents are slopes of
least-squares lines through logarithms.
"""

import argparse
import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from attribution import build, in_own_process
from work import machine

# (tokens, rows, share of features that are active at a token)
BASE = {"tokens": 64, "rows": 1000, "active_share": 0.0118}
VARIED = {
    "tokens": [16, 32, 64, 128, 256],
    "rows": [250, 500, 1000, 2000, 4000],
    "active_share": [0.003, 0.006, 0.0118, 0.024],
}
LABELS = {"tokens": "tokens", "rows": "feature rows", "n_active": "active features"}


def measure(folder: Path, case: dict[str, float], repeats: int) -> dict[str, Any]:
    where = folder / f"{case['active_share']}"
    if not where.exists():
        where.mkdir()
        build(where, "gpt2", is_cross_layer=True, active_share=case["active_share"])
    options = argparse.Namespace(device="cpu", repeats=repeats)
    found = in_own_process("ours", where, options, int(case["tokens"]), int(case["rows"]), 0)
    kept = {name: found[name] for name in ("n_active", "peak_gib", "seconds", "phases", "work")}
    return {**case, **kept}


def exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(report: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, len(VARIED), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (name, series) in zip(axes, report["series"].items(), strict=True):
        x, y = series["x"], series["seconds"]
        axis.loglog(x, y, "o-", color="#2563a8", label="measured")
        fitted = np.exp(np.polyval(np.polyfit(np.log(x), np.log(y), 1), np.log(x)))
        axis.loglog(x, fitted, "--", color="#888888", label=f"exponent {series['exponent']:.2f}")
        axis.set_xlabel(LABELS[name])
        axis.legend(frameon=False)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds for the edges")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    cases: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, values in VARIED.items():
            for value in values:
                found = measure(Path(temporary), {**BASE, name: value}, arguments.repeats)
                cases.setdefault(name, []).append(found)
                print(name, value, found, flush=True)
    series = {}
    for name, found in cases.items():
        what = "n_active" if name == "active_share" else name
        x, y = [float(case[what]) for case in found], [case["phases"]["edges"] for case in found]
        operations = [case["work"]["flop"] for case in found]
        series[what] = {"x": x, "seconds": y, "exponent": exponent(x, y), "flop_exponent": exponent(x, operations)}
        print(f"{LABELS[what]}: seconds grow with exponent {series[what]['exponent']:.2f}", flush=True)
    report = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "series": series,
        "cases": cases,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(report, arguments.figure)


if __name__ == "__main__":
    main()
