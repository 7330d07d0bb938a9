"""Graphs as JSON, the way other tools' viewers read and write them.

Profiles differ in ids and numbers only. `neuronpedia` is what every viewer accepts: Cantor-paired features, jsNodeId
equal to node_id. `circuit-tracer` has its jsNodeIds, which group a feature over positions. `anthropic` has plain
feature numbers and is keyed by jsNodeId. In every profile `influence` is the cumulative share: 0 is most important.
"""

import json
import re
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import GraphFileError
from attrgraph.formats import PROFILES
from attrgraph.graph import Graph, node_table, with_influence
from attrgraph.output import write_whole

_FEATURE_TYPES = {
    "feature": "cross layer transcoder",  # the viewers' word for per-layer ones too
    "error": "mlp reconstruction error",
    "embedding": "embedding",
    "logit": "logit",
}
_KINDS = {name: kind for kind, name in _FEATURE_TYPES.items()}
_PROBABILITY = re.compile(r"\(p=([0-9.]+)\)")
_OUTPUT = re.compile(r'^Output "(.*)" \(p=', re.DOTALL)


def cantor_pair(layer: int, feature: int) -> int:
    """The number that stands for a feature of a layer in schema version 1."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def cantor_unpair(number: int) -> tuple[int, int]:
    """Layer and feature of a number made by `cantor_pair`."""
    total = (isqrt(8 * number + 1) - 1) // 2
    feature = number - total * (total + 1) // 2
    return total - feature, feature


def write_json(graph: Graph, path: str | Path, profile: str, *, overwrite: bool = False) -> None:
    """Write the graph without its bias node, compact and whole.

    Raises:
        GraphFileError: an unknown profile, or the file cannot be written.
    """
    text = json.dumps(to_dict(graph, profile), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=overwrite)


def to_dict(graph: Graph, profile: str) -> dict[str, Any]:
    """The JSON document of a profile."""
    if profile not in PROFILES:
        raise GraphFileError(f"unknown JSON profile {profile!r}; expected one of {', '.join(PROFILES)}.")
    graph = graph.without_bias()
    nodes = [_node(row, profile, graph.n_layers) for row in graph.nodes.itertuples()]
    edges = graph.adjacency.tocoo()
    ids = graph.nodes.index.to_numpy()
    links = [
        {"source": source, "target": target, "weight": float(weight)}
        for source, target, weight in zip(ids[edges.col], ids[edges.row], edges.data, strict=True)
    ]
    return {
        "metadata": _metadata(graph, profile),
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    }


def _slug(text: str, default: str) -> str:
    """Only what viewers accept in names: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:60] or default


def _metadata(graph: Graph, profile: str) -> dict[str, Any]:
    ours = graph.metadata
    scan = ours.get("transcoders", {}).get("scan") or ours.get("model", {}).get("id") or "unknown"
    scan = _slug("-".join(scan) if isinstance(scan, list) else str(scan), "unknown")
    pruning = ours.get("pruning", {"node_threshold": 1.0, "edge_threshold": 1.0})
    settings = ours.get("settings", {})
    prompt = str(ours.get("prompt") or "".join(graph.prompt_tokens))
    return {
        "slug": _slug(prompt, "graph"),
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": graph.prompt_tokens,
        "prompt": prompt,
        "node_threshold": pruning["node_threshold"],
        **({} if profile == "anthropic" else {"schema_version": 1}),
        "info": {
            "description": "attribution graph",
            "creator_name": "attrgraph",
            "source_urls": [],
            "generator": {**ours.get("generator", {"name": "attrgraph", "version": ""}), "url": ""},
            "neuronpedia_source_set": scan,
        },
        "generation_settings": {
            key: settings[key] for key in ("max_n_logits", "desired_logit_prob", "max_feature_nodes") if key in settings
        },
        "pruning_settings": pruning,
        "feature_details": {"neuronpedia_source_set": scan},
        "attrgraph": ours,
    }


def _node(row: Any, profile: str, n_layers: int) -> dict[str, Any]:
    layer, feature, pos, kind = int(row.layer), int(row.feature), int(row.pos), str(row.kind)
    number: int = feature
    if kind == "feature" and profile != "anthropic":
        number = cantor_pair(layer, feature)
    elif kind == "embedding":
        number = pos
    js_id = {
        "feature": f"{layer}_{feature}-0",
        "error": f"{layer}_{pos}-0",
        "embedding": f"E_{feature}-{pos}",
        "logit": f"L_{feature}-{pos}",
    }[kind]
    return {
        "node_id": row.Index,
        "feature": number,
        "layer": {"embedding": "E", "logit": str(n_layers + 1)}.get(kind, str(layer)),
        "ctx_idx": pos,
        "feature_type": _FEATURE_TYPES[kind],
        "token_prob": float(row.probability),
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        # a feature's positions share this id in circuit-tracer's viewer; elsewhere it must be unique
        "jsNodeId": js_id if profile == "circuit-tracer" else row.Index,
        "clerp": row.label,
        "influence": None if kind == "logit" else float(row.cumulative_influence),
        "activation": float(row.activation) if kind == "feature" else None,
    }


def from_dict(document: Any, where: str) -> Graph:
    """A graph from a parsed JSON document of any of the profiles.

    `influence` is computed anew from the document's edges; the document's own is kept as `cumulative_influence`.

    Raises:
        GraphFileError: what the document lacks or contradicts.
    """
    try:
        metadata, raw_nodes, links = dict(document["metadata"]), list(document["nodes"]), list(document["links"])
        tokens = [str(token) for token in metadata["prompt_tokens"]]
        n_layers = _n_layers(raw_nodes)
        rows = [_read_node(node, tokens, n_layers, metadata.get("schema_version")) for node in raw_nodes]
        ids = [str(node["node_id"]) for node in raw_nodes]
        place = {name: i for i, name in enumerate(ids)}
        targets = np.array([place[link["target"]] for link in links], dtype=np.int64)
        sources = np.array([place[link["source"]] for link in links], dtype=np.int64)
        weights = np.array([link["weight"] for link in links], dtype=np.float32)
        q_params = dict(document.get("qParams") or {})
        ours = _our_metadata(metadata)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as e:
        raise GraphFileError(f"{where}: not an attribution graph ({type(e).__name__}: {e}).") from e
    nodes = pd.DataFrame(rows)
    nodes.index = pd.Index(nodes.pop("node_id"), name="node_id", dtype="str")
    if not nodes.index.is_unique or len(place) != len(ids):
        raise GraphFileError(f"{where}: node ids are not unique.")
    if not np.isfinite(weights).all():
        raise GraphFileError(f"{where}: a link's weight is not finite.")
    present = weights != 0
    weights, targets, sources = weights[present], targets[present], sources[present]
    adjacency = sparse.csr_array((weights, (targets, sources)), shape=(len(nodes), len(nodes)))
    order = np.lexsort((nodes["pos"], nodes["layer"], nodes["kind"].map(list(_FEATURE_TYPES).index)))
    nodes, adjacency = nodes.iloc[order], sparse.csr_array(adjacency[order][:, order])
    try:
        cumulative = nodes["cumulative_influence"]
        nodes = node_table(with_influence(nodes, adjacency).assign(cumulative_influence=cumulative))
    except ValueError as e:
        raise GraphFileError(f"{where}: {e}.") from e
    return Graph(nodes, adjacency, tokens, {**ours, "n_layers": n_layers, "qParams": q_params})


def _our_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What this package wrote, if it did; else the prompt, the pruning if stated, and the rest as it stands."""
    ours = metadata.pop("attrgraph", None)
    if ours is not None:
        return dict(ours)
    taken = {"prompt": str(metadata.get("prompt", "")), "file_metadata": metadata}
    pruning = metadata.get("pruning_settings") or {}
    names = ("node_threshold", "edge_threshold")
    if all(isinstance(pruning.get(name), int | float) for name in names):
        taken["pruning"] = {name: float(pruning[name]) for name in names}
    return taken


def _n_layers(raw_nodes: list[dict[str, Any]]) -> int:
    """Logits stand at layer n_layers + 1 in most files, at n_layers in some; no feature is that high."""
    inside = ("cross layer transcoder", "mlp reconstruction error")
    inner = [int(node["layer"]) for node in raw_nodes if node["feature_type"] in inside]
    logit_layers = {int(n["layer"]) for n in raw_nodes if n["feature_type"] == "logit"}
    if len(logit_layers) != 1:
        raise ValueError(f"logit nodes stand at layers {sorted(logit_layers)}")
    (logit_layer,) = logit_layers
    return logit_layer - 1 if logit_layer - 1 > max(inner, default=-1) else logit_layer


def _read_node(node: dict[str, Any], tokens: list[str], n_layers: int, schema: int | None) -> dict[str, Any]:
    if node["feature_type"] not in _KINDS:
        raise ValueError(f"feature_type {node['feature_type']!r} is not known")
    kind, pos, label = _KINDS[node["feature_type"]], int(node["ctx_idx"]), str(node.get("clerp") or "")
    id_parts = str(node["node_id"]).split("_")
    layer = {"embedding": -1, "logit": n_layers}.get(kind)
    layer = int(node["layer"]) if layer is None else layer
    if pos < 0:
        raise ValueError(f"ctx_idx {pos} is negative")
    text, probability, feature = tokens[pos], float(node.get("token_prob") or 0.0), -1
    if not 0 <= probability <= 1:
        raise ValueError(f"token_prob {probability} is no probability")
    if kind == "feature":
        feature = _feature_index(node, layer, id_parts, schema)
    elif kind in ("embedding", "logit"):
        feature = int(id_parts[1]) if len(id_parts) == 3 and id_parts[1].isdigit() else int(node["feature"] or 0)
    if kind == "logit":
        stated = _PROBABILITY.search(label)
        probability = probability or (float(stated.group(1)) if stated else 0.0)
        output = _OUTPUT.match(label)
        text = output.group(1) if output else label
    prefix = {"feature": f"{layer}_{feature}", "error": f"{layer}_-1", "embedding": f"E_{feature}"}
    cumulative = node.get("influence")
    return {
        "node_id": f"{prefix.get(kind, f'{n_layers + 1}_{feature}')}_{pos}",
        "kind": kind,
        "layer": layer,
        "pos": pos,
        "feature": feature,
        "token": text,
        "activation": float(node.get("activation") or 0.0),
        "probability": probability,
        "influence": 0.0,
        "cumulative_influence": 1.0 if cumulative is None else float(cumulative),
        "label": label,
    }


def _feature_index(node: dict[str, Any], layer: int, id_parts: list[str], schema: int | None) -> int:
    """Index in its layer: from the id if that names the layer, else unpaired, else the number as it stands."""
    if len(id_parts) == 3 and id_parts[0] == str(layer) and id_parts[1].isdigit():
        return int(id_parts[1])
    number = int(node["feature"])
    if schema == 1:
        paired_layer, feature = cantor_unpair(number)
        if paired_layer == layer:
            return feature
    return number
