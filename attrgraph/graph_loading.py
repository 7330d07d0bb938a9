"""Open a graph file of any known kind."""

import json
from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.graph import Graph
from attrgraph.graph_file import read_graph
from attrgraph.graph_json import from_dict


def load_graph(path: str | Path) -> Graph:
    """Read a graph: the native `.safetensors`, or JSON as circuit-tracer, Neuronpedia or Anthropic write it.

    Raises:
        GraphFileError: the file is missing, of no known kind, truncated, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise GraphFileError(f"{path}: no such file.")
    if path.suffix == ".safetensors":
        return read_graph(path)
    if path.suffix != ".json":
        raise GraphFileError(f"{path}: a graph file ends in .safetensors or .json.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as e:
        raise GraphFileError(f"{path}: is not JSON ({e}).") from e
    return from_dict(document, str(path))
