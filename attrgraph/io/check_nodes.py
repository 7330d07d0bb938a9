"""What is wrong with the nodes and links of a JSON document. Nothing here raises, whatever the document holds."""

from collections import Counter
from math import isfinite
from typing import Any

import numpy as np
from scipy import sparse

from attrgraph.influence.influence import node_levels
from attrgraph.io.flavours import (
    COMMON_TYPES,
    FEATURE_TYPES,
    KINDS_BY_TYPE,
    LARGEST_SHARE,
    cantor_unpair,
    feature_of_id,
    integer,
)
from attrgraph.io.problems import ANTHROPIC, CIRCUIT_TRACER, EVERY_VIEWER, NEURONPEDIA, US, Findings
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS, PROBABILITY

Node = dict[str, Any]
# integers above this are rounded in a browser
_EXACT_IN_BROWSERS = 2**53
_LARGEST = float(np.finfo(np.float32).max)
# keys without which a node cannot be read, and without which it cannot be shown
_NEEDED, _SHOWN = ("feature_type", "layer", "ctx_idx"), ("jsNodeId", "feature", "clerp")
# no model is that deep, and every layer costs a step in influence
MAX_LAYERS = 1000
_FEATURE_TYPES = tuple(FEATURE_TYPES[kind] for kind in FEATURE_KINDS)
_SHOWN_BY_INFLUENCE = tuple(FEATURE_TYPES[kind] for kind in (*FEATURE_KINDS, *ERROR_KINDS))


def check_nodes(nodes: list[Node], metadata: Node, tokens: list[str] | None, findings: Findings) -> None:
    """Findings about nodes, all of which have an id."""
    _check_fields(nodes, tokens, findings)
    _check_ids(nodes, findings)
    _check_types(nodes, findings)
    _check_influence(nodes, findings)
    _check_numbers(nodes, metadata.get("schema_version"), findings)


def check_links(links: list[Node], nodes: list[Node], findings: Findings) -> None:
    """Findings about links, all of which are objects."""
    place = {node["node_id"]: i for i, node in enumerate(nodes)}
    wrong, dangling, weights_wrong, n_zero = [], [], [], 0
    ends: list[tuple[int, int]] = []
    for i, link in enumerate(links):
        source, target, weight = link.get("source"), link.get("target"), link.get("weight")
        if not (isinstance(source, str) and isinstance(target, str)):
            wrong.append(f"links[{i}]")
            continue
        if type(weight) not in (int, float) or not _is_float32(weight):
            weights_wrong.append(f"{source} -> {target}: {weight!r:.30}")
        n_zero += weight == 0
        if source in place and target in place:
            ends.append((place[source], place[target]))
        else:
            dangling.append(f"{source} -> {target}")
    findings.add_each("error", "link-shape", wrong, "links whose source or target is no text", US, *EVERY_VIEWER)
    findings.add_each(
        "error", "link-weight", weights_wrong, "links whose weight is no finite number", US, *EVERY_VIEWER
    )
    findings.add_each(
        "error", "dangling-link", dangling, "links from or to a node that is not in the file", *EVERY_VIEWER
    )
    if n_zero:
        findings.add("note", "zero-link", f"{n_zero} links of weight 0")
    counts = Counter(ends)
    repeated = [f"{nodes[s]['node_id']} -> {nodes[t]['node_id']}" for (s, t), n in counts.items() if n > 1]
    what = "pairs of nodes with several links, which some readers add up and others overwrite"
    findings.add_each("warning", "duplicate-link", repeated, what, "networkx")
    _check_order(list(counts), nodes, findings)


def _check_fields(nodes: list[Node], tokens: list[str] | None, findings: Findings) -> None:
    for names, readers in ((_NEEDED, (US, *EVERY_VIEWER)), (_SHOWN, EVERY_VIEWER)):
        missing = [f"{node['node_id']} ({name})" for node in nodes for name in names if name not in node]
        findings.add_each("error", "node-keys", missing, "keys missing in nodes", *readers)
    for name, readers in (("feature_type", (US, *EVERY_VIEWER)), ("jsNodeId", EVERY_VIEWER)):
        wrong = [
            f"{node['node_id']} ({name} is {node[name]!r:.30})"
            for node in nodes
            if name in node and not isinstance(node[name], str)
        ]
        findings.add_each("error", "node-types", wrong, "nodes with a number or nothing where text belongs", *readers)
    n_tokens = 0 if tokens is None else len(tokens)
    outside = [
        f"{node['node_id']} (ctx_idx {node['ctx_idx']!r:.30})"
        for node in nodes
        if "ctx_idx" in node and not (type(node["ctx_idx"]) is int and 0 <= node["ctx_idx"] < n_tokens)
    ]
    if tokens is not None:
        what = f"nodes at no position of the prompt's {n_tokens}"
        findings.add_each("error", "position", outside, what, US, *EVERY_VIEWER)
    as_number = [node["node_id"] for node in nodes if isinstance(node.get("layer"), int)]
    findings.add_each("note", "layer-type", as_number, "nodes whose layer is a number, not text")
    nulls = Counter(str(name) for node in nodes for name, value in node.items() if value is None)
    if nulls:
        named = ", ".join(f"{name} in {n}" for name, n in sorted(nulls.items()))
        findings.add("note", "null", f"null in nodes: {named}", "networkx's GraphML, GEXF and GML writers")


def _check_ids(nodes: list[Node], findings: Findings) -> None:
    counts = Counter(node["node_id"] for node in nodes)
    repeated = [name for name, n in counts.items() if n > 1]
    findings.add_each("error", "duplicate-node-id", repeated, "ids of several nodes", *EVERY_VIEWER)
    js_counts = Counter(node["jsNodeId"] for node in nodes if isinstance(node.get("jsNodeId"), str))
    shared = [name for name, n in js_counts.items() if n > 1]
    what = "jsNodeIds of several nodes, which are then one to viewers keyed by it"
    findings.add_each("warning", "duplicate-js-id", shared, what, ANTHROPIC)


def _check_types(nodes: list[Node], findings: Findings) -> None:
    types = Counter(node["feature_type"] for node in nodes if isinstance(node.get("feature_type"), str))
    known_some = [name for name in types if name in KINDS_BY_TYPE and name not in COMMON_TYPES]
    what = "feature types that only Neuronpedia knows"
    findings.add_each("warning", "attention-types", known_some, what, CIRCUIT_TRACER, ANTHROPIC)
    unknown = [name for name in types if name not in KINDS_BY_TYPE]
    what = "feature types that no viewer knows; they corrupt the displayed scores"
    findings.add_each("warning", "unknown-types", unknown, what, *EVERY_VIEWER)
    logits = [node for node in nodes if node.get("feature_type") == "logit"]
    if not logits:
        findings.add("error", "no-logit", "there is no logit node", US, *EVERY_VIEWER)
    unlabelled = [
        f"{node['node_id']} ({node.get('clerp')!r:.30})"
        for node in logits
        if not (isinstance(node.get("clerp"), str) and PROBABILITY.search(node["clerp"]))
    ]
    findings.add_each(
        "error", "logit-label", unlabelled, "logits without (p=...) in clerp, which throws", *EVERY_VIEWER
    )
    layers = [integer(node.get("layer")) for node in nodes if node.get("feature_type") in _FEATURE_TYPES]
    if not any(layer is not None and layer > 0 for layer in layers):
        findings.add("warning", "no-feature-above-0", "there is no feature above layer 0", NEURONPEDIA)
    lost = [
        f"{node['node_id']} ({node.get('layer')!r:.30})"
        for node in nodes
        if node.get("feature_type") in _SHOWN_BY_INFLUENCE and not _is_layer(node.get("layer"))
    ]
    what = f"nodes whose layer is no number from 0 to {MAX_LAYERS - 1}"
    findings.add_each("error", "layer", lost, what, US, *EVERY_VIEWER)


def _check_influence(nodes: list[Node], findings: Findings) -> None:
    ranked = [node for node in nodes if node.get("feature_type") in _SHOWN_BY_INFLUENCE]
    absent = [node["node_id"] for node in ranked if node.get("influence") is None]
    what = "features and errors without influence, which vanish once the slider moves"
    findings.add_each("warning", "no-influence", absent, what, CIRCUIT_TRACER)
    outside = [
        f"{node['node_id']} ({node['influence']!r:.30})"
        for node in nodes
        if node.get("influence") is not None
        # the last share is a float32 sum and may pass 1 by rounding
        and not (type(node["influence"]) in (int, float) and 0 <= node["influence"] <= LARGEST_SHARE)
    ]
    what = "nodes whose influence is no cumulative share from 0 to 1"
    findings.add_each("warning", "influence-share", outside, what, CIRCUIT_TRACER, NEURONPEDIA)


def _check_numbers(nodes: list[Node], schema: Any, findings: Findings) -> None:
    wrong = [
        f"{node['node_id']} ({name} {node[name]!r:.30})"
        for node in nodes
        for name in ("activation", "token_prob")
        if node.get(name) is not None and not _is_number(node[name])
    ]
    findings.add_each("error", "number", wrong, "nodes whose activation or token_prob is no finite number", US)
    improper = [
        f"{node['node_id']} ({node['token_prob']!r:.30})"
        for node in nodes
        if _is_number(node.get("token_prob")) and not 0 <= node["token_prob"] <= LARGEST_SHARE
    ]
    findings.add_each("error", "probability", improper, "nodes whose token_prob is no probability", US)
    features = [node for node in nodes if node.get("feature_type") in _FEATURE_TYPES]
    mismatched, without, large = [], [], []
    for node in features:
        layer, number = integer(node.get("layer")), integer(node.get("feature"))
        if layer is None:
            continue
        index = feature_of_id(node["node_id"], layer)
        if number is None or number < 0:
            without.append(f"{node['node_id']} ({node.get('feature')!r:.30})")
        elif schema == 1 and cantor_unpair(number) != (layer, index if index is not None else cantor_unpair(number)[1]):
            paired_layer, paired = cantor_unpair(number)
            mismatched.append(f"{node['node_id']} in layer {layer} ({number} is {paired} of layer {paired_layer})")
        elif number > _EXACT_IN_BROWSERS:
            large.append(f"{node['node_id']} ({number})")
    what = "features whose number is missing or no integer"
    findings.add_each("warning", "feature-number", without, what, *EVERY_VIEWER)
    what = "features whose number, by schema 1, is not that of their id and layer"
    findings.add_each("warning", "schema-id", mismatched, what, CIRCUIT_TRACER, NEURONPEDIA)
    findings.add_each("warning", "large-number", large, "features whose number a browser rounds", *EVERY_VIEWER)


def _check_order(ends: list[tuple[int, int]], nodes: list[Node], findings: Findings) -> None:
    """Links against the order of layers; within a layer, attention comes before the MLP."""
    top = max((layer for node in nodes if (layer := integer(node.get("layer"))) is not None), default=0) + 1
    levels = np.array([_level(node, top) for node in nodes], dtype=np.int64)
    if not ends:
        return
    sources, targets = np.array(ends, dtype=np.int64).T

    def named(where: np.ndarray) -> list[str]:
        return [f"{nodes[sources[i]]['node_id']} -> {nodes[targets[i]]['node_id']}" for i in np.flatnonzero(where)]

    layers = levels // 2
    down = layers[sources] > layers[targets]
    findings.add_each("error", "layer-order", named(down), "links from a higher to a lower layer", US)
    flat = ~down & (levels[sources] >= levels[targets])
    findings.add_each("warning", "same-layer", named(flat), "links within a layer, other than from attention to MLP")
    upward = ~down
    shape = (len(nodes), len(nodes))
    kept = sparse.csr_array((np.ones(int(upward.sum())), (targets[upward], sources[upward])), shape=shape)
    try:
        node_levels(kept, layers)
    except ValueError:
        message = "the links make a cycle, or an endless chain, within a layer"
        findings.add("error", "cycle", message, US, "readers that need an acyclic graph")


def _level(node: Node, top: int) -> int:
    """Twice the layer, and one more for what comes after attention; logits above all, tokens below all."""
    kind = KINDS_BY_TYPE.get(node["feature_type"]) if isinstance(node.get("feature_type"), str) else None
    if kind == "logit":
        return 2 * top
    layer = integer(node.get("layer"))
    if kind == "embedding" or layer is None:
        return -2
    layer = min(max(layer, -1), top)
    return 2 * layer + int(kind not in ("attention feature", "attention error", "bias", "unknown"))


def _is_layer(value: Any) -> bool:
    layer = integer(value)
    return layer is not None and 0 <= layer < MAX_LAYERS


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:
        return False


def _is_float32(value: Any) -> bool:
    return bool(abs(value) <= _LARGEST)
