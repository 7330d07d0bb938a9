"""The nodes of a JSON document as rows of a graph's node table."""

import math
from dataclasses import dataclass
from itertools import count
from typing import Any

import pandas as pd

from attrgraph.io.check_nodes import MAX_LAYERS
from attrgraph.io.flavours import KINDS_BY_TYPE, feature_index, token_of_id
from attrgraph.io.json_values import integer, is_share
from attrgraph.io.problems import say_repaired
from attrgraph.schema import (
    BIAS_ID,
    ERROR_KINDS,
    FEATURE_KINDS,
    LABELLED,
    OUTPUT,
    PROBABILITY,
    marked,
    node_id,
    token_of_label,
)

# two happen: an error's older id may be that of a feature of layer 0
_MAX_NODES_OF_ID = 8
_KEYS = frozenset(
    "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx jsNodeId clerp "
    "influence activation bias_share logit_token target_layer".split()
)


@dataclass(frozen=True)
class NodeTable:
    """The nodes of a document, in its order.

    Attributes:
        nodes: the columns of a graph's node table and `is_stated`: whether the file has a cumulative influence.
        n_layers: of the model.
        places: rows that each id of the file stands for; several if the file uses one id twice.
        extra: unknown keys, by the graph's ids.
    """

    nodes: pd.DataFrame
    n_layers: int
    places: dict[str, list[int]]
    extra: dict[str, dict[str, Any]]

    def names(self) -> dict[str, list[str]]:
        """The graph's ids for each id of the file."""
        ids = self.nodes.index.tolist()
        return {raw_id: [ids[place] for place in places] for raw_id, places in self.places.items()}


def read_nodes(
    raw_nodes: list[dict[str, Any]], metadata: dict[str, Any], flavour: str, repairs: list[str]
) -> NodeTable:
    """Rows of the node table; copies of a node are left out, and other repairs made as `repairs` then says.

    Args:
        raw_nodes: of the file, in which `check_nodes` found nothing that this package needs otherwise.
        metadata: of the file, with `prompt_tokens`.
        flavour: see `flavour_of`.
        repairs: sentences, to which this adds.

    Raises:
        ValueError: nodes contradict each other, or do not say which feature they are.
    """
    n_layers = _n_layers(raw_nodes, integer(metadata.get("n_layers")), has_attention=flavour == "attention")
    tokens, schema = metadata["prompt_tokens"], metadata.get("schema_version")
    rows: dict[str, dict[str, Any]] = {}
    places: dict[str, list[int]] = {}
    extra: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[tuple[Any, ...]]] = {}
    copies, shared, renumbered = [], [], []
    for node in raw_nodes:
        row, raw_id = _row(node, tokens, n_layers, schema), node["node_id"]
        same_id, key = seen.setdefault(raw_id, []), (row["kind"], row["layer"], row["pos"], row["feature"])
        if key in same_id:
            copies.append(raw_id)
            continue
        if len(same_id) >= _MAX_NODES_OF_ID:
            raise ValueError(f"node id {raw_id!r:.60} stands for more than {_MAX_NODES_OF_ID} nodes")
        if same_id:
            shared.append(raw_id)
        name = _name(row, raw_id, n_layers)
        if name in rows or name == BIAS_ID:
            renumbered.append(raw_id)
            name, n = raw_id, count(2)
            while name in rows or name == BIAS_ID:
                name = f"{raw_id}-{next(n)}"
        same_id.append(key)
        places.setdefault(raw_id, []).append(len(rows))
        rows[name] = row
        if others := _extra(node, row["kind"], row["label"]):
            extra[name] = others
    say_repaired(repairs, copies, "node", "left out that stand twice in the file; the first is kept")
    say_repaired(repairs, shared, "id", "of several nodes told apart")
    say_repaired(repairs, renumbered, "node", "kept under another id, its own being taken")
    n_absent = sum(not row["is_stated"] for row in rows.values())
    if n_absent:
        repairs.append(
            f"the cumulative influence of {n_absent} nodes computed that lack one or have one outside 0 to 1"
        )
    nodes = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="node_id", dtype="str"))
    return NodeTable(nodes, n_layers, places, extra)


def _n_layers(raw_nodes: list[dict[str, Any]], stated: int | None, *, has_attention: bool) -> int:
    """Logits stand at layer n_layers + 1 in most files, at n_layers in some; no feature is that high.

    EleutherAI's stand at -1: then it is what the file says, or one above the highest feature.
    """
    highest = max(
        (integer(n["layer"]) or 0 for n in raw_nodes if _kind(n) in (*FEATURE_KINDS, *ERROR_KINDS)), default=-1
    )
    logit_layers = {integer(n["layer"]) for n in raw_nodes if _kind(n) == "logit"}
    if len(logit_layers) != 1:
        raise ValueError(f"logit nodes stand at layers {sorted(map(str, logit_layers))}, expected one layer")
    logit_layer = logit_layers.pop()
    if logit_layer in (None, -1):
        return highest + 1 if stated is None or not highest < stated <= MAX_LAYERS else stated
    assert logit_layer is not None
    if not 0 <= logit_layer <= MAX_LAYERS + 1:
        raise ValueError(f"logit nodes stand at layer {logit_layer}, expected one from 0 to {MAX_LAYERS + 1}")
    # files with attention features have them at n_layers
    n_layers = logit_layer if has_attention or logit_layer - 1 <= highest else logit_layer - 1
    return max(n_layers, highest + 1)


def _kind(node: dict[str, Any]) -> str:
    return KINDS_BY_TYPE.get(node["feature_type"], "unknown")


def _row(node: dict[str, Any], tokens: list[str], n_layers: int, schema: Any) -> dict[str, Any]:
    kind, pos = _kind(node), node["ctx_idx"]
    fixed = {"embedding": -1, "logit": n_layers}
    stated = integer(node["layer"])
    layer = fixed.get(kind, -1 if stated is None else stated)
    label = node["clerp"] if isinstance(node.get("clerp"), str) else ""
    text = node["token"] if isinstance(node.get("token"), str) else None
    probability, feature = min(_number(node, "token_prob"), 1.0), -1
    if kind in FEATURE_KINDS:
        feature = feature_index(node, layer, schema)
    elif kind in fixed:
        # an embedding's `feature` is its position
        number = integer(node.get("feature")) if kind == "logit" else None
        feature = next((n for n in (token_of_id(node["node_id"]), number) if n is not None), -1)
    if kind == "logit":
        stated_probability = PROBABILITY.search(label)
        if not probability and stated_probability:
            probability = min(1.0, float(stated_probability[1]))
        # others write the last token of the prompt as its `token`
        own, output = node.get("logit_token"), OUTPUT.match(label)
        text = own if isinstance(own, str) else token_of_label(label) if output or text is None else text
        below = integer(node.get("target_layer"))
        layer = below if below is not None and 0 <= below <= n_layers else n_layers
        unmarked = LABELLED.sub("", label)
        if not output and label == marked(unmarked, probability):
            label = unmarked  # a user's, to which viewers need the probability added
    # a logit's has no meaning, and files have null there
    has_influence = kind != "logit" and is_share(node.get("influence"))
    return {
        "kind": kind,
        "layer": layer,
        "pos": pos,
        "feature": feature,
        "token": tokens[pos] if text is None else text,
        "activation": _number(node, "activation"),
        "probability": probability,
        "bias_share": node["bias_share"] if is_share(node.get("bias_share")) else math.nan,
        "influence": 0.0,
        "cumulative_influence": float(node["influence"]) if has_influence else 1.0,
        "label": label,
        "is_stated": has_influence or kind == "logit",
    }


def _number(node: dict[str, Any], name: str) -> float:
    """A number, 0 if it is missing or null."""
    return float(node.get(name) or 0.0)


def _name(row: dict[str, Any], raw_id: str, n_layers: int) -> str:
    """The id of a node, as all of this package's graphs have it; of kinds that it never traces, the file's."""
    if row["kind"] in ("embedding", "logit") and row["feature"] < 0:
        return raw_id  # which token of the vocabulary it is nobody says
    return node_id(row["kind"], row["layer"], row["pos"], row["feature"], n_layers=n_layers) or raw_id


def _extra(node: dict[str, Any], kind: str, label: str) -> dict[str, Any]:
    """Unknown keys, and known ones whose value would not be written again."""
    usual = {"is_target_logit": kind == "logit", "run_idx": 0, "reverse_ctx_idx": 0}
    extra = {name: value for name, value in node.items() if name not in _KEYS}
    extra |= {name: node[name] for name, value in usual.items() if name in node and node[name] != value}
    if label and label != node["clerp"]:
        extra["clerp"] = node["clerp"]
    if kind in ("unknown", "bias"):
        kept = ("feature_type", "feature", *(() if integer(node["layer"]) is not None else ("layer",)))
        extra |= {name: node[name] for name in kept if name in node}
    return extra
