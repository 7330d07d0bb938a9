"""Graph files that verbs write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import tell
from attrgraph.errors import GraphFileError
from attrgraph.files import PICTURE_ENDINGS, PROFILES, check_writable

# as help shows them without importing what writes them; a test compares
ENDINGS = (".json", ".safetensors", ".dot", ".svg", ".png", ".pdf", ".graphml", ".gexf", ".cyjs", ".csv", ".parquet")


@dataclass(frozen=True)
class Saving:
    """How graph files are written."""

    profile: options.Profile = PROFILES[0]
    scan: Annotated[
        str | None, "NAME", "Of JSON: Neuronpedia's model, or the hub name of transcoders, to find features by."
    ] = None
    source_set: Annotated[str | None, "NAME", "Of JSON: Neuronpedia's set of features."] = None
    force: options.Force = False

    def check(self, *paths: Path) -> None:
        """Raise for an output that could not be written, before any work is done."""
        from attrgraph.io.exports import check_output, files_of
        from attrgraph.io.json_writing import check_source_set

        check_source_set(self.source_set)
        for path in paths:
            check_output(path, profile=self.profile, overwrite=self.force)
        check_distinct([file for path in paths for file in files_of(path)])

    def how(self) -> dict[str, Any]:
        """Arguments of `attrgraph.export_graph` and its like."""
        return {
            "profile": self.profile,
            "scan": self.scan,
            "source_set": self.source_set,
            "overwrite": self.force,
        }

    def write(self, graph: "ag.Graph", path: Path) -> None:
        """Write a graph in the format of the file's ending."""
        for repair in ag.export_graph(graph, path, **self.how()):
            tell(f"attrgraph: {path}: {repair}.")


def check_distinct(files: Sequence[Path]) -> None:
    """Raise for a file that is named twice."""
    for file in files:
        if files.count(file) > 1:
            raise GraphFileError(f"{file}: is named twice as an output.")


def check_picture(path: Path, *, force: bool) -> None:
    """Raise for a picture of a graph that could not be written, before any work is done."""
    if path.suffix not in PICTURE_ENDINGS:
        raise GraphFileError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(PICTURE_ENDINGS)}.")
    Saving(force=force).check(path)


def check_figure(path: Path | None, *, force: bool) -> None:
    """Raise for a figure, if one is wanted, that could not be drawn or written, before any work is done."""
    from attrgraph.viz.figures import check_drawable

    if path is not None:
        check_drawable(path)
        check_writable(path, overwrite=force)
