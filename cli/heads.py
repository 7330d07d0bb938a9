"""`attrgraph heads`."""

from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_json, print_table, print_text
from attrgraph.cli.summary import name_of


def heads(
    choice: options.GraphModelOptions,
    reading: options.PromptOptions,
    graph: Annotated[Path | None, options.argument("GRAPH", "A graph file.")] = None,
    source: Annotated[str | None, options.argument("SOURCE", "The edge's source: a node id.")] = None,
    target: Annotated[str | None, options.argument("TARGET", "The edge's target: a node id.")] = None,
    prompt: Annotated[str | None, "PROMPT", "Instead of an edge, explain an attention score of this prompt."] = None,
    layer: Annotated[int | None, "N", "With --prompt: the head's layer."] = None,
    head: Annotated[int | None, "N", "With --prompt: its number in the layer."] = None,
    query: Annotated[int | None, "POS", "With --prompt: the position that attends."] = None,
    key: Annotated[int | None, "POS", "With --prompt: the position attended to."] = None,
    top: options.Top = 10,
    as_json: options.AsJson = False,
) -> None:
    """Say which heads carry an edge, or why a head attends.

    \b
    Examples:
      attrgraph heads dallas.safetensors 0_-1_5 5_45_8
      attrgraph heads --prompt "in the state containing dallas the capital is" \\
        --layer 2 --head 0 --query 8 --key 5
    """
    place = (layer, head, query, key)
    if prompt is not None:
        if graph is not None or None in place:
            raise typer.BadParameter("--prompt takes no graph, and needs --layer, --head, --query and --key.")
        asked, how = reading.read(prompt), reading.how()
        found = ag.explain_attention(choice.load(), asked, *place, **how)  # type: ignore[arg-type]
        _print_score(found, n_top=top, as_json=as_json)
        return
    if graph is None or source is None or target is None or place != (None,) * 4 or reading != options.PromptOptions():
        raise typer.BadParameter("give GRAPH SOURCE TARGET, or --prompt with --layer, --head, --query and --key.")
    choice.check_with_graph()
    loaded = ag.load_graph(graph)
    _explain_edge(loaded, source, target, choice.load(loaded), n_top=top, as_json=as_json)


def _explain_edge(
    graph: "ag.Graph", source: str, target: str, model: "ag.LanguageModel", *, n_top: int, as_json: bool
) -> None:
    from attrgraph.schema import canonical_id

    loadings = ag.head_loadings(graph, source, target, model=model)
    strongest = loadings.sort_values("effect", key=abs, ascending=False, kind="stable")
    rows = strongest.groupby("layer").head(n_top).sort_values("layer", kind="stable")
    index = graph.nodes.index
    edge = float(graph.adjacency[index.get_loc(canonical_id(target)), index.get_loc(canonical_id(source))])
    if as_json:
        print_json({"source": source, "target": target, "edge": edge, "loadings": rows.to_dict("records")})
        return
    print_text(f"edge      {name_of(graph, source)} -> {name_of(graph, target)}: {edge:.4g}\n")
    named = rows.assign(via=[f"head {row.head}" if row.via == "head" else row.via for row in rows.itertuples()])
    empty = "no attention lies between the two" if loadings.empty else "(no rows)"
    print_table(named[["layer", "via", "effect"]], formats={"effect": "+.4g"}, empty=empty)


def _print_score(found: "ag.AttentionExplanation", *, n_top: int, as_json: bool) -> None:
    pairs, kinds = found.pairs(n_top), found.by_kind()
    if as_json:
        names = ("layer", "head", "query", "key", "score", "weight", "deviation", "pattern_deviation")
        values = {name: getattr(found, name) for name in names}
        print_json({**values, "by_kind": kinds.to_dict("index"), "pairs": pairs.to_dict("records")})
        return
    tokens = found.sources[found.sources["kind"] == "embedding"].set_index("pos")["token"]
    query, key = (f"{tokens[pos]} @{pos}" for pos in (found.query, found.key))
    print_text(f"head      layer {found.layer}, head {found.head}: {query} to {key}")
    print_text(f"score     {found.score:.4f} before the softmax, {found.weight:.4f} after it")
    print_text(f"exactness sum of pairs to {found.deviation:.1e}, attention weights to {found.pattern_deviation:.1e}\n")
    print_table(kinds.reset_index(names="query \\ key"), formats=dict.fromkeys(kinds.columns, "+.3f"))
    print_text("\nstrongest pairs")
    shown = pairs[["contribution"]].assign(
        query_source=pairs["query_source"] + " " + pairs["query_label"],
        key_source=pairs["key_source"] + " " + pairs["key_label"],
    )
    print_table(shown, formats={"contribution": "+.4f"})
