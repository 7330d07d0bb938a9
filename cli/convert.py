"""`attrgraph convert`."""

from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_text, tell
from attrgraph.cli.writing import ENDINGS, Saving
from attrgraph.files import MAX_JSON_BYTES


def convert(
    graph: options.GraphFile,
    output: Annotated[Path, options.output(f"One of {' '.join(ENDINGS)}.")],
    names: options.NamedGraph,
    saving: Saving,
    max_bytes: Annotated[
        str, "SIZE", "Largest JSON that is read; reading takes 10 to 17 times its size."
    ] = f"{MAX_JSON_BYTES >> 20}M",
) -> None:
    """Write a graph in another format, repaired where needed.

    JSON may come from any tool. Every repair is a line on stderr.

    \b
    Example:
      attrgraph convert dallas.json -o dallas.dot
    """
    saving.check(output)
    from attrgraph.memory import parse_bytes

    limit = parse_bytes(max_bytes, name="--max-bytes")

    def change(read: ag.Graph) -> ag.Graph:
        return names.load(graph, read)

    for repair in ag.convert_graph(graph, output, **saving.how(), max_bytes=limit, change=change):
        tell(f"repaired: {repair}")
    print_text(str(output))
