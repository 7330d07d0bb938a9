"""`attrgraph heads`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli.options import as_token_ids
from attrgraph.errors import TranscoderError

if TYPE_CHECKING:
    import pandas as pd

    from attrgraph.graph.graph import Graph
    from attrgraph.models.language_model import LanguageModel


def heads(
    graph: Annotated[Path | None, typer.Argument(help="A graph file: .safetensors or .json.")] = None,
    source: Annotated[str | None, typer.Argument(help="The edge's source: a node id.")] = None,
    target: Annotated[str | None, typer.Argument(help="The edge's target: a node id.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Explain a score in this prompt instead; with --ids, token ids.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="With --prompt: the head's layer.")] = None,
    head: Annotated[int | None, typer.Option(help="With --prompt: its number in the layer.")] = None,
    query: Annotated[int | None, typer.Option(help="With --prompt: the position that attends.")] = None,
    key: Annotated[int | None, typer.Option(help="With --prompt: the position that is attended to.")] = None,
    model: Annotated[
        str | None, typer.Option(help="demo, a folder, or owner/repo. Default: the graph's; for a prompt: demo.")
    ] = None,
    transcoders: Annotated[
        str | None, typer.Option(help="demo, demo-per-layer, a folder, or owner/repo. Default for the demo: demo.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float64, bfloat16 or float16. Default: the graph's, or float32.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is token ids.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Rows for each layer of an edge; pairs of a score.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say which attention heads carry an edge, or why a head attends where it does.

    Examples: attrgraph heads dallas.safetensors 0_-1_5 5_48_8;
    attrgraph heads --prompt "in the state containing dallas the capital is" --layer 2 --head 0 --query 8 --key 5
    """
    place = (layer, head, query, key)
    if model not in (None, "demo") and transcoders is None:
        raise TranscoderError(f"{model}: name its transcoders with --transcoders (a folder, or owner/repo on the hub).")
    load = partial(_load, model, transcoders, device=device, revision=revision)
    if prompt is not None:
        if graph is not None or None in place:
            raise typer.BadParameter("--prompt takes no graph, and needs --layer, --head, --query and --key.")
        asked = as_token_ids(prompt) if ids else prompt
        _explain_score(load(dtype or "float32"), asked, place, n_top=top, as_json=as_json)  # type: ignore[arg-type]
        return
    if graph is None or source is None or target is None or place != (None,) * 4 or ids:
        raise typer.BadParameter("give GRAPH SOURCE TARGET, or --prompt with --layer, --head, --query and --key.")
    if model is None and (transcoders, dtype, device, revision) != (None,) * 4:
        raise typer.BadParameter("with a graph, --transcoders, --dtype, --device and --revision need a --model.")
    from attrgraph.graph.load_graph import load_graph

    loaded = load_graph(graph)
    traced = None if model is None else load(dtype or loaded.metadata.get("dtype", "float32"))
    _explain_edge(loaded, source, target, traced, n_top=top, as_json=as_json)


def _load(
    model: str | None, transcoders: str | None, dtype: str, *, device: str | None, revision: str | None
) -> "LanguageModel":
    from attrgraph.models.load_model import load_model

    return load_model(model or "demo", transcoders, dtype, device or "auto", revision)


def _explain_edge(
    graph: "Graph", source: str, target: str, model: "LanguageModel | None", *, n_top: int, as_json: bool
) -> None:
    from attrgraph.attribution.heads import head_loadings

    loadings = head_loadings(graph, source, target, model=model)
    strongest = loadings.sort_values("effect", key=abs, ascending=False, kind="stable")
    rows = strongest.groupby("layer").head(n_top).sort_values("layer", kind="stable")
    index = graph.nodes.index
    edge = float(graph.adjacency[index.get_loc(target), index.get_loc(source)])
    if as_json:
        values = {"source": source, "target": target, "edge": edge, "loadings": rows.to_dict("records")}
        print(json.dumps(values, ensure_ascii=False))
        return
    print(f"edge      {_node(graph.nodes, source)} -> {_node(graph.nodes, target)}: {edge:.4g}\n")
    if rows.empty:
        print("no attention lies between the two" if loadings.empty else "(no rows)")
        return
    names = [f"head {row.head}" if row.via == "head" else row.via for row in rows.itertuples()]
    _print_table(
        {
            "layer": [str(value) for value in rows["layer"]],
            "via": names,
            "effect": [f"{value:+.4g}" for value in rows["effect"]],
        },
        right=("layer", "effect"),
    )


def _explain_score(
    model: "LanguageModel", prompt: str | list[int], place: tuple[int, int, int, int], *, n_top: int, as_json: bool
) -> None:
    from attrgraph.attribution.qk import explain_attention

    found = explain_attention(model, prompt, *place)
    pairs, kinds = found.pairs(n_top), found.by_kind()
    if as_json:
        names = ("layer", "head", "query", "key", "score", "weight", "deviation", "pattern_deviation")
        values: dict[str, Any] = {name: getattr(found, name) for name in names}
        values |= {"by_kind": kinds.to_dict("index"), "pairs": pairs.to_dict("records")}
        print(json.dumps(values, ensure_ascii=False))
        return
    tokens = found.sources[found.sources["kind"] == "embedding"].set_index("pos")["token"]
    print(f"head      layer {found.layer}, head {found.head}: {_at(tokens, found.query)} to {_at(tokens, found.key)}")
    print(f"score     {found.score:.4f} before the softmax, {found.weight:.4f} after it")
    print(f"exactness sum of pairs to {found.deviation:.1e}, attention weights to {found.pattern_deviation:.1e}\n")
    by_kind = {"query \\ key": list(kinds.index)}
    by_kind |= {str(name): [f"{value:+.3f}" for value in kinds[name]] for name in kinds.columns}
    _print_table(by_kind, right=tuple(kinds.columns))
    print("\nstrongest pairs")
    if pairs.empty:
        print("(none)")
        return
    _print_table(
        {
            "contribution": [f"{value:+.4f}" for value in pairs["contribution"]],
            "query source": [f"{row.query_source} {row.query_label}" for row in pairs.itertuples()],
            "key source": [f"{row.key_source} {row.key_label}" for row in pairs.itertuples()],
        },
        right=("contribution",),
    )


def _node(nodes: "pd.DataFrame", name: str) -> str:
    return f"{name} ({nodes.loc[name, 'label']})"


def _at(tokens: "pd.Series[str]", pos: int) -> str:
    return f"{tokens[pos]} @{pos}"


def _print_table(columns: dict[str, list[str]], *, right: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    Console(highlight=False).print(table)
