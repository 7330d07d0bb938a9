"""The native file of a graph: one safetensors file that keeps everything and opens without running code.

Its checksum covers every tensor's name, type, shape and bytes, and the text in the header: a file in which a bit has
changed is refused. Files of version 1, which have none, and 2, whose metadata are in the header, are still read.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import write_whole
from attrgraph.io.check_parts import check_parts
from attrgraph.io.json_values import are_texts, from_numpy
from attrgraph.io.own_metadata import check_depth, check_own_metadata
from attrgraph.io.problems import Findings
from attrgraph.schema import COLUMNS, KINDS, GraphParts, node_table

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

FORMAT, FORMAT_VERSION = "attrgraph-graph", 3
_CHECKSUM, _CONTENT = "checksum", "content"
# safetensors refuses to open a file whose header is over 100 MB, quotes escaped; what is longer is a tensor
_MAX_HEADER = 45_000_000
_NUMBERS = {name: dtype for name, dtype in COLUMNS.items() if dtype != "str"}
_OF_OTHERS = (".json", ".csv", ".parquet", ".graphml", ".gexf", ".cyjs", ".dot", ".svg", ".png", ".pdf")
_TEXTS = ("node_id", "token", "label")


@checked
def save_graph(graph: "Graph", path: str | Path, *, overwrite: bool = True) -> None:
    """Write a graph as a native file, `.safetensors`; the same graph gives the same bytes.

    Raises:
        GraphFileError: the name is of another format, the file cannot be written, or the graph holds what could not be
            read again.
    """
    if Path(path).suffix in _OF_OTHERS:
        raise GraphFileError(f"{path}: save writes .safetensors; for {Path(path).suffix} use attrgraph.export_graph.")
    content = {"metadata": graph.metadata, "prompt_tokens": graph.prompt_tokens}
    try:
        tensors = _tensors(graph)
        text = json.dumps(content, sort_keys=True, default=from_numpy)
    except (TypeError, ValueError, RecursionError) as e:
        raise GraphFileError(f"{path}: the graph holds what its file cannot ({e}).") from e
    # one key only: safetensors writes several in no fixed order
    if len(text) > _MAX_HEADER:
        tensors[_CONTENT] = np.frombuffer(text.encode(), dtype=np.uint8)
        header = {FORMAT: json.dumps({"format_version": FORMAT_VERSION})}
    else:  # as files of version 2, which older versions of this package read
        header = {FORMAT: json.dumps({"format_version": 2, **content}, sort_keys=True, default=from_numpy)}
    tensors[_CHECKSUM] = _checksum(tensors, header[FORMAT])
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=header), overwrite=overwrite)


def _tensors(graph: "Graph") -> dict[str, Any]:
    """Columns and edges."""
    nodes = graph.nodes
    if not nodes.index.is_unique:
        raise ValueError(f"{nodes.index[nodes.index.duplicated()][0]!r} is the id of several nodes")
    tensors = {f"nodes.{name}": np.ascontiguousarray(nodes[name].to_numpy(dtype)) for name, dtype in _NUMBERS.items()}
    tensors["nodes.kind"] = np.array([KINDS.index(kind) for kind in nodes["kind"]], dtype=np.int8)
    for name in _TEXTS:
        texts = (nodes.index if name == "node_id" else nodes[name]).tolist()
        "".join(texts).encode()  # halves of surrogate pairs could not be read again
        tensors[f"nodes.{name}"] = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    edges = graph.adjacency.sorted_indices()
    edges.sum_duplicates()
    for name in ("data", "indices", "indptr"):
        tensors[f"adjacency.{name}"] = np.ascontiguousarray(getattr(edges, name))
    return tensors


def read_graph(path: Path) -> GraphParts:
    """Read a file that `save_graph` wrote.

    Raises:
        GraphFileError: not such a file, truncated, altered, or with values that no graph has.
    """
    findings = Findings()
    parts = read_parts(path, findings)
    if findings.problems:
        raise GraphFileError(
            f"{path}: is damaged: {findings.problems[0].message}; attrgraph check lists all that is wrong."
        )
    return parts


def read_parts(path: Path, findings: Findings) -> GraphParts:
    """What the file holds; to `findings` is added which of its values no graph has.

    Raises:
        GraphFileError: not such a file, truncated, or altered.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get(FORMAT)
            if header is None:
                raise GraphFileError(f"{path}: a safetensors file, but not of a graph.")
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        content = json.loads(header)
        found, written = content["format_version"], tensors.pop(_CHECKSUM, None)
        # a flipped bit may have made another version of the number, too
        if written is not None and written.tobytes() != _checksum(tensors, header).tobytes():
            raise ValueError("its checksum is not that of its content: it was altered after it was written")
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise ValueError(f"format_version is {found!r:.40}, expected 1 to {FORMAT_VERSION}")
        if found > FORMAT_VERSION:
            raise GraphFileError(f"{path}: written by a newer attrgraph (format {found}); upgrade.")
        if written is None and (found > 1 or _CONTENT in tensors):
            raise ValueError("its checksum is missing")
        if _CONTENT in tensors:
            content = json.loads(tensors.pop(_CONTENT).tobytes())
        parts = _parts(tensors, content)
        check_parts(parts, findings)
        return parts
    except (SafetensorError, KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError, OSError) as e:
        raise GraphFileError(f"{path}: is not a whole graph file ({e}).") from e


def _parts(tensors: dict[str, Any], content: dict[str, Any]) -> GraphParts:
    texts = {name: json.loads(tensors[f"nodes.{name}"].tobytes()) for name in _TEXTS}
    if not all(map(are_texts, texts.values())):
        raise TypeError("ids, tokens or labels of nodes are not lists of texts")
    if (tensors["nodes.kind"] < 0).any():
        raise ValueError("a kind of node is negative")
    columns: dict[str, Any] = {"kind": [KINDS[code] for code in tensors["nodes.kind"]]}
    # files of earlier versions lack columns
    columns |= {name: tensors[f"nodes.{name}"] for name in _NUMBERS if f"nodes.{name}" in tensors}
    columns |= {name: texts[name] for name in ("token", "label")}
    nodes = node_table(pd.DataFrame(columns, index=pd.Index(texts["node_id"], name="node_id", dtype="str")))
    edges = tuple(tensors[f"adjacency.{name}"] for name in ("data", "indices", "indptr"))
    adjacency = sparse.csr_array(edges, shape=(len(nodes), len(nodes)))
    adjacency.check_format(full_check=True)
    metadata, tokens = content["metadata"], content["prompt_tokens"]
    if not (isinstance(metadata, dict) and isinstance(metadata["n_layers"], int) and are_texts(tokens)):
        raise TypeError("its metadata or prompt tokens are of a wrong type")
    check_depth(metadata)
    check_own_metadata(metadata)
    return GraphParts(nodes, adjacency, tokens, metadata)


def _checksum(tensors: dict[str, Any], header: str) -> np.ndarray:
    """SHA-256, as 32 bytes."""
    digest = hashlib.sha256(header.encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array)
    return np.frombuffer(digest.digest(), dtype=np.uint8)
