"""Graph files by their names' endings, for every verb that writes one."""

from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from attrgraph.errors import GraphFileError
from attrgraph.formats import NO_GRAPHVIZ, PICTURE_FORMATS, PROFILES

if TYPE_CHECKING:
    from attrgraph.graph import Graph

PICTURES = tuple(f".{name}" for name in PICTURE_FORMATS)
ENDINGS = (".json", ".safetensors", ".dot", *PICTURES, ".graphml")
# beyond this, Graphviz takes minutes and nobody can read the picture
MOST_NODES_DRAWN = 500


def check_outputs(paths: Sequence[Path], *, profile: str, force: bool) -> None:
    """Raise for an output that could not be written, before any work is done."""
    from attrgraph.output import check_writable

    for path in paths:
        if paths.count(path) > 1:
            raise GraphFileError(f"{path}: is named twice as an output.")
        check_format(path.suffix, profile=profile, where=f"{path}: ")
        check_writable(path, overwrite=force)


def check_format(ending: str, *, profile: str, where: str = "") -> None:
    """Raise for an ending or a JSON profile that no graph can be written in."""
    if profile not in PROFILES:
        raise GraphFileError(f"unknown JSON profile {profile!r}; expected one of {', '.join(PROFILES)}.")
    if ending not in ENDINGS:
        raise GraphFileError(f"{where}unknown ending {ending!r}; expected one of {', '.join(ENDINGS)}.")
    if ending in PICTURES and which("dot") is None:
        raise GraphFileError(f"{where}{NO_GRAPHVIZ}")


def write_graph(graph: "Graph", path: Path, *, profile: str, force: bool) -> None:
    """Write a graph in the format of the file's ending."""
    from attrgraph.output import write_whole

    if path.suffix == ".json":
        graph.to_json(path, profile, overwrite=force)
    elif path.suffix == ".safetensors":
        graph.save(path, overwrite=force)
    elif path.suffix == ".dot":
        write_whole(path, lambda temporary: temporary.write_text(graph.to_dot(), encoding="utf-8"), overwrite=force)
    elif path.suffix == ".graphml":
        import networkx as nx

        write_whole(path, lambda temporary: nx.write_graphml(graph.to_networkx(), temporary), overwrite=force)
    else:
        from attrgraph.graph_dot import render

        if len(graph.nodes) > MOST_NODES_DRAWN:
            raise GraphFileError(
                f"{path}: {len(graph.nodes)} nodes are too many to draw (at most {MOST_NODES_DRAWN}); "
                "prune the graph first, with a lower --node-threshold."
            )
        render(graph, path, overwrite=force)
