"""The nodes of a JSON document as rows of a graph's node table."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrgraph.io.check_nodes import MAX_LAYERS
from attrgraph.io.flavours import KINDS_BY_TYPE, LARGEST_SHARE, feature_index, integer, token_of_id
from attrgraph.io.params import counted
from attrgraph.schema import BIAS_ID, ERROR_KINDS, FEATURE_KINDS, LABELLED, OUTPUT, PROBABILITY, node_id

# two happen: an error's older id may be that of a feature of layer 0
_MAX_NODES_OF_ID = 8
_KEYS = frozenset(
    "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx jsNodeId clerp "
    "influence activation".split()
)


@dataclass(frozen=True)
class NodeTable:
    """The nodes of a document, in its order.

    Attributes:
        nodes: the columns of a graph's node table and `is_stated`: whether the file has a cumulative influence.
        n_layers: of the model.
        places: rows that each id of the file stands for; several if the file uses one id twice.
        reads: whether a node can have inputs.
        renamed: the graph's ids for those ids of the file that differ and stand for one node.
        extra: unknown keys, by the graph's ids.
    """

    nodes: pd.DataFrame
    n_layers: int
    places: dict[str, list[int]]
    reads: list[bool]
    renamed: dict[str, str]
    extra: dict[str, dict[str, Any]]


def read_nodes(
    raw_nodes: list[dict[str, Any]], metadata: dict[str, Any], flavour: str, repairs: list[str]
) -> NodeTable:
    """Rows of the node table; copies of a node are left out, and other repairs made as `repairs` then says.

    Args:
        raw_nodes: of the file.
        metadata: of the file, with `prompt_tokens`.
        flavour: see `flavour_of`.
        repairs: sentences, to which this adds.

    Raises:
        KeyError, TypeError, ValueError: a node lacks something or has it of a wrong type.
    """
    n_layers = _n_layers(raw_nodes, integer(metadata.get("n_layers")), has_attention=flavour == "attention")
    tokens, schema = metadata["prompt_tokens"], metadata.get("schema_version")
    rows: list[dict[str, Any]] = []
    ids: list[str] = []
    places: dict[str, list[int]] = {}
    extra: dict[str, dict[str, Any]] = {}
    taken = {BIAS_ID}
    copies, shared, renumbered = [], [], []
    for node in raw_nodes:
        row, raw_id = _row(node, tokens, n_layers, schema), node["node_id"]
        others = [rows[place] for place in places.get(raw_id, [])]
        if any(all(row[name] == other[name] for name in ("kind", "layer", "pos", "feature")) for other in others):
            copies.append(raw_id)
            continue
        if len(others) >= _MAX_NODES_OF_ID:
            raise ValueError(f"node id {raw_id!r:.60} stands for more than {_MAX_NODES_OF_ID} nodes")
        if others:
            shared.append(raw_id)
        name = _name(row, raw_id, n_layers)
        if name in taken:
            renumbered.append(raw_id)
            name = next(
                new for new in (raw_id, *(f"{raw_id}-{n}" for n in range(2, len(raw_nodes) + 3))) if new not in taken
            )
        taken.add(name)
        places.setdefault(raw_id, []).append(len(rows))
        rows.append(row)
        ids.append(name)
        if others_keys := _extra(node, row["kind"]):
            extra[name] = others_keys
    if copies:
        repairs.append(f"{counted(copies, 'node')} left out that stand twice in the file; the first is kept")
    if shared:
        repairs.append(f"{counted(shared, 'id')} of several nodes told apart")
    if renumbered:
        repairs.append(f"{counted(renumbered, 'node')} kept under another id, its own being taken")
    _say_influence(raw_nodes, rows, repairs)
    nodes = pd.DataFrame(rows, index=pd.Index(ids, name="node_id", dtype="str"))
    reads = [row["kind"] in (*FEATURE_KINDS, "logit", "unknown") for row in rows]
    renamed = {raw: ids[at[0]] for raw, at in places.items() if len(at) == 1 and ids[at[0]] != raw}
    return NodeTable(nodes, n_layers, places, reads, renamed, extra)


def _n_layers(raw_nodes: list[dict[str, Any]], stated: int | None, *, has_attention: bool) -> int:
    """Logits stand at layer n_layers + 1 in most files, at n_layers in some; no feature is that high.

    EleutherAI's stand at -1: then it is what the file says, or one above the highest feature.
    """
    inside = [integer(n["layer"]) for n in raw_nodes if _kind(n) in (*FEATURE_KINDS, *ERROR_KINDS)]
    highest = max((layer for layer in inside if layer is not None), default=-1)
    logit_layers = {integer(n["layer"]) for n in raw_nodes if _kind(n) == "logit"}
    if not logit_layers:
        raise ValueError("there is no logit node; a graph explains at least one")
    if len(logit_layers) != 1:
        raise ValueError(f"logit nodes stand at layers {sorted(map(str, logit_layers))}, expected one layer")
    (logit_layer,) = logit_layers
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
    layer = _layer(node, kind, n_layers)
    label = node.get("clerp")
    label = label if isinstance(label, str) else ""
    own_text = node["token"] if isinstance(node.get("token"), str) else None
    text = tokens[pos] if own_text is None else own_text
    feature, probability = -1, _number(node, "token_prob")
    if not 0 <= probability <= LARGEST_SHARE:
        raise ValueError(f"node {node['node_id']!r:.60}: token_prob {probability} is no probability")
    probability = min(probability, 1.0)
    if kind in FEATURE_KINDS:
        feature = feature_index(node, layer, schema)
    elif kind in ("embedding", "logit"):
        of_id = token_of_id(node["node_id"])
        # an embedding's `feature` is its position
        stated = integer(node.get("feature")) if kind == "logit" else None
        feature = of_id if of_id is not None else stated if stated is not None else -1
    if kind == "logit":
        stated_probability, output = PROBABILITY.search(label), OUTPUT.match(label)
        if not probability and stated_probability:
            probability = min(1.0, float(stated_probability[1]))
        text = output[1] if output else LABELLED.sub("", label) if own_text is None else own_text
    cumulative: Any = node.get("influence")
    # a logit's has no meaning, and files have null there
    is_stated = kind != "logit" and type(cumulative) in (int, float) and 0 <= cumulative <= LARGEST_SHARE
    return {
        "kind": kind,
        "layer": layer,
        "pos": pos,
        "feature": feature,
        "token": text,
        "activation": _number(node, "activation"),
        "probability": probability,
        "influence": 0.0,
        "cumulative_influence": float(cumulative) if is_stated else 1.0,
        "label": label,
        "is_stated": is_stated or kind == "logit",
    }


def _layer(node: dict[str, Any], kind: str, n_layers: int) -> int:
    if kind == "embedding":
        return -1
    if kind == "logit":
        return n_layers
    layer = integer(node["layer"])
    if layer is None and kind in ("unknown", "bias"):
        return -1
    if layer is None or not (-1 if kind in ("unknown", "bias") else 0) <= layer < MAX_LAYERS:
        where = f"node {node['node_id']!r:.60}"
        raise ValueError(f"{where}: layer is {node['layer']!r:.60}, expected a number from 0 to {MAX_LAYERS - 1}")
    return layer


def _number(node: dict[str, Any], name: str) -> float:
    """A number, 0 if it is missing or null."""
    return float(node.get(name) or 0.0)


def _name(row: dict[str, Any], raw_id: str, n_layers: int) -> str:
    """The id of a node, as all of this package's graphs have it; of kinds that it never traces, the file's."""
    layer, feature, pos = row["layer"], row["feature"], row["pos"]
    if row["kind"] in ("embedding", "logit") and feature < 0:
        return raw_id  # which token of the vocabulary it is nobody says
    return node_id(row["kind"], layer, pos, feature, n_layers=n_layers) or raw_id


def _extra(node: dict[str, Any], kind: str) -> dict[str, Any]:
    """Unknown keys, and known ones whose value would not be written again."""
    usual = {"is_target_logit": kind == "logit", "run_idx": 0, "reverse_ctx_idx": 0}
    extra = {name: value for name, value in node.items() if name not in _KEYS}
    extra |= {name: node[name] for name, value in usual.items() if name in node and node[name] != value}
    if kind in ("unknown", "bias"):
        extra |= {name: node[name] for name in ("feature_type", "feature") if name in node}
        extra |= {} if integer(node["layer"]) is not None else {"layer": node["layer"]}
    return extra


def _say_influence(raw_nodes: list[dict[str, Any]], rows: list[dict[str, Any]], repairs: list[str]) -> None:
    n_absent = sum(not row["is_stated"] for row in rows)
    if n_absent:
        repairs.append(
            f"the cumulative influence of {n_absent} nodes computed that lack one or have one outside 0 to 1"
        )
