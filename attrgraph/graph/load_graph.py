"""Open a graph file of any known kind."""

from pathlib import Path

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import GRAPH_FORMATS, MAX_JSON_BYTES, check_readable
from attrgraph.graph.graph import Graph
from attrgraph.io.document import read_document
from attrgraph.io.json_reading import from_document
from attrgraph.io.native import read_graph

_NOT_READ = {
    ".pt": "a .pt file is a pickle, which could run any code when opened; write the graph as JSON with the tool that "
    "made it (circuit-tracer: create_graph_files) and open that",
    ".gz": "is compressed; unpack it first (gunzip)",
}


@checked
def load_graph(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> Graph:
    """Read a graph: the native `.safetensors`, or JSON as any tool writes it.

    JSON may be Anthropic's of 2025-03, circuit-tracer's of schema 0 or 1, EleutherAI's, or Neuronpedia's, with or
    without attention features. The graph's `metadata` then has `flavour`, `problems` and `repairs`: whose it is, what
    is wrong with it, and what was done about that; see `attrgraph.io.json_reading.from_document`.

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
    check_readable(path)
    if path.suffix not in GRAPH_FORMATS:
        raise GraphFileError(f"{path}: {_NOT_READ.get(path.suffix, 'a graph file ends in .safetensors or .json')}.")
    if path.suffix == ".safetensors":
        return Graph(*read_graph(path))
    return Graph(*from_document(read_document(path, max_bytes=max_bytes), str(path)))
