"""Graphs as JSON, the way other tools' viewers read and write them.

Profiles differ in ids and numbers only. `neuronpedia` is what every viewer accepts: Cantor-paired features, jsNodeId
equal to node_id. `circuit-tracer` has its jsNodeIds, which group a feature over positions. `anthropic` has plain
feature numbers and is keyed by jsNodeId. In every profile `influence` is the cumulative share: 0 is most important.
"""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import PROFILES, check_writable, locked, read_json, write_whole
from attrgraph.io.flavours import COMMON_TYPES, FEATURE_TYPES, SAFE_NAME, cantor_pair
from attrgraph.io.json_values import from_numpy
from attrgraph.io.networkx_graph import without_own_bias
from attrgraph.io.params import write_params
from attrgraph.io.problems import say_repaired
from attrgraph.schema import FEATURE_KINDS, PROBABILITY, marked, token_of_label

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# what has its own place in a file and is not repeated in metadata.attrgraph
_ELSEWHERE = ("extra", "qParams", "problems", "file_metadata", "names")
# circuit-tracer's page reads which graphs a folder has from this file
LISTING = "graph-metadata.json"


@checked
def write_json(
    graph: "Graph",
    path: str | Path,
    profile: str = "neuronpedia",
    *,
    scan: str | None = None,
    source_set: str | None = None,
    overwrite: bool = True,
) -> list[str]:
    """Write the graph without its bias node, compact and whole.

    The circuit-tracer profile also enters the graph into `graph-metadata.json` beside it, which that tool's page lists.

    Args:
        path: of the file.
        profile: whose viewer is to read it.
        scan: under which a viewer looks for the features: a model of Neuronpedia's, or for circuit-tracer the name of
            the transcoders on the hub. By default that of the transcoders, as far as it is known.
        source_set: of Neuronpedia, under the model.
        overwrite: False refuses a file that exists.

    Returns:
        What had to be changed for viewers to read it, one sentence each.

    Raises:
        GraphFileError: an unknown profile, metadata that JSON cannot hold, or the file cannot be written.
    """
    if not (graph.nodes["kind"] == "logit").any():
        raise GraphFileError(f"{path}: no reader opens JSON without a logit; write .safetensors.")
    path, has_page = Path(path), profile == "circuit-tracer"
    check_page(path, profile)
    document, repairs = to_document(graph, profile, scan=scan, source_set=source_set)
    in_list = {**document["metadata"], "slug": path.stem}  # the page looks for a file of this name
    if has_page and not graph.metadata.get("file_metadata"):
        document["metadata"] = in_list
    if has_page and not SAFE_NAME.fullmatch(path.stem):
        repairs.append(f"circuit-tracer's page may not find a file named {path.name!r}: use A-Z a-z 0-9 . _ - only")
    content = as_json(document, str(path))
    write_whole(path, lambda temporary: temporary.write_bytes(content), overwrite=overwrite)
    if has_page:
        with locked(path.absolute().parent):
            _enter(in_list, path.with_name(LISTING))
    return repairs


def as_json(content: Any, where: str) -> bytes:
    """Compact JSON.

    Raises:
        GraphFileError: JSON cannot hold it.
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=from_numpy)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as e:
        raise GraphFileError(f"{where}: the graph holds what JSON cannot ({e}).") from e


def check_page(path: Path, profile: str) -> None:
    """Raise GraphFileError if circuit-tracer's page, where it is the profile's, could not list a graph's file."""
    if profile != "circuit-tracer":
        return
    if path.name == LISTING:
        raise GraphFileError(f"{path}: is where circuit-tracer's page has its list of graphs; choose another name.")
    _listing(path.with_name(LISTING))


def _listing(path: Path) -> dict[str, Any]:
    """A folder's list of graphs, and what else its file holds; no graphs without one."""
    check_writable(path, overwrite=True)
    try:
        found = read_json(path) if path.exists() else {"graphs": []}
        listed = found["graphs"]
    except (ValueError, OSError, LookupError, TypeError) as e:
        raise GraphFileError(f"{path}: is no list of graphs; move it away.") from e
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise GraphFileError(f"{path}: is no list of graphs; move it away.")
    return dict(found)


def _enter(metadata: dict[str, Any], listing: Path) -> None:
    """Write a graph's metadata into a folder's list of graphs, in place of an older graph of the same name."""
    there = _listing(listing)
    others = [one for one in there["graphs"] if one.get("slug") != metadata["slug"]]
    text = json.dumps({**there, "graphs": [*others, metadata]}, ensure_ascii=False, default=from_numpy)
    write_whole(listing, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)


def to_document(
    graph: "Graph", profile: str, *, scan: str | None = None, source_set: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The JSON document of a profile, and what had to be changed for viewers to read it, one sentence each.

    Keys of other tools' files that the graph still has in `metadata["extra"]` and `metadata["file_metadata"]` are
    written where they were.

    Raises:
        GraphFileError: an unknown profile, or metadata of a wrong type.
    """
    check_profile(profile)
    check_source_set(source_set)
    names = {"scan": scan, "source_set": source_set}
    graph = graph.replace(metadata={**graph.metadata, "names": {key: name for key, name in names.items() if name}})
    try:
        return _document(without_own_bias(graph), profile)
    except (TypeError, KeyError, AttributeError) as e:
        raise GraphFileError(f"the graph's metadata are not what a graph has ({type(e).__name__}: {e}).") from e


def check_source_set(name: str | None) -> None:
    """Raise GraphFileError for a set that can have no pages at Neuronpedia, whose address it is a part of."""
    if name and not SAFE_NAME.fullmatch(name):
        raise GraphFileError(
            f"source_set is {name!r:.60}; expected letters, digits, dot, dash, underscore, as in Neuronpedia's address "
            "of a feature's page: /MODEL/LAYER-SOURCE_SET/FEATURE."
        )


def check_profile(profile: str) -> None:
    """Raise GraphFileError for a JSON profile that does not exist."""
    if profile not in PROFILES:
        raise GraphFileError(f"unknown JSON profile {profile!r}; expected one of {', '.join(PROFILES)}.")


def _document(graph: "Graph", profile: str) -> tuple[dict[str, Any], list[str]]:
    repairs: list[str] = []
    extra = {"document": {}, "nodes": {}, "links": [], **_dict(graph.metadata, "extra")}
    nodes, relabelled = [], []
    for row in graph.nodes.itertuples():
        node = {**_node(row, profile, graph.n_layers), **extra["nodes"].get(row.Index, {})}
        if row.kind == "logit":  # without whose probability viewers throw
            label = row.label or f'Output "{row.token}"'
            label = label if PROBABILITY.search(label) else marked(label, row.probability)
            if label not in (row.label, node["clerp"]):
                relabelled.append(row.Index)
            node["clerp"] = label
            if token_of_label(label) != row.token:
                node["logit_token"] = row.token  # which a name hides
            if row.layer != graph.n_layers:  # viewers have one layer for all targets
                node["target_layer"] = int(row.layer)
        elif row.token not in graph.prompt_tokens[row.pos : row.pos + 1]:
            node["token"] = row.token  # as when prompts with other words were put together
        nodes.append(node)
    say_repaired(repairs, relabelled, "logit", "given the (p=...) that viewers need in a label")
    strange = {node["feature_type"] for node in nodes} - set(COMMON_TYPES)
    if profile != "neuronpedia":
        say_repaired(repairs, sorted(strange), "feature type", "kept, which viewers of this profile do not know")
    ids, edges = graph.nodes.index.to_numpy(), graph.adjacency.tocoo()
    others = {(source, target): values for source, target, values in extra["links"]}
    links = [
        {"source": source, "target": target, "weight": float(weight), **others.get((source, target), {})}
        for source, target, weight in zip(ids[edges.col], ids[edges.row], edges.data, strict=True)
    ]
    document = {
        "metadata": _metadata(graph, profile, repairs),
        "qParams": write_params(graph.metadata.get("qParams") or {}, set(map(str, ids)), repairs),
        "nodes": nodes,
        "links": links,
    }
    return {**extra["document"], **document}, repairs


def _dict(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    value = metadata.get(name) or {}
    if not isinstance(value, dict):
        raise GraphFileError(f"the graph's metadata[{name!r}] is a {type(value).__name__}; expected a dictionary.")
    return value


def _slug(text: str, default: str) -> str:
    """Only what viewers accept in names: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:60] or default


def _metadata(graph: "Graph", profile: str, repairs: list[str]) -> dict[str, Any]:
    """This package's own, and what the file that the graph came from has in addition to it or instead of it."""
    written, theirs = _own_metadata(graph, profile), _dict(graph.metadata, "file_metadata")
    if theirs:
        # nothing is said in the name of the tool that made the graph
        own = ("slug", "scan", "prompt_tokens", "prompt", "node_threshold")
        asked = {"scan": written["scan"]} if graph.metadata["names"].get("scan") else {}
        written = {**{name: written[name] for name in own}, **theirs, **asked, "attrgraph": written["attrgraph"]}
        written |= {"prompt_tokens": graph.prompt_tokens, "prompt": str(theirs.get("prompt") or written["prompt"])}
        pruning = graph.metadata.get("pruning")
        if pruning is not None:
            written["node_threshold"] = pruning["node_threshold"]
            written["pruning_settings"] = {**_if_dict(theirs.get("pruning_settings")), **pruning}
        elif type(written["node_threshold"]) not in (int, float):
            repairs.append(f"node_threshold {written['node_threshold']!r:.60} became 1.0")
            written["node_threshold"] = 1.0
    elif profile == "neuronpedia" and _is_unknown_there(graph.metadata):
        repairs.append(
            f"no model of Neuronpedia's is known for these transcoders, scan is {written['scan']!r:.60}: an upload is "
            "refused without one that is there (--scan, --source-set; scan=, source_set=)"
        )
    given = graph.metadata["names"].get("scan")
    if given and profile != "circuit-tracer" and not isinstance(given, list) and given != written["scan"]:
        repairs.append(f"scan {given!r:.60} became {written['scan']!r}")
    for name in ("slug", "scan"):
        stated = written[name]
        if not isinstance(stated, str) or (profile == "neuronpedia" and not SAFE_NAME.fullmatch(stated)):
            written[name] = _slug(str(stated), "unknown")
            repairs.append(f"{name} {stated!r:.60} became {written[name]!r}")
    written.pop("schema_version", None)
    if profile != "anthropic":
        written["schema_version"] = 1
    _state_source_set(written, graph.metadata["names"].get("source_set"))
    return written


def _own_metadata(graph: "Graph", profile: str) -> dict[str, Any]:
    ours = graph.metadata
    transcoders, names = _dict(ours, "transcoders"), ours["names"]
    known = _dict(transcoders, "neuronpedia") if profile == "neuronpedia" else {}
    has_page = profile == "circuit-tracer"
    theirs = (has_page and _name_on_hub(transcoders)) or transcoders.get("scan")
    stated = names.get("scan") or known.get("model") or theirs or _dict(ours, "model").get("id")
    by_layer = list(map(str, stated)) if isinstance(stated, list) else []
    scan = "-".join(by_layer) if by_layer else str(stated or "unknown")
    if by_layer and has_page:  # whose page then takes the name of each layer's from the list
        scan = f"custom-{_slug(scan, 'set')}"
    elif not has_page or "/" not in scan:  # the page finds features by the transcoders' name on the hub
        scan = _slug(scan, "unknown")
    source_set = names.get("source_set") or known.get("source_set")
    at_neuronpedia = {"neuronpedia_source_set": source_set} if source_set else {}
    pruning = ours.get("pruning", {"node_threshold": 1.0, "edge_threshold": 1.0})
    settings = _dict(ours, "settings")
    prompt = str(ours.get("prompt") or "".join(graph.prompt_tokens))
    return {
        "slug": _slug(prompt.replace(".", " "), "graph"),  # Neuronpedia has refused dots, too
        "scan": scan,
        "transcoder_list": by_layer,
        "prompt_tokens": graph.prompt_tokens,
        "prompt": prompt,
        "node_threshold": pruning["node_threshold"],
        "info": {
            "description": "attribution graph",
            "creator_name": "attrgraph",
            "source_urls": [],
            "generator": {**ours.get("generator", {"name": "attrgraph", "version": ""}), "url": ""},
            **at_neuronpedia,
        },
        "generation_settings": {
            key: settings[key] for key in ("max_n_logits", "desired_logit_prob", "max_feature_nodes") if key in settings
        },
        "pruning_settings": pruning,
        "feature_details": at_neuronpedia,
        "attrgraph": {name: value for name, value in ours.items() if name not in _ELSEWHERE},
    }


def _is_unknown_there(ours: dict[str, Any]) -> bool:
    """Whether nothing says which of Neuronpedia's models and sets these are; the demo's, without a slash, are none."""
    transcoders = _dict(ours, "transcoders")
    return "/" in str(transcoders.get("id")) and not (ours["names"].get("scan") or transcoders.get("neuronpedia"))


def _name_on_hub(transcoders: dict[str, Any]) -> str:
    """As circuit-tracer writes it: owner/repo[//subfolder][@revision]; empty if they are not from the hub."""
    if not transcoders.get("revision"):
        return ""
    asked = transcoders.get("asked_revision")
    return re.sub(r"^([^/]+/[^/]+)/", r"\1//", str(transcoders["id"])) + (f"@{asked}" if asked else "")


def _state_source_set(metadata: dict[str, Any], asked: str | None) -> None:
    """Neuronpedia reads the source set in one of two places, by what it does: a file has it in both or in none."""
    key, places = "neuronpedia_source_set", ("info", "feature_details")
    stated = next((name for place in places if (name := _if_dict(metadata.get(place)).get(key))), None)
    source_set = asked or stated
    for place in places:
        details = metadata.get(place, {})
        if source_set and isinstance(details, dict) and (asked or not details.get(key)):
            metadata[place] = {**details, key: source_set}


def _if_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _node(row: Any, profile: str, n_layers: int) -> dict[str, Any]:
    layer, feature, pos, kind = int(row.layer), int(row.feature), int(row.pos), str(row.kind)
    number: int | None = feature
    if kind in FEATURE_KINDS and profile != "anthropic":
        number = cantor_pair(layer, feature)
    elif kind == "embedding":
        number = pos
    js_id = {
        "feature": f"{layer}_{feature}-0",
        "error": f"{layer}_{pos}-0",
        "embedding": f"E_{feature}-{pos}",
        "logit": f"L_{feature}-{pos}",
    }.get(kind, row.Index)
    bias_share = {} if math.isnan(row.bias_share) else {"bias_share": row.bias_share}
    return bias_share | {
        "node_id": row.Index,
        "feature": number,
        "layer": {"embedding": "E", "logit": str(n_layers + 1)}.get(kind, str(layer)),
        "ctx_idx": pos,
        "feature_type": FEATURE_TYPES[kind],
        "token_prob": float(row.probability),
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        # a feature's positions share this id in circuit-tracer's viewer; elsewhere it must be unique
        "jsNodeId": js_id if profile == "circuit-tracer" else row.Index,
        "clerp": row.label,
        "influence": None if kind == "logit" else float(row.cumulative_influence),
        "activation": float(row.activation) if kind in FEATURE_KINDS or row.activation else None,
    }
