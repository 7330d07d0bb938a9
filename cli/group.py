"""`attrgraph group`."""

from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.groups_file import read_groups
from attrgraph.cli.output import print_files, print_json, print_table, print_text
from attrgraph.cli.writing import Saving
from attrgraph.errors import GraphFileError
from attrgraph.files import GRAPH_FORMATS, PICTURE_ENDINGS

_ENDINGS = (*GRAPH_FORMATS, *PICTURE_ENDINGS)


def group(
    graph: options.GraphFile,
    saving: Saving,
    by: Annotated[str | None, "WAY", "Find groups by tokens, flow, or vectors (of the traced model)."] = None,
    groups: Annotated[Path | None, "FILE", 'Take groups from JSON {"name": ["node id", ...]}.'] = None,
    n: Annotated[int | None, "N", "With --by: at most this many groups.", "--n", {"min": 1}] = None,
    min_score: Annotated[float | None, options.share("With --by: keep this share of flow. Default: 0.9.")] = None,
    allow_cycles: Annotated[
        bool, options.flag("Allow groups that influence leaves and comes back to.", "--allow-cycles")
    ] = False,
    output: Annotated[
        Path | None,
        options.output(
            "The graph with its groups as .json or .safetensors, or a picture of them as .svg .png .pdf .dot."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Put nodes into groups, and show the flow between them.

    Without --by and --groups, the groups are those in the graph's file.

    \b
    Examples:
      attrgraph group small.json --by tokens -o grouped.svg
      attrgraph group small.json --groups mine.json -o grouped.json
    """
    if by is not None and groups is not None:
        raise typer.BadParameter("give --by or --groups, not both.")
    if by is None and (n is not None or min_score is not None):
        raise typer.BadParameter("--n and --min-score need --by.")
    files = [] if output is None else [output]
    for file in files:
        saving.check(file)
        if file.suffix not in _ENDINGS:
            raise GraphFileError(f"{file}: groups are written with one of the endings {', '.join(_ENDINGS)}.")
    from attrgraph.graph.groups import grouping_score, groups_of, with_groups

    loaded = ag.load_graph(graph)
    if groups is not None:
        chosen = read_groups(groups)
    elif by is None:
        chosen = groups_of(loaded)
        if not chosen:
            raise GraphFileError(f"{graph}: has no groups of its own; give --by or --groups.")
    else:
        model = options.ModelOptions().load(loaded) if by == "vectors" else None
        chosen = loaded.auto_groups(by, n, min_score=min_score, model=model)
    grouped = loaded.group(chosen, allow_cycles=allow_cycles)
    for file in files:
        if file.suffix in PICTURE_ENDINGS:
            ag.draw_graph(loaded, file, groups=grouped.groups, overwrite=saving.force)
        else:
            saving.write(with_groups(loaded, grouped.groups), file)
    _print(grouped, grouping_score(loaded, chosen), as_json=as_json, files=files)


def _print(grouped: "ag.GroupedGraph", score: float, *, as_json: bool, files: list[Path]) -> None:
    edges = grouped.edges()
    if as_json:
        tables = {"nodes": grouped.nodes.reset_index().to_dict("records"), "edges": edges.to_dict("records")}
        print_json({"groups": grouped.groups, "score": score, **tables, "files": files})
        return
    n_single = len(grouped.nodes) - len(grouped.groups)
    print_text(f"{len(grouped.groups)} groups, {n_single} single nodes, {len(edges)} edges; score {score:.3f}\n")
    shown = grouped.nodes[grouped.nodes["kind"] == "supernode"]
    first, last = shown["first_layer"].astype(str), shown["last_layer"].astype(str)
    shown = shown.assign(layers=first.where(first == last, first + "-" + last))
    names = {"label": "group", "n_members": "nodes", "influence": "influence", "layers": "layers", "tokens": "at"}
    print_table(shown[list(names)].rename(columns=names), formats={"influence": ".4f"}, empty="(no groups)")
    print_files(files)
