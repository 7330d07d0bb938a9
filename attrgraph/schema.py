"""What a graph's table of nodes holds: kinds, columns, ids and labels of nodes, in one place."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple

import pandas as pd
from scipy import sparse

# files keep a kind as its place in this tuple; the last three are in other tools' graphs only
KINDS = ("feature", "error", "embedding", "logit", "bias", "attention feature", "attention error", "unknown")
# attention features and errors are in other tools' graphs; they take part like those of MLPs
FEATURE_KINDS = ("feature", "attention feature")
ERROR_KINDS = ("error", "attention error")
BIAS_ID = "B"
_IDS = {
    "feature": "{layer}_{feature}_{pos}",
    "error": "{layer}_-1_{pos}",
    "attention feature": "{layer}_lor_{feature}_{pos}",
    "attention error": "{layer}_error_attn_{pos}",
    "embedding": "E_{feature}_{pos}",
    "logit": "{above}_{feature}_{pos}",
    "bias": BIAS_ID,
}
_LABELS = {
    "feature": "L{layer} feature {feature}",
    "error": "L{layer} error",
    "attention error": "L{layer} attention error",
    "embedding": 'Emb: "{token}"',
    "logit": 'Output "{token}" (p={probability:.3f})',
}
# columns of the node table and their types; "str" is what pandas calls text
COLUMNS = {
    "kind": "str",
    "layer": "int64",
    "pos": "int64",
    "feature": "int64",
    "token": "str",
    "activation": "float64",
    "probability": "float64",
    "bias_share": "float64",
    "influence": "float64",
    "cumulative_influence": "float64",
    "label": "str",
}
# of a logit's label: its probability, the text before it, and both at the end
_SHARE = r"[0-9]*\.?[0-9]+(?:e-?[0-9]+)?"
PROBABILITY = re.compile(rf"\(p=({_SHARE})\)")
OUTPUT = re.compile(r'^(?:Output|Logit|output:) "(.*)" \(p=', re.DOTALL)
LABELLED = re.compile(rf" ?\(p={_SHARE}\)$")
# another way to write the id of a feature or an error: layer/feature@position
_PLACE = re.compile(r"(\d+)/(-1|\d+)@(\d+)")
_FEATURE = re.compile(r"L?([0-9]{1,9})(?:[/_:]| feature )([0-9]{1,18})(?:[@_][0-9]+)?")


def inexact_note(metadata: Mapping[str, Any]) -> str:
    """By how much a graph is not exact that says so of itself; empty for every other."""
    checks = metadata.get("checks")
    if not isinstance(checks, Mapping) or checks.get("is_exact") is not False:
        return ""
    found = (checks.get(name) for name in ("logit_deviation", "input_sum_gap"))
    of_logits, of_sums = (value if isinstance(value, int | float) else math.nan for value in found)
    return f"NOT EXACT: logits are off by {of_logits:.3g}, inputs' sums by {of_sums:.1g} of the input"


class GraphParts(NamedTuple):
    """What a `Graph` is made of, as files are read."""

    nodes: pd.DataFrame
    adjacency: sparse.csr_array
    prompt_tokens: list[str]
    metadata: dict[str, Any]


def node_table(nodes: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order and of their types; shares of the bias that nobody has stated are NaN."""
    return nodes.assign(**{"bias_share": math.nan, **nodes})[list(COLUMNS)].astype(COLUMNS)


def node_id(kind: str, layer: int, pos: int, feature: int = -1, *, n_layers: int = 0) -> str | None:
    """The id of a node; None for kinds that have no rule.

    Args:
        kind: one of `KINDS`.
        layer: of features and errors.
        pos: the node's position.
        feature: a feature's index in its layer; the vocabulary id of an embedding or a logit.
        n_layers: of the model: logits stand above its layers.
    """
    form = _IDS.get(kind)
    return None if form is None else form.format(layer=layer, pos=pos, feature=feature, above=n_layers + 1)


def canonical_id(name: str) -> str:
    """A node's id as graphs have it: `3_458_8` for `3/458@8`; any other text as it is."""
    place = _PLACE.fullmatch(name.strip())
    return "_".join(place.groups()) if place else name


def feature_place(name: str) -> tuple[int, int] | None:
    """Layer and index of a feature: of 3/458, 3_458, 3:458, L3/458, its label, or its node's id; None of all else."""
    place = _FEATURE.fullmatch(name.strip())
    return (int(place[1]), int(place[2])) if place else None


def marked(label: str, probability: float) -> str:
    """A logit's label with its probability, as viewers need it."""
    return f"{label} (p={probability:.3f})"


def token_of_label(label: str) -> str:
    """The token that a logit's label names, in files that do not state it."""
    output = OUTPUT.match(label)
    return output[1] if output else LABELLED.sub("", label)


def answer_of(nodes: pd.DataFrame, metadata: Mapping[str, Any]) -> tuple[str, float]:
    """The answer and its probability: the most probable target, or all tokens of an answer of several together.

    Args:
        nodes: a graph's, with at least one logit.
        metadata: the graph's.
    """
    stated = metadata.get("answer")
    if stated is not None:
        return str(stated["text"]), float(stated["probability"])
    logits = nodes[nodes["kind"] == "logit"]
    best = logits.loc[logits["probability"].idxmax()]
    return str(best["token"]), float(best["probability"])


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, those that occur again with a number after a dash: in order, and no two alike."""
    out = list(names)
    taken, seen, numbers = set(out), set[str](), defaultdict[str, Any](lambda: count(2))
    for place, name in enumerate(out):
        if name in seen:
            out[place] = next(new for number in numbers[name] if (new := f"{name}-{number}") not in taken)
            taken.add(out[place])
        seen.add(out[place])
    return out


def node_label(kind: str, layer: int, feature: int, token: str, probability: float = 0.0) -> str:
    """What a node is called as long as nobody has named it."""
    return _LABELS.get(kind, kind).format(layer=layer, feature=feature, token=token, probability=probability)


def with_names(nodes: pd.DataFrame, labels: Mapping[tuple[int, int], str], *, n_layers: int) -> pd.DataFrame:
    """The nodes with their ids as index and a column `label`.

    Args:
        nodes: columns `kind`, `layer`, `pos`, `feature`, `token`, and `probability` if there are logits.
        labels: of features, by layer and feature.
        n_layers: of the model.
    """
    ids, names = [], []
    for row in nodes.itertuples():
        ids.append(node_id(row.kind, row.layer, row.pos, row.feature, n_layers=n_layers))
        label = labels.get((row.layer, row.feature)) if row.kind == "feature" else None
        name = node_label(row.kind, row.layer, row.feature, row.token, getattr(row, "probability", 0.0))
        names.append(label or name)
    return nodes.assign(label=names).set_axis(pd.Index(ids, name="node_id", dtype="str"))
