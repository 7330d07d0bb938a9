"""Graph files that verbs write."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrgraph.cli import options
from attrgraph.errors import GraphFileError
from attrgraph.files import PROFILES

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# as help shows them without importing what writes them; a test compares
ENDINGS = (".json", ".safetensors", ".dot", ".svg", ".png", ".pdf", ".graphml", ".gexf", ".cyjs", ".csv", ".parquet")


@dataclass(frozen=True)
class Saving:
    """How graph files are written."""

    profile: options.Profile = PROFILES[0]
    force: options.Force = False

    def check(self, *paths: Path) -> None:
        """Raise for an output that could not be written, before any work is done."""
        from attrgraph.io.exports import check_output, files_of

        files = [file for path in paths for file in files_of(path)]
        for path in paths:
            check_output(path, profile=self.profile, overwrite=self.force)
        for file in files:
            if files.count(file) > 1:
                raise GraphFileError(f"{file}: is named twice as an output.")

    def write(self, graph: "Graph", path: Path) -> None:
        """Write a graph in the format of the file's ending."""
        from attrgraph.io.exports import export_graph

        for repair in export_graph(graph, path, profile=self.profile, overwrite=self.force):
            print(f"attrgraph: {path}: {repair}.", file=sys.stderr)
