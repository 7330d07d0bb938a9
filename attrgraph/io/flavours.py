"""What the tools that write attribution graphs as JSON call and number things, and how to tell their files apart."""

import re
from math import isqrt
from typing import Any

from attrgraph.io.json_values import integer

FEATURE_TYPES = {
    "feature": "cross layer transcoder",  # the viewers' word for per-layer ones too
    "error": "mlp reconstruction error",
    "embedding": "embedding",
    "logit": "logit",
    "bias": "bias",
    "attention feature": "lorsa",
    "attention error": "lorsa error",
    "unknown": "unknown",
}
KINDS_BY_TYPE = {name: kind for kind, name in FEATURE_TYPES.items()}
# what every viewer knows; of the others Neuronpedia knows lorsa, lorsa error, bias and unknown
COMMON_TYPES = ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit")
SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# 18 digits fit into an int64
_FEATURE_ID = re.compile(r"(\d{1,9})_(?:[A-Za-z]+_)?(\d{1,18})_\d+")
# EleutherAI's: position, layer, feature
_INTERMEDIATE_ID = re.compile(r"intermediate_\d+_(\d{1,9})_(\d{1,18})")
_TOKEN_ID = re.compile(r"(?:[A-Z]|\d{1,9})_(-?\d{1,18})_\d+")


def cantor_pair(layer: int, feature: int) -> int:
    """The number that stands for a feature of a layer in schema version 1."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def cantor_unpair(number: int) -> tuple[int, int]:
    """Layer and feature of a number made by `cantor_pair`."""
    total = (isqrt(8 * number + 1) - 1) // 2
    feature = number - total * (total + 1) // 2
    return total - feature, feature


def feature_of_id(node_id: str, layer: int) -> int | None:
    """The feature's index in `layer_feature_pos`, `layer_cro_feature_pos` and `intermediate_pos_layer_feature`.

    None if the id does not name that layer.
    """
    parts = _FEATURE_ID.fullmatch(node_id) or _INTERMEDIATE_ID.fullmatch(node_id)
    return int(parts[2]) if parts and int(parts[1]) == layer else None


def token_of_id(node_id: str) -> int | None:
    """The vocabulary id in `E_token_pos` and `layer_token_pos`."""
    parts = _TOKEN_ID.fullmatch(node_id)
    return int(parts[1]) if parts else None


def feature_index(node: dict[str, Any], layer: int, schema: Any) -> int:
    """Index of a feature in its layer: from the id if that names the layer, else unpaired, else as it stands.

    Raises:
        ValueError: neither the id nor `feature` says which feature it is.
    """
    of_id = feature_of_id(node["node_id"], layer)
    if of_id is not None:
        return of_id
    number = integer(node.get("feature"))
    if number is None or number < 0:
        raise ValueError(f"node {node['node_id']!r:.60}: feature is {node.get('feature')!r:.60}, expected an integer")
    if schema == 1:
        paired_layer, feature = cantor_unpair(number)
        if paired_layer == layer:
            return feature
    return number


def flavour_of(metadata: dict[str, Any], nodes: list[dict[str, Any]], pins: list[str]) -> str:
    """Which tool's kind of file this is.

    Args:
        metadata: of the file.
        nodes: of the file, with `node_id`, `jsNodeId` and `feature_type`.
        pins: every id that its qParams refer to.

    Returns:
        attrgraph (this package wrote it), attention (Neuronpedia's or OpenMOSS's, with attention features),
        eleutherai, neuronpedia, circuit-tracer schema 1, circuit-tracer schema 0, or anthropic.
    """
    if isinstance(metadata.get("attrgraph"), dict):
        return "attrgraph"
    if any(str(node.get("feature_type")).startswith("lorsa") or "_cro_" in str(node["node_id"]) for node in nodes):
        return "attention"
    ids, js_ids = [node["node_id"] for node in nodes], [node.get("jsNodeId") for node in nodes]
    if nodes and all(js_id == f"{name}-0" for name, js_id in zip(ids, js_ids, strict=True)):
        return "eleutherai"
    if integer(metadata.get("schema_version")) == 1:
        says_so = any("neuronpedia" in str(metadata.get(name)) for name in ("info", "feature_details"))
        return "neuronpedia" if says_so else "circuit-tracer schema 1"
    pinned = set(pins)
    refers_to_js = not pinned <= set(ids) and any(isinstance(name, str) and name in pinned for name in js_ids)
    if refers_to_js or ids == js_ids or any(node.get("reverse_ctx_idx") or _is_foreign_error(node) for node in nodes):
        return "anthropic"
    return "circuit-tracer schema 0"


def _is_foreign_error(node: dict[str, Any]) -> bool:
    """An error node whose id has neither of circuit-tracer's forms."""
    if node.get("feature_type") != "mlp reconstruction error":
        return False
    layer, pos = node.get("layer"), node.get("ctx_idx")
    return node["node_id"] not in (f"0_{layer}_{pos}", f"{layer}_-1_{pos}")
