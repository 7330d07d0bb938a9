"""`attrgraph group`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli.options import AsJson, Force
from attrgraph.cli.results import print_json
from attrgraph.cli.writing import PICTURES, check_outputs, write_graph
from attrgraph.errors import AttrGraphError, GraphFileError

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph
    from attrgraph.graph.groups import GroupedGraph

_ENDINGS = (".json", ".safetensors", ".dot", *PICTURES)


def group(
    graph: Annotated[Path, typer.Argument(help="A graph file, best pruned.")],
    by: Annotated[str | None, typer.Option(help="Find groups: tokens, flow or vectors (of the traced model).")] = None,
    groups: Annotated[Path | None, typer.Option(help='Take these: a JSON file {"name": ["node id", ...]}.')] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="With --by: so many groups at most.")] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --by: keep this share of flow. Default: 0.9.")
    ] = None,
    allow_cycles: Annotated[
        bool, typer.Option("--allow-cycles", help="Take groups that influence flows out of and back into.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=".json or .safetensors: the graph with groups; .dot .svg .png .pdf: them."),
    ] = None,
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Put nodes together to groups, and show what influence flows between them.

    Without --by and --groups, the groups are those that the graph's file has.

    Examples: attrgraph group small.json --by tokens -o grouped.svg;
    attrgraph group small.json --groups mine.json -o grouped.json
    """
    if by is not None and groups is not None:
        raise typer.BadParameter("give --by or --groups, not both.")
    if by is None and (n is not None or min_score is not None):
        raise typer.BadParameter("--n and --min-score need --by.")
    if output is not None:
        check_outputs([output], profile=profile, force=force)
        if output.suffix not in _ENDINGS:
            raise GraphFileError(f"{output}: groups go into files with one of the endings {', '.join(_ENDINGS)}.")
    from attrgraph.graph.groups import grouping_score, groups_of
    from attrgraph.graph.load_graph import load_graph

    loaded = load_graph(graph)
    if groups is not None:
        chosen = _read(groups)
    elif by is None:
        chosen = groups_of(loaded)
        if not chosen:
            raise GraphFileError(f"{graph}: has no groups of its own; give --by or --groups.")
    else:
        chosen = loaded.auto_groups(by, n, min_score=min_score, model=_model(loaded) if by == "vectors" else None)
    grouped = loaded.group(chosen, allow_cycles=allow_cycles)
    if output is not None:
        _write(loaded, grouped, output, profile=profile, force=force)
    _print(grouped, grouping_score(loaded, chosen), as_json=as_json, files=[output] if output is not None else [])


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise AttrGraphError(f"{path}: cannot be read as JSON ({e}).") from e
    if not isinstance(found, dict) or not all(isinstance(members, list) for members in found.values()):
        raise AttrGraphError(f'{path}: expected {{"name": ["node id", ...], ...}}.')
    return found


def _model(graph: "Graph") -> Any:
    from attrgraph.attribution.provenance import load_traced_model

    return load_traced_model(graph)


def _write(graph: "Graph", grouped: "GroupedGraph", path: Path, *, profile: str, force: bool) -> None:
    from attrgraph.graph.groups import with_groups
    from attrgraph.viz.draw import draw_graph

    if path.suffix in (".dot", *PICTURES):
        draw_graph(graph, path, groups=grouped.groups, overwrite=force)
    else:
        write_graph(with_groups(graph, grouped.groups), path, profile=profile, force=force)


def _print(grouped: "GroupedGraph", score: float, *, as_json: bool, files: list[Path]) -> None:
    edges = grouped.edges()
    if as_json:
        values = {
            "groups": grouped.groups,
            "score": score,
            "nodes": grouped.nodes.reset_index().to_dict("records"),
            "edges": edges.to_dict("records"),
            "files": [str(path) for path in files],
        }
        print_json(values)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from attrgraph.viz.text import visible

    console = Console(highlight=False)
    n_single = len(grouped.nodes) - len(grouped.groups)
    console.print(f"{len(grouped.groups)} groups, {n_single} single nodes, {len(edges)} edges; score {score:.3f}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (
        ("group", "left"),
        ("nodes", "right"),
        ("influence", "right"),
        ("layers", "left"),
        ("at", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in grouped.nodes[grouped.nodes["kind"] == "supernode"].itertuples():
        layers = str(row.first_layer) if row.first_layer == row.last_layer else f"{row.first_layer}-{row.last_layer}"
        table.add_row(
            Text(visible(row.label)), str(row.n_members), f"{row.influence:.4f}", layers, Text(visible(row.tokens))
        )
    console.print(table if grouped.groups else "(no groups)")
    for path in files:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
