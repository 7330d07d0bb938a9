"""From a graph file of any kind to a file of any kind."""

from collections.abc import Callable
from pathlib import Path

from attrgraph.errors import checked
from attrgraph.files import MAX_JSON_BYTES, check_readable
from attrgraph.graph.graph import Graph
from attrgraph.graph.load_graph import load_graph
from attrgraph.io.document import read_document
from attrgraph.io.exports import check_output, export_graph
from attrgraph.io.json_reading import from_document
from attrgraph.io.problems import say_repaired


@checked
def convert_graph(
    source: str | Path,
    output: str | Path,
    profile: str = "neuronpedia",
    *,
    scan: str | None = None,
    source_set: str | None = None,
    overwrite: bool = True,
    max_bytes: int = MAX_JSON_BYTES,
    change: Callable[[Graph], Graph] | None = None,
) -> list[str]:
    """Write a graph file as another, repaired as far as possible.

    Links from or to no node are left out, links between the same two nodes added up, copies of a node dropped, ids made
    unique and those of this package, missing influence computed, labels completed, `qParams` made whole and its ids
    mapped.

    Args:
        source: a graph file of any kind that `load_graph` reads.
        output: the file to write; its ending says how, see `export_graph`.
        profile, scan, source_set: of JSON, as in `Graph.to_json`.
        overwrite: whether an existing file may be replaced.
        max_bytes: the largest JSON file that is read; see `load_graph`.
        change: what to do to the graph before it is written, such as naming its features.

    Returns:
        What was repaired, one sentence each.

    Raises:
        GraphFileError: the source cannot be read, or the output not written.

    Example:
        >>> convert_graph("theirs.json", "ours.json")  # doctest: +SKIP
        ["2 links ('1_7_3 -> 9_9_9', '2_5_3 -> 9_9_9') left out that lead from or to no node"]
    """
    output = Path(output)
    check_output(output, profile=profile, overwrite=overwrite)
    source, repairs = Path(source), list[str]()
    if source.suffix == ".json":
        check_readable(source)
        document = read_document(source, max_bytes=max_bytes)
        graph = Graph(*from_document(document, str(source)))
        repairs += graph.metadata["repairs"]
        theirs = {node["node_id"] for node in document.content["nodes"]}
        new = [name for name in graph.nodes.index if name not in theirs]
        say_repaired(repairs, new, "id", "given to nodes that the file calls otherwise")
    else:
        graph = load_graph(source)
    graph = change(graph) if change else graph
    return repairs + export_graph(graph, output, profile=profile, scan=scan, source_set=source_set, overwrite=overwrite)
