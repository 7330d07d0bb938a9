"""What is wrong with a graph file, and which viewers and loaders that breaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import MAX_JSON_BYTES, check_readable
from attrgraph.io.check_nodes import check_links, check_nodes
from attrgraph.io.document import Document, read_document
from attrgraph.io.flavours import SAFE_NAME
from attrgraph.io.json_values import are_texts, is_number, is_text
from attrgraph.io.native import read_parts
from attrgraph.io.params import EMPTY_PARAMS, referred_ids
from attrgraph.io.problems import ANTHROPIC, CIRCUIT_TRACER, EVERY_VIEWER, EVERYONE, NEURONPEDIA, US, Findings, Problem

# what Neuronpedia takes as an upload
_NEURONPEDIA_BYTES = (1024, 100 * 2**20)
# texts without which a node or a link cannot be told from others
_IDS = {"nodes": ("node_id",), "links": ("source", "target")}


@checked
def check_graph_file(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> list[Problem]:
    """Everything that is wrong with a graph file, errors first; an empty list for a file that opens everywhere.

    Args:
        path: a graph as JSON, of any flavour, or the native `.safetensors`.
        max_bytes: see `attrgraph.io.document.read_document`.

    Example:
        >>> problems = check_graph_file("graph.json")  # doctest: +SKIP
        >>> [problem.code for problem in problems if problem.severity == "error"]  # doctest: +SKIP
        ['dangling-link']
    """
    path = Path(path)
    try:
        check_readable(path)
        if path.suffix == ".safetensors":
            findings = Findings()
            read_parts(path, findings)
            return findings.by_severity()
        document = read_document(path, max_bytes=max_bytes)
    except GraphFileError as e:
        return [Problem("error", "unreadable", str(e).removeprefix(f"{path}: "), EVERYONE)]
    return check_document(document)


def check_document(document: Document) -> list[Problem]:
    """Everything that is wrong with what a JSON file holds, errors first. Never raises."""
    findings = Findings()
    what = "numbers that JSON does not have, as a computation in too low a precision makes them"
    findings.add_each("error", "not-a-number", document.constants, what, *EVERYONE, "strict JSON readers")
    what = "keys that stand twice in one object; readers differ in which counts"
    findings.add_each("error", "repeated-key", document.repeated_keys, what, US)
    if document.n_broken:
        message = f"{document.n_broken} halves of surrogate pairs in texts, which UTF-8 cannot hold"
        findings.add("warning", "broken-text", message, "readers that need UTF-8")
    smallest, largest = _NEURONPEDIA_BYTES
    if not smallest <= document.size <= largest:
        message = f"the file has {document.size} bytes; an upload has {smallest} to {largest}"
        findings.add("warning", "file-size", message, NEURONPEDIA)
    _check_content(document.content, findings)
    return findings.by_severity()


def _check_content(content: Any, findings: Findings) -> None:
    if not isinstance(content, dict):
        message = f"the document is a {type(content).__name__}, expected an object"
        findings.add("error", "shape", message, *EVERYONE)
        return
    parts: dict[str, Any] = {}
    for name, kind in (("metadata", dict), ("nodes", list), ("links", list)):
        parts[name] = content.get(name)
        if not isinstance(parts[name], kind):
            found = type(parts[name]).__name__ if name in content else "missing"
            findings.add("error", "shape", f"{name} is {found}, expected a {kind.__name__}", *EVERYONE)
            parts[name] = kind()
    metadata = parts["metadata"]
    _check_metadata(metadata, findings)
    nodes, links = (_with_ids(parts[name], name, findings) for name in ("nodes", "links"))
    tokens = metadata.get("prompt_tokens")
    check_nodes(nodes, metadata.get("schema_version"), tokens if are_texts(tokens) else None, findings)
    check_links(links, nodes, findings)
    _check_params(content, nodes, findings)


def _with_ids(items: list[Any], name: str, findings: Findings) -> list[dict[str, Any]]:
    """The objects in a list that have their ids; other items are a finding."""
    keys = _IDS[name]
    whole, wrong = [], []
    for i, item in enumerate(items):
        if isinstance(item, dict) and all(is_text(item.get(key)) for key in keys):
            whole.append(item)
        else:
            wrong.append(f"{name}[{i}]")
    what = f"{name} that are no objects with text as {' and '.join(keys)}"
    findings.add_each("error", f"{name.removesuffix('s')}-shape", wrong, what, *EVERYONE)
    return whole


def _check_metadata(metadata: dict[str, Any], findings: Findings) -> None:
    missing = [name for name in ("slug", "scan", "prompt", "prompt_tokens") if name not in metadata]
    findings.add_each("error", "metadata-missing", missing, "keys missing in metadata", *EVERY_VIEWER)

    sliders = (CIRCUIT_TRACER, NEURONPEDIA)
    fields: tuple[tuple[str, str, Callable[[Any], bool], str, tuple[str, ...]], ...] = (
        ("slug", "slug-characters", _is_safe_name, "letters, digits, dot, dash, underscore", (NEURONPEDIA,)),
        ("scan", "scan-characters", _is_safe_name, "letters, digits, dot, dash, underscore", (NEURONPEDIA,)),
        ("schema_version", "schema-version", lambda value: value in (None, 0, 1), "0 and 1", sliders),
        ("node_threshold", "node-threshold", _is_threshold, "numbers from 0 to 1", sliders),
        ("prompt_tokens", "prompt-tokens", are_texts, "lists of texts", EVERYONE),
    )
    for name, code, is_right, accepted, breaks in fields:
        if name in metadata and not is_right(metadata[name]):
            message = f"{name} is {metadata[name]!r:.60}; accepted are {accepted}"
            findings.add("error" if US in breaks else "warning", code, message, *breaks)


def _is_safe_name(value: Any) -> bool:
    return isinstance(value, str) and SAFE_NAME.fullmatch(value) is not None


def _is_threshold(value: Any) -> bool:
    return value is None or (is_number(value) and 0 <= value <= 1)


def _check_params(content: dict[str, Any], nodes: list[dict[str, Any]], findings: Findings) -> None:
    params = content.get("qParams")
    if not isinstance(params, dict):
        found = type(params).__name__ if "qParams" in content else "missing"
        findings.add("warning", "params-missing", f"qParams is {found}, expected an object", CIRCUIT_TRACER, ANTHROPIC)
        return
    # circuit-tracer's viewer saves null for nothing
    missing = [name for name in EMPTY_PARAMS if params.get(name) is None]
    findings.add_each("note", "params-keys", missing, "keys missing in qParams")
    other = [name for name, usual in EMPTY_PARAMS.items() if not isinstance(params.get(name, usual), type(usual))]
    saved = [name for name in other if isinstance(EMPTY_PARAMS[name], list) and isinstance(params[name], str)]
    findings.add_each("note", "params-text", saved, "keys of qParams are text, as circuit-tracer's viewer saves them")
    wrong = [f"{name} is a {type(params[name]).__name__}" for name in other if name not in (*missing, *saved)]
    findings.add_each("warning", "params-type", wrong, "keys of qParams of a wrong type", *EVERY_VIEWER)
    labels = params.get("clerps")
    if labels is not None:
        is_text = isinstance(labels, str)
        what = "text, which an upload must not have" if is_text else f"a {type(labels).__name__}, which throws"
        viewer = NEURONPEDIA if is_text else CIRCUIT_TRACER
        findings.add("warning", "params-clerps", f"qParams.clerps is {what}", viewer)
    ids = {node["node_id"] for node in nodes}
    js_ids = {node["jsNodeId"] for node in nodes if isinstance(node.get("jsNodeId"), str)}
    unknown = [name for name in dict.fromkeys(referred_ids(params)) if name not in ids]
    lost = [name for name in unknown if name not in js_ids]
    findings.add_each("warning", "params-ids", lost, "ids in qParams that name no node", *EVERY_VIEWER)
    by_js = [name for name in unknown if name in js_ids]
    what = "ids in qParams that are a node's jsNodeId, not its node_id"
    findings.add_each("note", "params-js-ids", by_js, what, CIRCUIT_TRACER, NEURONPEDIA)
