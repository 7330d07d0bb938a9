"""Graph files by their names' endings, for every verb that writes one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from attrgraph.cli import options
from attrgraph.errors import GraphFileError
from attrgraph.files import NO_GRAPHVIZ, PICTURE_FORMATS, PROFILES

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

PICTURES = tuple(f".{name}" for name in PICTURE_FORMATS)
_EXPORTS = (".graphml", ".gexf", ".cyjs", ".csv", ".parquet")
ENDINGS = (".json", ".safetensors", ".dot", *PICTURES, *_EXPORTS)


@dataclass(frozen=True)
class Saving:
    """How graph files are written."""

    profile: options.Profile = PROFILES[0]
    force: options.Force = False

    def check(self, *paths: Path) -> None:
        """Raise for an output that could not be written, before any work is done."""
        from attrgraph.files import check_writable

        files = [file for path in paths for file in files_of(path)]
        for path in paths:
            check_format(path.suffix, profile=self.profile, where=f"{path}: ")
            for file in files_of(path):
                if files.count(file) > 1:
                    raise GraphFileError(f"{file}: is named twice as an output.")
                check_writable(file, overwrite=self.force)

    def write(self, graph: "Graph", path: Path) -> None:
        """Write a graph in the format of the file's ending."""
        write_graph(graph, path, profile=self.profile, force=self.force)


def check_format(ending: str, *, profile: str, where: str = "") -> None:
    """Raise for an ending or a JSON profile that no graph can be written in."""
    if profile not in PROFILES:
        raise GraphFileError(f"unknown JSON profile {profile!r}; expected one of {', '.join(PROFILES)}.")
    if ending not in ENDINGS:
        raise GraphFileError(f"{where}unknown ending {ending!r}; expected one of {', '.join(ENDINGS)}.")
    if ending in PICTURES and which("dot") is None:
        raise GraphFileError(f"{where}{NO_GRAPHVIZ}")
    if ending == ".parquet":
        from attrgraph.io.exports import check_parquet

        check_parquet(where)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that writing a graph to this name makes: a table of edges has one of nodes beside it."""
    if path.suffix not in _EXPORTS:
        return (path,)
    from attrgraph.io.exports import export_files

    return export_files(path)


def write_graph(graph: "Graph", path: Path, *, profile: str, force: bool) -> None:
    """Write a graph in the format of the file's ending."""
    if path.suffix == ".json":
        if not (graph.nodes["kind"] == "logit").any():
            raise GraphFileError(f"{path}: no reader opens JSON without a logit; write .safetensors.")
        graph.to_json(path, profile, overwrite=force)
    elif path.suffix == ".safetensors":
        graph.save(path, overwrite=force)
    elif path.suffix in _EXPORTS:
        from attrgraph.io.exports import export_graph

        n_replaced = export_graph(graph, path, overwrite=force)
        if n_replaced:
            print(
                f"attrgraph: {path}: {n_replaced} characters that the format cannot hold were replaced.",
                file=sys.stderr,
            )
    else:
        from attrgraph.viz.draw import draw_graph

        draw_graph(graph, path, overwrite=force)
