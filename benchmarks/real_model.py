"""Train transcoders on a model made by others: `python benchmarks/real_model.py MODEL TEXT -o OUT.json`.

MODEL is a folder in Hugging Face format with a tokenizer, TEXT a file with a document a line. Trains a cross-layer and
a per-layer set for the same number of minutes with `attrgraph train`, evaluates both and the model's own top-k neurons
on the held-out documents, traces a prompt with each, and writes what was measured with the curves against time.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import attrgraph as ag

# minutes at which the curves are quoted
MARKS = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30)
SETS = {"cross_layer": "--cross-layer", "per_layer": "--per-layer"}


def attrgraph(*arguments: object) -> str:
    """What a verb prints."""
    command = [sys.executable, "-m", "attrgraph.cli.main", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def curve(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run at the marks that it passed: the last record before each, with the agreement last seen."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points, latest, marks = [], dict[str, Any](), list(MARKS)
    for record in map(json.loads, lines):
        while marks and record["seconds"] > 60 * marks[0]:
            shown = ("tokens", "nmse", "l0", "dead_fraction", "agreement")
            points.append({"minutes": marks.pop(0), **{name: latest[name] for name in shown if name in latest}})
        latest |= record
    return points


def measure(model: Path, text: Path, scratch: Path, options: list[str], prompt: str) -> dict[str, Any]:
    results: dict[str, Any] = {"model": model.name, "options": " ".join(options), "prompt": prompt}
    for name, kind in SETS.items():
        attrgraph("train", model, "--text", text, kind, *options, "-o", scratch / name, "--json")
    beside = ["--compare-with", scratch / "per_layer"]
    report = json.loads(attrgraph("evaluate", model, scratch / "cross_layer", "--text", text, *beside, "--json"))
    others = dict(zip(("per_layer", "top_k_neurons"), report.pop("compared").values(), strict=True))
    for name, measured in {"cross_layer": report, **others}.items():
        for layer in measured["per_layer"]:
            del layer["density"]
        shown = (
            "nmse",
            "l0",
            "dead_fraction",
            "top1_agreement",
            "kl",
            "ce_recovered",
            "intervals",
            "graphs",
            "per_layer",
        )
        results[name] = {key: measured[key] for key in shown}
    results["held_out"] = {key: report[key] for key in ("split", "n_tokens", "n_documents")}
    for name in SETS:
        results[name]["curve"] = curve(scratch / name)
        graph = ag.trace(ag.load_model(model, transcoders=scratch / name), prompt)
        results[name]["trace"] = {
            "nodes": graph.nodes["kind"].value_counts().to_dict(),
            "scores": graph.scores()._asdict(),
            "checks": graph.metadata["checks"],
        }
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--minutes", default="10")
    parser.add_argument("--features", default="1024")
    parser.add_argument("--l0", default="40")
    parser.add_argument("--prompt", default="Once upon a time, there was a bo")
    arguments = parser.parse_args()
    options = ["--features", arguments.features, "--l0", arguments.l0, "--max-minutes", arguments.minutes]
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(arguments.model, arguments.text, Path(scratch), options, arguments.prompt)
    measured["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    measured["versions"] = {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers")}}
    if arguments.output:
        arguments.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))
