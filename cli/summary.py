"""A graph in words and numbers: for people as tables, for machines as a dictionary."""

from pathlib import Path
from typing import Any

import attrgraph as ag
from attrgraph.cli.output import print_files, print_json, print_table, print_text
from attrgraph.files import SAMPLED
from attrgraph.viz.text import typed, visible

_FEATURES = ["node_id", "kind", "layer", "feature", "pos", "token", "activation", "influence", "label"]


def as_dict(graph: "ag.Graph", *, n_top: int, files: list[Path]) -> dict[str, Any]:
    """Logits, scores, checks, node counts, and the most influential features."""
    from attrgraph.schema import FEATURE_KINDS

    nodes = graph.nodes.reset_index()
    logits = nodes[nodes["kind"] == "logit"].sort_values("probability", ascending=False, kind="stable")
    if "answer" in graph.metadata:  # of several tokens, one after the other
        logits = logits.sort_values("pos", kind="stable")
    features = nodes[nodes["kind"].isin(FEATURE_KINDS)].nlargest(n_top, "influence")
    return {
        "prompt_tokens": graph.prompt_tokens,
        "logits": logits[["node_id", "token", "pos", "probability", "bias_share"]].to_dict("records"),
        "scores": graph.scores()._asdict(),
        "checks": graph.metadata.get("checks", {}),
        "selection": graph.metadata.get("selection", {}),
        "skipped_positions": graph.metadata.get("skipped_positions", []),
        "missing_layers": graph.metadata.get("transcoders", {}).get("missing_layers", []),
        "notes": [*graph.metadata.get("notes", []), *_sampled(graph)],
        "n_unknown_tokens": graph.metadata.get("n_unknown_tokens", 0),
        "nodes": nodes["kind"].value_counts(sort=False).to_dict(),
        "n_edges": int(graph.adjacency.nnz),
        "features": features[_FEATURES].to_dict("records"),
        "files": files,
    }


def _sampled(graph: "ag.Graph") -> list[str]:
    digest = str(graph.metadata.get("transcoders", {}).get("digest"))
    return [f"digest of the transcoders by samples and times of change ({SAMPLED})"] if SAMPLED in digest else []


def print_summary(graph: "ag.Graph", *, as_json: bool, n_top: int = 10, files: list[Path] | None = None) -> None:
    """Write the summary to stdout."""
    values = as_dict(graph, n_top=n_top, files=files or [])
    if as_json:
        print_json(values)
        return
    from rich.text import Text

    prompt = " ".join(visible(token) for token in values["prompt_tokens"])
    answers = [(_placed(graph, logit), logit["probability"]) for logit in values["logits"]]
    first = answers[0][0] if answers else "(no answer in this graph)"
    if "answer" in graph.metadata and answers:  # all but its last token stand in the prompt
        first = answers[-1][0]
    print_text(Text.assemble(prompt, " → ", (first, "bold")))
    print_text("  ".join(f"{token} {probability:.3f}" for token, probability in answers))
    counts = ", ".join(f"{count} {kind}" for kind, count in values["nodes"].items())
    print_text(f"\nnodes        {counts}; {values['n_edges']} edges")
    selection = values["selection"]
    if selection and selection["n_selected"] < selection["n_active"]:
        print_text(
            f"chosen       {selection['n_selected']} of {selection['n_active']} active features; the others are "
            f"{selection['unselected_share']:.1%} of the input"
        )
    scores, checks = values["scores"], values["checks"]
    print_text(f"scores       replacement {scores['replacement']:.3f}, completeness {scores['completeness']:.3f}")
    if "bias_share" in checks:
        print_text(
            f"bias         {checks['bias_share']:.1%} of the answer comes from constants, or what is skipped or not "
            "chosen; scores leave it out"
        )
    if "logit_deviation" in checks:
        judged = "" if checks.get("is_exact", True) else "; NOT EXACT"
        of_logits, of_sums = checks["logit_deviation"], checks["input_sum_gap"]
        print_text(f"exactness    logits to {of_logits:.1e}, input sums to {of_sums:.1e}{judged}")
    for one in values["skipped_positions"]:
        print_text(f"skipped      position {one['pos']}: {visible(one['why'])}")
    if values["missing_layers"]:
        layers = ", ".join(map(str, values["missing_layers"]))
        print_text(f"missing      no transcoder for layers {layers}: what their MLPs write is error")
    for note in values["notes"]:
        print_text(f"note         {visible(note)}")
    if values["n_unknown_tokens"]:
        n = values["n_unknown_tokens"]
        print_text(f"note         {n} {'token' if n == 1 else 'tokens'} of the prompt unknown to the tokenizer")
    if n_top:
        print_text("\nmost influential features")
        _print_features(values["features"])
    print_files(values["files"])


def _placed(graph: "ag.Graph", logit: dict[str, Any]) -> str:
    """A target, and where it is read unless that is after the prompt's last token."""
    is_last = logit["pos"] == len(graph.prompt_tokens) - 1
    return typed(logit["token"]) if is_last else f"{typed(logit['token'])} @{logit['pos']}"


def _print_features(features: list[dict[str, Any]]) -> None:
    import pandas as pd

    shown = pd.DataFrame(features, columns=_FEATURES)
    is_attention = shown["kind"] == "attention feature"
    shown["layer"] = shown["layer"].mask(is_attention, shown["layer"].astype(str) + " attention")
    shown["at"] = shown["token"].map(visible) + " @" + shown["pos"].astype(str)
    names = ["influence", "layer", "feature", "activation", "at", "label"]
    print_table(shown[names], formats={"influence": ".4f", "activation": ".3g"}, empty="(none is active)")


def name_of(graph: "ag.Graph", node: str) -> str:
    """A node's id and label."""
    from attrgraph.schema import canonical_id

    node = canonical_id(node)
    label = graph.nodes.loc[node, "label"]
    return visible(f"{node} ({label})" if label else node)
