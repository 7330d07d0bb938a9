"""What is wrong with the nodes and links of a JSON document. Nothing here raises, whatever the document holds."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import sparse

from attrgraph.influence.influence import node_levels
from attrgraph.io.flavours import COMMON_TYPES, FEATURE_TYPES, KINDS_BY_TYPE, cantor_unpair, feature_of_id
from attrgraph.io.json_values import integer, is_number, is_share, is_text
from attrgraph.io.problems import ANTHROPIC, CIRCUIT_TRACER, EVERY_VIEWER, EVERYONE, NEURONPEDIA, US, Findings
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS, PROBABILITY

Node = dict[str, Any]
# integers above this are rounded in a browser
_EXACT_IN_BROWSERS = 2**53
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
# keys without which a node cannot be read, and without which it cannot be shown
_NEEDED, _SHOWN = ("feature_type", "layer", "ctx_idx"), ("jsNodeId", "feature", "clerp")
# no model is that deep, and every layer costs a step in influence
MAX_LAYERS = 1000
_FEATURE_TYPES = tuple(FEATURE_TYPES[kind] for kind in FEATURE_KINDS)
_SHOWN_BY_INFLUENCE = tuple(FEATURE_TYPES[kind] for kind in (*FEATURE_KINDS, *ERROR_KINDS))


def check_nodes(nodes: list[Node], schema: Any, tokens: list[str] | None, findings: Findings) -> None:
    """Findings about nodes, all of which have an id.

    Args:
        nodes: of the document.
        schema: the document's `schema_version`.
        tokens: the prompt's; None if the document does not have them.
        findings: to which this adds.
    """
    _check_fields(nodes, tokens, findings)
    _check_kinds(nodes, findings)
    _check_features([node for node in nodes if node.get("feature_type") in _FEATURE_TYPES], schema, findings)


def check_links(links: list[Node], nodes: list[Node], findings: Findings) -> None:
    """Findings about links, all of which have text as source and target."""
    place = {node["node_id"]: i for i, node in enumerate(nodes)}
    dangling, weights_wrong, n_zero = [], [], 0
    ends: list[tuple[int, int]] = []
    for link in links:
        source, target, weight = link["source"], link["target"], link.get("weight")
        if not is_number(weight, _LARGEST_FLOAT32):
            weights_wrong.append(f"{source} -> {target}: {weight!r:.30}")
        n_zero += weight == 0
        if source in place and target in place:
            ends.append((place[source], place[target]))
        else:
            dangling.append(f"{source} -> {target}")
    what = "links whose weight is no finite number"
    findings.add_each("error", "link-weight", weights_wrong, what, *EVERYONE)
    what = "links from or to a node that is not in the file"
    findings.add_each("error", "dangling-link", dangling, what, *EVERY_VIEWER)
    if n_zero:
        findings.add("note", "zero-link", f"{n_zero} links of weight 0")
    repeated = [f"{nodes[source]['node_id']} -> {nodes[target]['node_id']}" for source, target in _repeated(ends)]
    what = "pairs of nodes with several links, which some readers add up and others overwrite"
    findings.add_each("warning", "duplicate-link", repeated, what, "networkx")
    if ends:
        _check_order(list(dict.fromkeys(ends)), nodes, findings)


def _wrong(nodes: Iterable[Node], is_right: Callable[[Any], bool], *names: str) -> list[str]:
    """`id (key value)` for each of the keys that a node has with a value that is not right."""
    return [
        f"{node['node_id']} ({name} {node[name]!r:.30})"
        for node in nodes
        for name in names
        if name in node and not is_right(node[name])
    ]


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, n in Counter(values).items() if n > 1]


def _check_fields(nodes: list[Node], tokens: list[str] | None, findings: Findings) -> None:
    for names, readers in ((_NEEDED, EVERYONE), (_SHOWN, EVERY_VIEWER)):
        missing = [f"{node['node_id']} ({name})" for node in nodes for name in names if name not in node]
        findings.add_each("error", "node-keys", missing, "keys missing in nodes", *readers)
    for name, readers in (("feature_type", EVERYONE), ("jsNodeId", EVERY_VIEWER)):
        what = "nodes with a number or nothing where text belongs"
        findings.add_each("error", "node-types", _wrong(nodes, is_text, name), what, *readers)
    if tokens is not None:
        outside = _wrong(nodes, lambda value: type(value) is int and 0 <= value < len(tokens), "ctx_idx")
        what = f"nodes at no position of the prompt's {len(tokens)}"
        findings.add_each("error", "position", outside, what, *EVERYONE)
    no_numbers = _wrong(nodes, lambda value: value is None or is_number(value), "activation", "token_prob")
    what = "nodes whose activation or token_prob is no finite number"
    findings.add_each("error", "number", no_numbers, what, US)
    improper = _wrong(nodes, lambda value: not is_number(value) or is_share(value), "token_prob")
    findings.add_each("error", "probability", improper, "nodes whose token_prob is no probability", US)
    outside = _wrong(nodes, lambda value: value is None or is_share(value), "influence")
    what = "nodes whose influence is no cumulative share from 0 to 1"
    findings.add_each("warning", "influence-share", outside, what, CIRCUIT_TRACER, NEURONPEDIA)
    as_number = _wrong(nodes, lambda value: not isinstance(value, int), "layer")
    findings.add_each("note", "layer-type", as_number, "nodes whose layer is a number, not text")
    nulls = Counter(str(name) for node in nodes for name, value in node.items() if value is None)
    if nulls:
        named = ", ".join(f"{name} in {n}" for name, n in sorted(nulls.items()))
        findings.add("note", "null", f"null in nodes: {named}", "networkx's GraphML, GEXF and GML writers")
    repeated = _repeated(node["node_id"] for node in nodes)
    findings.add_each("error", "duplicate-node-id", repeated, "ids of several nodes", *EVERY_VIEWER)
    shared = _repeated(node["jsNodeId"] for node in nodes if is_text(node.get("jsNodeId")))
    what = "jsNodeIds of several nodes, which are then one to viewers keyed by it"
    findings.add_each("warning", "duplicate-js-id", shared, what, ANTHROPIC)


def _check_kinds(nodes: list[Node], findings: Findings) -> None:
    types = dict.fromkeys(node["feature_type"] for node in nodes if is_text(node.get("feature_type")))
    known_to_some = [name for name in types if name in KINDS_BY_TYPE and name not in COMMON_TYPES]
    what = "feature types that only Neuronpedia knows"
    findings.add_each("warning", "attention-types", known_to_some, what, CIRCUIT_TRACER, ANTHROPIC)
    unknown = [name for name in types if name not in KINDS_BY_TYPE]
    what = "feature types that no viewer knows; they corrupt the displayed scores"
    findings.add_each("warning", "unknown-types", unknown, what, *EVERY_VIEWER)
    logits = [node for node in nodes if node.get("feature_type") == "logit"]
    if not logits:
        findings.add("error", "no-logit", "there is no logit node; a graph explains at least one", *EVERYONE)
    unlabelled = [
        f"{node['node_id']} ({node.get('clerp')!r:.30})"
        for node in logits
        if not (is_text(node.get("clerp")) and PROBABILITY.search(node["clerp"]))
    ]
    what = "logits without (p=...) in clerp, which throws"
    findings.add_each("error", "logit-label", unlabelled, what, *EVERY_VIEWER)
    ranked = [node for node in nodes if node.get("feature_type") in _SHOWN_BY_INFLUENCE]
    absent = [node["node_id"] for node in ranked if node.get("influence") is None]
    what = "features and errors without influence, which vanish once the slider moves"
    findings.add_each("warning", "no-influence", absent, what, CIRCUIT_TRACER)
    lost = [f"{node['node_id']} ({node.get('layer')!r:.30})" for node in nodes if not _has_layer(node)]
    what = f"nodes whose layer is no number from 0 to {MAX_LAYERS - 1}"
    findings.add_each("error", "layer", lost, what, *EVERYONE)


def _has_layer(node: Node) -> bool:
    """Tokens and logits need none; biases and unknown nodes may have -1 or a name instead."""
    kind, layer = node.get("feature_type"), integer(node.get("layer"))
    if kind in _SHOWN_BY_INFLUENCE:
        return layer is not None and 0 <= layer < MAX_LAYERS
    return kind in ("embedding", "logit") or layer is None or -1 <= layer < MAX_LAYERS


def _check_features(features: list[Node], schema: Any, findings: Findings) -> None:
    if not any((integer(node.get("layer")) or 0) > 0 for node in features):
        findings.add("warning", "no-feature-above-0", "there is no feature above layer 0", NEURONPEDIA)
    mismatched, without, large = [], [], []
    for node in features:
        layer, number = integer(node.get("layer")), integer(node.get("feature"))
        if layer is None:
            continue
        index = feature_of_id(node["node_id"], layer)
        if number is None or number < 0:
            without.append(f"{node['node_id']} ({node.get('feature')!r:.30})")
            continue
        paired_layer, paired = cantor_unpair(number)
        if schema == 1 and (paired_layer != layer or index not in (None, paired)):
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
    layers = levels // 2
    sources, targets = np.array(ends, dtype=np.int64).T
    down = layers[sources] > layers[targets]
    flat = ~down & (levels[sources] >= levels[targets])

    def named(where: np.ndarray) -> list[str]:
        return [f"{nodes[sources[i]]['node_id']} -> {nodes[targets[i]]['node_id']}" for i in np.flatnonzero(where)]

    findings.add_each("error", "layer-order", named(down), "links from a higher to a lower layer", US)
    findings.add_each("warning", "same-layer", named(flat), "links within a layer, other than from attention to MLP")
    kept = (np.ones(int((~down).sum())), (targets[~down], sources[~down]))
    try:
        node_levels(sparse.csr_array(kept, shape=(len(nodes), len(nodes))), layers)
    except ValueError:
        message = "the links make a cycle, or an endless chain, within a layer"
        findings.add("error", "cycle", message, US, "readers that need an acyclic graph")


def _level(node: Node, top: int) -> int:
    """Twice the layer, and one more for what comes after attention; logits above all, tokens below all."""
    kind = KINDS_BY_TYPE.get(str(node.get("feature_type")))
    if kind == "logit":
        return 2 * top
    layer = integer(node.get("layer"))
    if kind == "embedding" or layer is None:
        return -2
    layer = min(max(layer, -1), top)
    return 2 * layer + int(kind not in ("attention feature", "attention error", "bias", "unknown"))
