"""One small graph as every tool would write it: the same nodes and edges, other ids and numbers."""

import copy
from typing import Any

TOKENS = ["<bos>", "Fact", " Dallas", " is"]
N_LAYERS = 3
# kind, layer, index (vocabulary id, or feature), position
NODES = [
    ("feature", 0, 7, 1),
    ("feature", 1, 40, 2),
    ("feature", 1, 40, 3),  # the same feature at another position
    ("feature", 2, 3, 3),
    ("error", 0, -1, 1),
    ("error", 2, -1, 3),
    *(("embedding", -1, 100 + pos, pos) for pos in range(4)),
    ("logit", N_LAYERS, 900, 3),
    ("logit", N_LAYERS, 901, 3),
]
PROBABILITIES = {900: 0.75, 901: 0.125}
WORDS = {900: " Austin", 901: " Texas"}
# places in NODES: source, target, weight
EDGES = [(7, 0, 1.5), (8, 1, 0.5), (0, 1, -2.25), (4, 2, 0.125), (1, 3, 3.0), (3, 10, 2.0), (2, 10, -1.0), (5, 11, 4.0)]
EDGES += [(9, 11, 0.75), (0, 3, 0.25)]
# what every flavour must become
IDS = "0_7_1 1_40_2 1_40_3 2_3_3 0_-1_1 2_-1_3 E_100_0 E_101_1 E_102_2 E_103_3 4_900_3 4_901_3".split()
FLAVOURS = (
    "anthropic",
    "circuit-tracer schema 0",
    "circuit-tracer schema 1",
    "circuit-tracer schema 1, newer error ids",
    "eleutherai",
    "neuronpedia",
)


def pair(layer: int, feature: int) -> int:
    return sum(range(layer + feature + 1)) + feature


def document(flavour: str) -> dict[str, Any]:
    """The graph as JSON of a flavour."""
    nodes = [_node(flavour, place, *node) for place, node in enumerate(NODES)]
    links = [
        {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
        for source, target, weight in EDGES
    ]
    key = "jsNodeId" if flavour == "anthropic" else "node_id"
    params = {
        "pinnedIds": [nodes[1][key], nodes[10][key]],
        "supernodes": [["Texas", nodes[1][key], nodes[3][key]]],
        "linkType": "input",
        "clickedId": nodes[3][key],
        "sg_pos": "10,20",
    }
    metadata: dict[str, Any] = {"slug": "dallas", "scan": "tiny-model", "prompt_tokens": TOKENS}
    metadata |= {"prompt": "".join(TOKENS), "node_threshold": 0.8, "transcoder_list": []}
    if "schema 1" in flavour or flavour in ("neuronpedia", "eleutherai"):
        metadata["schema_version"] = 1
    if flavour == "neuronpedia":
        metadata["info"] = {"creator_name": "me", "creator_url": "https://neuronpedia.org"}
        metadata["pruning_settings"] = {"node_threshold": 0.8, "edge_threshold": 0.85}
    return copy.deepcopy({"metadata": metadata, "qParams": params, "nodes": nodes, "links": links})


def _node(flavour: str, place: int, kind: str, layer: int, index: int, pos: int) -> dict[str, Any]:
    is_anthropic, is_eleuther = flavour == "anthropic", flavour == "eleutherai"
    error_id = f"{layer}_-1_{pos}" if "newer" in flavour else f"0_{layer}_{pos}"
    node_id = {
        "feature": f"{layer}_{index}_{pos}",
        "error": f"{layer}_{88000 + place}_{pos}" if is_anthropic else error_id,
        "embedding": f"E_{index}_{pos}",
        "logit": f"{N_LAYERS if is_anthropic else N_LAYERS + 1}_{index}_{pos}",
    }[kind]
    number: int | None = {"feature": index, "error": -1, "embedding": pos, "logit": index}[kind]
    if kind == "feature" and not is_anthropic:
        number = pair(layer, index) if "0" not in flavour.split()[-1] else 1000 * layer + index
    elif is_eleuther and kind != "feature":
        number = None
    js_id = (
        f"{layer}_{index}-{pos if is_anthropic else 0}" if kind == "feature" else f"{node_id.rsplit('_', 1)[0]}-{pos}"
    )
    return {
        "node_id": node_id,
        "feature": number,
        "layer": {"embedding": "E", "logit": node_id.split("_")[0]}.get(kind, str(layer)),
        "ctx_idx": pos,
        "feature_type": {"feature": "cross layer transcoder", "error": "mlp reconstruction error"}.get(kind, kind),
        "token_prob": PROBABILITIES.get(index, 0.0),
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": len(TOKENS) - 1 - pos if is_anthropic else 0,
        "jsNodeId": f"{node_id}-0" if is_eleuther else js_id,
        "clerp": f'Output "{WORDS[index]}" (p={PROBABILITIES[index]:.3f})' if kind == "logit" else f"label {place}",
        "influence": None if kind == "logit" else (place + 1) / 16,
        "activation": float(place + 2) if kind == "feature" else None,
    }


def attention_document() -> dict[str, Any]:
    """A graph with attention features, biases and things unknown, as Neuronpedia has it: layers are numbers."""

    def node(node_id: str, kind: str, layer: int | str, pos: int, feature: int | None, **more: Any) -> dict[str, Any]:
        common = {"node_id": node_id, "jsNodeId": node_id, "feature": feature, "feature_type": kind, "layer": layer}
        return {**common, "ctx_idx": pos, "clerp": node_id, "activation": None, "influence": 0.5, **more}

    contributors = {"pair_wise_contributors": [["0_cro_4_1", "E_101_1", 0.5]]}
    nodes = [
        node("E_101_1", "embedding", "E", 1, None, token="Fact"),
        node("0_lor_2_1", "lorsa", 0, 1, pair(0, 2), activation=1.5, qk_tracing_results=contributors),
        node("0_cro_4_1", "cross layer transcoder", 0, 1, pair(0, 4), activation=2.5),
        node("1_lor_9_3", "lorsa", 1, 3, pair(1, 9), activation=3.5),
        node("1_error_mlp_3", "mlp reconstruction error", 1, 3, None),
        node("1_error_attn_3", "lorsa error", 1, 3, None),
        node("0_bias_attn_bO_3", "bias", 0, 3, None),
        node("1_unknown_hook_x_3", "unknown", 1, 3, None),
        node("2_900_3", "logit", 2, 3, 900, token=" Austin", token_prob=0.75, clerp='Logit " Austin" (p=0.750)'),
    ]
    pairs = [(0, 1, 1.0), (1, 2, 2.0), (2, 3, -1.0), (3, 8, 4.0), (4, 8, 1.0), (5, 8, 0.5), (6, 8, 0.25), (7, 8, 0.125)]
    links = [
        {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
        for source, target, weight in pairs
    ]
    metadata = {"slug": "np", "scan": "tiny-model", "prompt_tokens": TOKENS, "prompt": "".join(TOKENS)}
    metadata |= {"schema_version": 1, "node_threshold": 0.6}
    document = {
        "metadata": metadata,
        "qParams": {},
        "nodes": nodes,
        "links": links,
        "qk_only_nodes": {"x": ["0_cro_4_1"]},
    }
    return copy.deepcopy(document)


def interleaved_document() -> dict[str, Any]:
    """A graph as OpenMOSS' server answers it: attention and MLPs have layers of their own, the answer the next one.

    There are no jsNodeIds, labels and qParams, layers are numbers, and a feature is its whole record.
    """

    def node(node_id: str, kind: str, layer: int, pos: int, **more: Any) -> dict[str, Any]:
        common = {"feature_type": kind, "node_id": node_id, "layer": layer, "ctx_idx": pos}
        return {**common, "is_target_logit": kind == "logit", "is_from_qk_tracing": False, **more}

    def feature(node_id: str, kind: str, layer: int, pos: int, index: int) -> dict[str, Any]:
        record = {"feature_index": index, "interpretation": None}
        more = {"feature": record, "sae_name": f"set-{layer}", "activation": 1.5, "qk_tracing_results": None}
        return node(node_id, kind, layer, pos, **more)

    nodes = [
        node("E_101_1", "embedding", -1, 1, token="Fact"),
        feature("0_2_1", "lorsa", 0, 1, 2),
        feature("1_4_1", "cross layer transcoder", 1, 1, 4),
        feature("2_9_3", "lorsa", 2, 3, 9),
        node("3_error_3", "mlp reconstruction error", 3, 3),
        node("2_error_3", "lorsa error", 2, 3),
        node("blocks.0.attn.b_O:3", "bias", 0, 3),
        node("4_900_3", "logit", 4, 3, token=" Austin", token_prob=1.0000001),
    ]
    pairs = [(0, 1, 1.0), (1, 2, 2.0), (2, 3, -1.0), (3, 7, 4.0), (4, 7, 1.0), (5, 7, 0.5), (6, 7, 0.25)]
    links = [
        {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
        for source, target, weight in pairs
    ]
    metadata = {"prompt_tokens": TOKENS, "prompt": "".join(TOKENS), "schema_version": 1}
    return {"metadata": metadata, "nodes": nodes, "links": links}


def eleutherai_document() -> dict[str, Any]:
    """A graph as EleutherAI's attribute saves it: ids of its own, answers at layer -1, hardly any qParams."""

    def node(node_id: str, kind: str, layer: str, pos: int, **more: Any) -> dict[str, Any]:
        common = {"feature_type": kind, "layer": layer, "node_id": node_id, "jsNodeId": f"{node_id}-0", "feature": None}
        common |= {"ctx_idx": pos, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": "", "token_prob": 0.0}
        return {**common, "is_target_logit": False, "influence": 0.5, **more}

    feature = "cross layer transcoder"
    nodes = [
        node("output_3_0", "logit", "-1", 3, clerp='output: " Austin" (p=0.750)', token_prob=0.75),
        node("output_3_1", "logit", "-1", 3, clerp='output: " Texas" (p=0.125)', token_prob=0.125),
        *(node(f"input_{pos}", "embedding", "E", pos) for pos in range(4)),
        node("intermediate_1_0_488", feature, "0", 1, feature=pair(0, 488)),
        node("intermediate_3_2_7", feature, "2", 3, feature=pair(2, 7)),
        node("error_1_0", "mlp reconstruction error", "0", 1),
    ]
    pairs = [("input_1", "intermediate_1_0_488", 2.0), ("intermediate_1_0_488", "intermediate_3_2_7", 1.5)]
    pairs += [("error_1_0", "intermediate_3_2_7", 0.5), ("intermediate_3_2_7", "output_3_0", 3.0)]
    pairs += [("input_3", "output_3_1", -1.0)]
    metadata = {"slug": "e", "scan": "e", "prompt_tokens": TOKENS, "prompt": "".join(TOKENS), "title_prefix": ""}
    metadata |= {"n_layers": 4, "node_sep_threshold": 0.0001, "node_threshold": 0.8}
    links = [{"source": source, "target": target, "weight": weight} for source, target, weight in pairs]
    return copy.deepcopy({"metadata": metadata, "nodes": nodes, "links": links, "qParams": {"linkType": "both"}})
