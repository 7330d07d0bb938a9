"""`attrgraph patch`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import check_one_form, print_csv, print_files, print_json, print_table, print_text
from attrgraph.cli.writing import check_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_PLACE = re.compile(r"(?P<name>[^=]+)=(?P<clean>-?[0-9]{1,9}),(?P<corrupt>-?[0-9]{1,9})")


@dataclass(frozen=True)
class AnyModelOptions(options.ModelOptions):
    """The same where a model needs no transcoders."""

    def __post_init__(self) -> None:
        """Nothing to refuse."""


def patch(
    clean: Annotated[str, options.argument("CLEAN", "The prompt that is explained; with --ids, token ids.")],
    corrupt: Annotated[str, options.argument("CORRUPT", "The same with something changed.")],
    choice: AnyModelOptions,
    reading: options.PromptOptions,
    target: Annotated[
        str | None, "TOKEN", "Measure its log probability; with --minus, its logit. Default: the two answers' logits."
    ] = None,
    minus: Annotated[str | None, "TOKEN", "Measure the logit of --target minus the logit of this token."] = None,
    kl: Annotated[bool, options.flag("Measure KL(clean answer || run's answer).", "--kl")] = False,
    nodes: Annotated[
        list[str] | None,
        "NODES",
        "feature, error, head, attn, mlp, resid, embedding, resid_mid, q, k or v; or some of a kind, such as "
        "head:1.2@8, mlp:2@3:6, 3/458; several with commas. Default: the first seven kinds, those that the model has.",
    ] = None,
    direction: Annotated[str, "WAY", "denoise: clean nodes into the corrupt run; noise: the other way."] = "denoise",
    method: Annotated[str, "METHOD", "exact, attribution, ig, relp or graph (influence)."] = "exact",
    refine: Annotated[int, "N", "Of an estimate, measure the N nodes that it puts first.", {"min": 0}] = 0,
    n_steps: Annotated[int | None, "N", "Of ig. Default: as many as make sums complete to 0.5%.", {"min": 1}] = None,
    position: Annotated[
        list[str] | None,
        "NAME=CLEAN,CORRUPT",
        "Of prompts of different lengths, a token's positions in both, such as name=3,4 or end=-1,-1. Repeatable.",
    ] = None,
    memory_budget: options.MemoryBudget = None,
    figure: Annotated[Path | None, "FILE", "Heat maps, .svg .png .pdf (needs attrgraph[draw])."] = None,
    top: options.Top = 10,
    as_json: options.AsJson = False,
    as_csv: options.AsCsv = False,
    force: options.Force = False,
) -> None:
    """Patch nodes of one prompt's run into that of another.

    An effect is the metric of the patched run minus that of the run that is patched into. --json and --csv have all
    nodes, the table those of the largest effects.

    \b
    Example:
      attrgraph patch "in the state containing dallas the capital is" \\
        "in the state containing chicago the capital is" \\
        --target austin --minus springfield --nodes head
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    if minus is not None and target is None:
        raise typer.BadParameter("--minus needs a --target that it is taken from.")
    if kl and target is not None:
        raise typer.BadParameter("--kl measures the whole answer; leave --target out.")
    check_figure(figure, force=force)
    prompts, places = [reading.read(prompt) for prompt in (clean, corrupt)], _positions(position)
    from attrgraph.cli.progress import progress_bar

    with progress_bar() as progress:
        model = choice.load()
        table = ag.patch(
            model,
            *prompts,
            nodes=None if nodes is None else [kind for one in nodes for kind in one.split(",")],
            metric=_metric(target, minus, is_kl=kl),
            direction=direction,
            method=method,
            positions=places,
            refine=refine,
            n_steps=n_steps,
            memory_budget=memory_budget,
            progress=progress,
            **reading.how(),
        )
    if figure is not None:
        from attrgraph.interventions.patch_figure import draw_patch

        draw_patch(table, figure, overwrite=force)
    if as_json:
        print_json({**table.attrs, "nodes": table.to_dict("records")})
    elif as_csv:
        print_csv(table)
    else:
        labels = {} if model.transcoders is None else model.transcoders.labels
        _print(table, top, labels, [] if figure is None else [figure])


def _metric(target: str | None, minus: str | None, *, is_kl: bool) -> Any:
    if is_kl:
        return ag.KLDivergence()
    if target is None:
        return None
    return ag.LogProbability(target) if minus is None else ag.LogitDifference(target, minus)


def _positions(given: list[str] | None) -> dict[str, tuple[int, int]] | None:
    """What --position says."""
    found = dict[str, tuple[int, int]]()
    for one in given or ():
        place = _PLACE.fullmatch(one.strip())
        if place is None or place["name"] in found:
            raise typer.BadParameter(f"--position {one!r}: expected NAME=CLEAN,CORRUPT, each name once.")
        found[place["name"]] = int(place["clean"]), int(place["corrupt"])
    return found or None


def _print(table: "pd.DataFrame", n_top: int, labels: "Mapping[tuple[int, int], str]", files: list[Path]) -> None:
    about = table.attrs
    print_text(f"metric    {about['metric']}: clean {about['metric_clean']:.4g}, corrupt {about['metric_corrupt']:.4g}")
    total = "" if about["is_normalised"] else f"; {about['total_effect']:+.4g} if everything is patched"
    print_text(f"effect    {about['effect']}{total}")
    how = f"{about['method']}, {about['direction']}"
    how += f", gradient: {about['gradient_at']}" if about["gradient_at"] else ""
    print_text(f"method    {how}{'' if about['is_normalised'] else '; not normalised'}")
    if "completeness_gap" in about:
        n_cuts = len(about["completeness"])
        print_text(
            f"complete  sums of {n_cuts} sites are off by at most {about['completeness_gap']:.2g} of the measured"
        )
    if "refined" in about:
        found = about["refined"]
        ranked = "-" if found["spearman"] is None else f"{found['spearman']:.2f}"
        signs = "-" if found["same_sign"] is None else f"{found['same_sign']:.0%}"
        print_text(f"measured  {found['n']} nodes; Spearman of estimate and measurement {ranked}, same sign {signs}")
    if n_top:
        tokens, rows = about["clean_tokens"], table.sort_values("effect", key=abs, ascending=False, kind="stable")
        rows = rows.head(n_top)
        shown = rows[["node", "kind"]].assign(
            at=[f"{tokens[pos]} @{pos}" for pos in rows["pos"]], effect=rows["effect"]
        )
        features = zip(rows["kind"], rows["layer"], rows["feature"], strict=True)
        names = [labels.get((layer, feature), "") if kind == "feature" else "" for kind, layer, feature in features]
        if any(names):
            shown = shown.assign(label=names)
        if "estimate" in rows:
            shown = shown.assign(estimate=rows["estimate"], measured=["yes" if one else "" for one in rows["is_exact"]])
        print_text(f"\nlargest effects of {len(table):,} nodes")
        print_table(shown, formats={"effect": "+.4g", "estimate": "+.4g"})
    print_files(files)
