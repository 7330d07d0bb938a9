"""What is wrong with a graph file, and which viewers and loaders that breaks."""

from pathlib import Path
from typing import Any

from attrgraph.errors import GraphFileError
from attrgraph.files import MAX_JSON_BYTES
from attrgraph.io.check_nodes import check_links, check_nodes
from attrgraph.io.document import read_document
from attrgraph.io.flavours import SAFE_NAME
from attrgraph.io.params import EMPTY_PARAMS, referred_ids
from attrgraph.io.problems import ANTHROPIC, CIRCUIT_TRACER, EVERY_VIEWER, NEURONPEDIA, US, Findings, Problem

# what Neuronpedia takes as an upload
_NEURONPEDIA_BYTES = (1024, 100 * 2**20)


def check_graph_file(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> list[Problem]:
    """Everything that is wrong with a graph file, errors first; an empty list for a file that opens everywhere.

    Args:
        path: a graph as JSON, of any flavour, or the native `.safetensors`, of which only the reading is checked.
        max_bytes: see `attrgraph.io.document.read_document`.

    Example:
        >>> problems = check_graph_file("graph.json")  # doctest: +SKIP
        >>> [problem.code for problem in problems if problem.severity == "error"]  # doctest: +SKIP
        ['dangling-link']
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise GraphFileError(f"{path}: is a folder." if path.is_dir() else f"{path}: no such file.")
        if path.suffix == ".safetensors":
            from attrgraph.io.native import read_graph

            read_graph(path)
            return []
        document = read_document(path, max_bytes=max_bytes)
    except GraphFileError as e:
        return [Problem("error", "unreadable", str(e).removeprefix(f"{path}: "), (US, *EVERY_VIEWER))]
    findings = Findings()
    findings.add_each(
        "error",
        "not-a-number",
        document.constants,
        "numbers that are no JSON",
        US,
        *EVERY_VIEWER,
        "strict JSON readers",
    )
    findings.add_each(
        "error",
        "repeated-key",
        document.repeated_keys,
        "keys that stand twice in one object; readers differ in which counts",
        US,
    )
    if document.n_broken_texts:
        message = f"{document.n_broken_texts} texts with half a surrogate pair, which UTF-8 cannot hold"
        findings.add("warning", "broken-text", message, "readers that need UTF-8")
    smallest, largest = _NEURONPEDIA_BYTES
    if not smallest <= document.size <= largest:
        message = f"the file has {document.size} bytes; an upload has {smallest} to {largest}"
        findings.add("warning", "file-size", message, NEURONPEDIA)
    return _sorted([*findings.problems, *check_content(document.content)])


def check_content(document: Any) -> list[Problem]:
    """Everything that is wrong with a parsed JSON document, errors first. Never raises."""
    findings = Findings()
    breaks = (US, *EVERY_VIEWER)
    if not isinstance(document, dict):
        findings.add("error", "shape", f"the document is a {type(document).__name__}, expected an object", *breaks)
        return findings.problems
    for name, kind in (("metadata", dict), ("nodes", list), ("links", list)):
        if not isinstance(document.get(name), kind):
            found = type(document[name]).__name__ if name in document else "missing"
            findings.add("error", "shape", f"{name} is {found}, expected a {kind.__name__}", *breaks)
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    tokens = _check_metadata(metadata, findings)
    nodes, links = (_objects(document.get(name), name, findings) for name in ("nodes", "links"))
    nodes = _with_ids(nodes, findings)
    check_nodes(nodes, metadata, tokens, findings)
    check_links(links, nodes, findings)
    _check_params(document, nodes, findings)
    return _sorted(findings.problems)


def _sorted(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: ("error", "warning", "note").index(problem.severity))


def _objects(values: Any, name: str, findings: Findings) -> list[dict[str, Any]]:
    """The objects in a list; other items are a finding."""
    values = values if isinstance(values, list) else []
    wrong = [f"{name}[{i}]" for i, value in enumerate(values) if not isinstance(value, dict)]
    findings.add_each("error", f"{name.removesuffix('s')}-shape", wrong, f"{name} are no objects", US, *EVERY_VIEWER)
    return [value for value in values if isinstance(value, dict)] if wrong else values


def _with_ids(nodes: list[dict[str, Any]], findings: Findings) -> list[dict[str, Any]]:
    wrong = [f"nodes[{i}]" for i, node in enumerate(nodes) if not isinstance(node.get("node_id"), str)]
    findings.add_each("error", "node-shape", wrong, "nodes whose node_id is missing or no text", US, *EVERY_VIEWER)
    return [node for node in nodes if isinstance(node.get("node_id"), str)] if wrong else nodes


def _check_metadata(metadata: dict[str, Any], findings: Findings) -> list[str] | None:
    """Findings about the metadata; the prompt's tokens, if they are a list of texts."""
    missing = [name for name in ("slug", "scan", "prompt", "prompt_tokens") if name not in metadata]
    findings.add_each("error", "metadata-missing", missing, "keys missing in metadata", *EVERY_VIEWER)
    for name in ("slug", "scan"):
        value = metadata.get(name)
        if name in metadata and not (isinstance(value, str) and SAFE_NAME.fullmatch(value)):
            message = f"{name} is {value!r:.60}; accepted are letters, digits, dot, dash, underscore"
            findings.add("warning", f"{name}-characters", message, NEURONPEDIA)
    schema = metadata.get("schema_version")
    if schema not in (None, 0, 1):
        message = f"schema_version is {schema!r:.60}; known are 0 and 1"
        findings.add("warning", "schema-version", message, CIRCUIT_TRACER, NEURONPEDIA)
    threshold = metadata.get("node_threshold")
    if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
        message = f"node_threshold is {threshold!r:.60}, expected a number from 0 to 1"
        findings.add("warning", "node-threshold", message, CIRCUIT_TRACER, NEURONPEDIA)
    tokens = metadata.get("prompt_tokens")
    if "prompt_tokens" not in metadata:
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        findings.add("error", "prompt-tokens", "prompt_tokens is not a list of texts", US, *EVERY_VIEWER)
        return None
    return tokens


def _check_params(document: dict[str, Any], nodes: list[dict[str, Any]], findings: Findings) -> None:
    params = document.get("qParams")
    if not isinstance(params, dict):
        found = type(params).__name__ if "qParams" in document else "missing"
        findings.add("warning", "params-missing", f"qParams is {found}, expected an object", CIRCUIT_TRACER, ANTHROPIC)
        return
    # circuit-tracer's viewer saves null for nothing
    missing = [name for name in EMPTY_PARAMS if params.get(name) is None]
    findings.add_each("note", "params-keys", missing, "keys missing in qParams")
    saved, wrong = [], []
    for name, usual in EMPTY_PARAMS.items():
        value = usual if name in missing else params[name]
        if isinstance(usual, list) and isinstance(value, str):
            saved.append(name)
        elif not isinstance(value, type(usual)):
            wrong.append(f"{name} is a {type(value).__name__}")
    findings.add_each("note", "params-text", saved, "keys of qParams are text, as circuit-tracer's viewer saves them")
    findings.add_each("warning", "params-type", wrong, "keys of qParams of a wrong type", *EVERY_VIEWER)
    labels = params.get("clerps")
    if isinstance(labels, str):
        findings.add("warning", "params-clerps", "qParams.clerps is text, which an upload must not have", NEURONPEDIA)
    elif labels is not None:
        message = f"qParams.clerps is a {type(labels).__name__}, which throws"
        findings.add("warning", "params-clerps", message, CIRCUIT_TRACER)
    known = {node["node_id"] for node in nodes}
    js_ids = {node["jsNodeId"] for node in nodes if isinstance(node.get("jsNodeId"), str)}
    referred = list(dict.fromkeys(referred_ids(params)))
    lost = [name for name in referred if name not in known and name not in js_ids]
    findings.add_each("warning", "params-ids", lost, "ids in qParams that name no node", *EVERY_VIEWER)
    by_js = [name for name in referred if name not in known and name in js_ids]
    what = "ids in qParams that are a node's jsNodeId, not its node_id"
    findings.add_each("note", "params-js-ids", by_js, what, CIRCUIT_TRACER, NEURONPEDIA)
