"""Evaluations as tables, next to each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from attrgraph.cli.output import print_files, print_table, print_text

if TYPE_CHECKING:
    from attrgraph.evaluation import Evaluation

# measure in the JSON report, its name in the table, format
_ROWS = (
    ("nmse", "NMSE", ".4f"),
    ("l0", "L0", ".1f"),
    ("dead_fraction", "dead", ".1%"),
    ("top1_agreement", "top-1 agreement", ".3f"),
    ("kl", "KL, nats", ".4f"),
    ("ce_recovered", "CE recovered", ".4f"),
    ("graph_replacement", "graph replacement", ".3f"),
    ("graph_completeness", "graph completeness", ".3f"),
)


def print_tables(found: "Mapping[str, Evaluation]", *, documents: str, files: Sequence[Path]) -> None:
    """Write to stdout: what was measured on, the measures with their intervals, and by layer what has no interval."""
    first = next(iter(found.values()))
    print_text(f"{first.n_tokens:,} tokens in {first.n_documents:,} documents: {documents}; {left_out(first)}\n")
    measures = {name: [_with_interval(one, key, form) for key, _, form in _ROWS] for name, one in found.items()}
    print_table(pd.DataFrame({"": [label for _, label, _ in _ROWS], **measures}), right=True)
    print_text("")
    layers = {"\nlayer": [str(layer.layer) for layer in first.per_layer]}
    for name, evaluation in found.items():
        layers[f"{name}\nNMSE"] = [f"{layer.nmse:.4f}" for layer in evaluation.per_layer]
        layers[f"({name})\nL0"] = [f"{layer.l0:.1f}" for layer in evaluation.per_layer]
        layers[f"({name})\ndead"] = [f"{layer.dead_fraction:.1%}" for layer in evaluation.per_layer]
    print_table(pd.DataFrame(layers), right=True)
    print_files(files)


def left_out(evaluation: "Evaluation") -> str:
    """How many tokens were not measured, and why."""
    sinks = f" and {evaluation.n_sinks:,} attention sinks" if evaluation.n_sinks else ""
    return f"left out {evaluation.n_skipped:,}: {evaluation.settings['skipped']}{sinks}"


def _with_interval(evaluation: "Evaluation", key: str, form: str) -> str:
    graph_scores = {f"graph_{name}": score for name, score in evaluation.graphs.to_dict().items()}
    value = {**evaluation.headline(), **graph_scores}[key]
    if value is None:
        return "-"
    ends = evaluation.intervals.get(key)
    return f"{value:{form}}" + ("" if ends is None else f" ({ends[0]:{form}} to {ends[1]:{form}})")
