"""From a graph file of any kind to one that viewers read."""

from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.files import GRAPH_FORMATS, MAX_JSON_BYTES
from attrgraph.graph.load_graph import load_graph
from attrgraph.io.json_writing import write_json
from attrgraph.io.native import save_graph


def convert_graph(
    source: str | Path,
    output: str | Path,
    profile: str = "neuronpedia",
    *,
    overwrite: bool = False,
    max_bytes: int = MAX_JSON_BYTES,
) -> list[str]:
    """Write a graph file as another, repaired as far as it can be.

    Links to no node are left out, links between the same two nodes added up, copies of a node dropped, ids made unique,
    missing influence computed, labels completed, `qParams` made whole and its ids mapped.

    Args:
        source: a graph file of any kind that `load_graph` reads.
        output: the file to write, ending in .json or .safetensors.
        profile: of JSON: neuronpedia, circuit-tracer or anthropic.
        overwrite: whether an existing file may be replaced.
        max_bytes: the largest JSON file that is read; see `load_graph`.

    Returns:
        What was repaired, one sentence each.

    Raises:
        GraphFileError: the source cannot be read, or the output not written.

    Example:
        >>> convert_graph("theirs.json", "ours.json")  # doctest: +SKIP
        ["2 links ('1_7_3 -> 9_9_9', '2_5_3 -> 9_9_9') left out that lead from or to no node"]
    """
    output = Path(output)
    if output.suffix not in GRAPH_FORMATS:
        raise GraphFileError(f"{output}: unknown ending {output.suffix!r}; expected one of {', '.join(GRAPH_FORMATS)}.")
    graph = load_graph(source, max_bytes=max_bytes)
    repairs = list(graph.metadata.get("repairs", [])) if Path(source).suffix == ".json" else []
    if output.suffix == ".safetensors":
        save_graph(graph, output, overwrite=overwrite)
        return repairs
    return repairs + write_json(graph, output, profile, overwrite=overwrite)
