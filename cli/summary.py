"""A graph in words and numbers: for people as tables, for machines as a dictionary."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrgraph.cli.results import print_json

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def as_dict(graph: "Graph", *, n_top: int, files: list[Path]) -> dict[str, Any]:
    """Logits, scores, checks, node counts, and the most influential features."""
    from attrgraph.schema import FEATURE_KINDS

    nodes = graph.nodes.reset_index()
    logits = nodes[nodes["kind"] == "logit"].sort_values("probability", ascending=False, kind="stable")
    features = nodes[nodes["kind"].isin(FEATURE_KINDS)].nlargest(n_top, "influence")
    return {
        "prompt_tokens": graph.prompt_tokens,
        "logits": logits[["node_id", "token", "probability"]].to_dict("records"),
        "scores": graph.scores()._asdict(),
        "checks": graph.metadata.get("checks", {}),
        "selection": graph.metadata.get("selection", {}),
        "n_unknown_tokens": graph.metadata.get("n_unknown_tokens", 0),
        "nodes": nodes["kind"].value_counts(sort=False).to_dict(),
        "n_edges": int(graph.adjacency.nnz),
        "features": features[
            ["node_id", "kind", "layer", "feature", "pos", "token", "activation", "influence", "label"]
        ].to_dict("records"),
        "files": [str(path) for path in files],
    }


def print_summary(graph: "Graph", *, as_json: bool, n_top: int = 10, files: list[Path] | None = None) -> None:
    """Write the summary to stdout."""
    values = as_dict(graph, n_top=n_top, files=files or [])
    if as_json:
        print_json(values)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from attrgraph.viz.text import visible

    console = Console(highlight=False)
    prompt = " ".join(visible(token) for token in values["prompt_tokens"])
    answers = [(visible(logit["token"]), logit["probability"]) for logit in values["logits"]]
    first = answers[0][0] if answers else "(no answer in this graph)"
    console.print(Text.assemble(prompt, " → ", (first, "bold")), soft_wrap=True)
    console.print(Text("  ".join(f"{token} {probability:.3f}" for token, probability in answers)))
    counts = ", ".join(f"{count} {kind}" for kind, count in values["nodes"].items())
    console.print(Text(f"\nnodes        {counts}; {values['n_edges']} edges"))
    selection = values["selection"]
    if selection and selection["n_selected"] < selection["n_active"]:
        console.print(
            f"chosen       {selection['n_selected']} of {selection['n_active']} active features; the others are "
            f"{selection['unselected_share']:.1%} of the input"
        )
    scores, checks = values["scores"], values["checks"]
    console.print(f"scores       replacement {scores['replacement']:.3f}, completeness {scores['completeness']:.3f}")
    if checks:
        console.print(
            f"exactness    logits to {checks['logit_deviation']:.1e}, input sums to {checks['input_sum_gap']:.1e}"
        )
    if values["n_unknown_tokens"]:
        console.print(f"note         {values['n_unknown_tokens']} tokens of the prompt are unknown to the tokenizer")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("influence", "layer", "feature", "activation"):
        table.add_column(name, justify="right")
    table.add_column("at")
    table.add_column("label")
    for row in values["features"]:
        layer = f"{row['layer']} attention" if row["kind"] == "attention feature" else str(row["layer"])
        numbers = f"{row['influence']:.4f}", layer, str(row["feature"]), f"{row['activation']:.3g}"
        table.add_row(*numbers, Text(f"{visible(row['token'])} @{row['pos']}"), Text(visible(row["label"])))
    console.print("\nmost influential features")
    console.print(table if values["features"] else "(none is active)")
    for path in values["files"]:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
