"""The native file of a graph: one safetensors file that keeps everything and opens without running code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from attrgraph.errors import GraphFileError
from attrgraph.files import write_whole
from attrgraph.io.own_metadata import check_own_metadata
from attrgraph.schema import COLUMNS, KINDS, GraphParts, node_table

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

FORMAT, FORMAT_VERSION = "attrgraph-graph", 1
# safetensors refuses to open a file whose header is over 100 MB, quotes escaped
_MAX_HEADER = 45_000_000
_NUMBERS = {name: dtype for name, dtype in COLUMNS.items() if dtype != "str"}
_TEXTS = ("node_id", "token", "label")


def save_graph(graph: "Graph", path: str | Path, *, overwrite: bool = True) -> None:
    """Write a graph; the same graph gives the same bytes."""
    nodes = graph.nodes.reset_index()
    tensors = {f"nodes.{name}": np.ascontiguousarray(nodes[name].to_numpy(dtype)) for name, dtype in _NUMBERS.items()}
    tensors["nodes.kind"] = np.array([KINDS.index(kind) for kind in nodes["kind"]], dtype=np.int8)
    for name in _TEXTS:
        tensors[f"nodes.{name}"] = np.frombuffer(json.dumps(nodes[name].tolist()).encode(), dtype=np.uint8)
    for name in ("data", "indices", "indptr"):
        tensors[f"adjacency.{name}"] = np.ascontiguousarray(getattr(graph.adjacency, name))
    # one key only: safetensors writes several in no fixed order
    content = {"format_version": FORMAT_VERSION, "metadata": graph.metadata, "prompt_tokens": graph.prompt_tokens}
    header = {FORMAT: json.dumps(content, sort_keys=True)}
    if len(header[FORMAT]) > _MAX_HEADER:
        raise GraphFileError(
            f"{path}: the graph's metadata take {len(header[FORMAT])} bytes, at most {_MAX_HEADER} can be read again; "
            "drop what is not needed from graph.metadata['extra']."
        )
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=header), overwrite=overwrite)


def read_graph(path: Path) -> GraphParts:
    """Read a file that `save_graph` wrote.

    Raises:
        GraphFileError: not such a file, truncated, or inconsistent in itself.
    """
    try:
        with safe_open(path, framework="np") as file:
            if FORMAT not in (file.metadata() or {}):
                raise GraphFileError(f"{path}: a safetensors file, but not of a graph.")
            header = json.loads(file.metadata()[FORMAT])
            if header["format_version"] > FORMAT_VERSION:
                raise GraphFileError(
                    f"{path}: written by a newer attrgraph (format {header['format_version']}); upgrade."
                )
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        texts = {name: json.loads(tensors[f"nodes.{name}"].tobytes()) for name in _TEXTS}
        if (tensors["nodes.kind"] < 0).any():
            raise ValueError("a kind of node is negative")
        columns: dict[str, Any] = {"kind": [KINDS[code] for code in tensors["nodes.kind"]]}
        columns |= {name: tensors[f"nodes.{name}"] for name in _NUMBERS}
        columns |= {name: texts[name] for name in ("token", "label")}
        nodes = node_table(pd.DataFrame(columns, index=pd.Index(texts["node_id"], name="node_id", dtype="str")))
        n_nodes = len(nodes)
        parts = tuple(tensors[f"adjacency.{name}"] for name in ("data", "indices", "indptr"))
        adjacency = sparse.csr_array(parts, shape=(n_nodes, n_nodes))
        adjacency.check_format(full_check=True)
        metadata, tokens = header["metadata"], header["prompt_tokens"]
        if not (isinstance(metadata, dict) and isinstance(metadata["n_layers"], int) and isinstance(tokens, list)):
            raise TypeError("its metadata or prompt tokens are of a wrong type")
        check_own_metadata(metadata)
        return GraphParts(nodes, adjacency, tokens, metadata)
    except (SafetensorError, KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError, OSError) as e:
        if isinstance(e, GraphFileError):
            raise
        raise GraphFileError(f"{path}: is not a whole graph file ({e}).") from e
