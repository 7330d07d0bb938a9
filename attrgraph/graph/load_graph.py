"""Open a graph file of any known kind."""

from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.files import MAX_JSON_BYTES
from attrgraph.graph.graph import Graph
from attrgraph.io.document import read_document
from attrgraph.io.json_reading import from_dict
from attrgraph.io.native import read_graph


def load_graph(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> Graph:
    """Read a graph: the native `.safetensors`, or JSON as any tool writes it.

    JSON may be Anthropic's of 2025-03, circuit-tracer's of schema 0 or 1, EleutherAI's, or Neuronpedia's, with or
    without attention features. The graph's `metadata` then has `flavour`, `problems` and `repairs`: whose it is, what
    is wrong with it, and what was done about that; see `attrgraph.io.json_reading.from_dict`.

    Args:
        path: a file ending in .safetensors or .json.
        max_bytes: the largest JSON file that is parsed: 256 MiB, or 4 million links, take 2.5 GiB of memory, and
            4.2 GiB at worst.

    Raises:
        GraphFileError: the file is missing, of no known kind, too large, truncated, or contradicts itself.

    Example:
        >>> graph = load_graph("theirs.json")  # doctest: +SKIP
        >>> graph.metadata["flavour"], graph.metadata["repairs"]  # doctest: +SKIP
        ('circuit-tracer schema 1', [])
    """
    path = Path(path)
    if path.is_dir():
        raise GraphFileError(f"{path}: is a folder; give a graph file.")
    if not path.is_file():
        raise GraphFileError(f"{path}: no such file.")
    if path.suffix == ".safetensors":
        return Graph(*read_graph(path))
    if path.suffix == ".pt":
        raise GraphFileError(
            f"{path}: a .pt file is a pickle, which could run any code when opened; write the graph as JSON with the "
            "tool that made it (circuit-tracer: create_graph_files) and open that."
        )
    if path.suffix == ".gz":
        raise GraphFileError(f"{path}: is compressed; unpack it first (gunzip).")
    if path.suffix != ".json":
        raise GraphFileError(f"{path}: a graph file ends in .safetensors or .json.")
    document = read_document(path, max_bytes=max_bytes)
    if document.constants:
        raise GraphFileError(
            f"{path}: is not JSON: it holds {document.constants[0]} ({len(document.constants)} such numbers), "
            "expected finite numbers; was the graph computed in too low a precision?"
        )
    if document.repeated_keys:
        raise GraphFileError(
            f"{path}: the key {document.repeated_keys[0]!r:.60} stands twice in one object; delete one of them."
        )
    graph = Graph(*from_dict(document.content, str(path)))
    if document.n_broken_texts:
        graph.metadata["repairs"].append(f"half a surrogate pair replaced in {document.n_broken_texts} texts")
    return graph
