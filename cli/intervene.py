"""`attrgraph intervene`."""

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json, print_table, print_text
from attrgraph.cli.writing import check_figure
from attrgraph.viz.text import typed

if TYPE_CHECKING:
    import pandas as pd


def intervene(
    prompt: options.Prompt,
    setting: Annotated[
        list[str],
        "CHANGE",
        "NODE=VALUE, NODE*SCALE or NODE+SUMMAND, such as 3/458@5=0, 3/458@2:5*-1 or 3/458@0:+2 (at all positions); "
        "NODE=mean:FILE, its mean over a file of texts, or NODE=from:PROMPT, what it is in another prompt. "
        "NODE is LAYER/FEATURE@POSITION, a graph's node id, or a component: head:LAYER.HEAD (and q, k, v), attn:LAYER, "
        "mlp:LAYER, resid:LAYER or resid_mid:LAYER, with @POSITIONS, or at all. With --doses, only NODE. Repeatable.",
        "--set",
    ],
    choice: options.AnyModelOptions,
    reading: options.PromptOptions,
    mode: options.Mode = "constrained",
    upto_layer: options.UptoLayer = None,
    doses: Annotated[str | None, "SCALES", "Scale all nodes by each of these, such as -1,0,0.5,2."] = None,
    figure: Annotated[Path | None, "FILE", "With --doses: a picture, .svg .png .pdf (needs attrgraph[draw])."] = None,
    new_tokens: Annotated[int, "N", "Also continue the text, changed and unchanged.", {"min": 0}] = 0,
    top: options.Top = 10,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Change nodes of a prompt's run, and see the answer.

    \b
    Examples:
      attrgraph intervene "in the state containing dallas the capital is" \\
        --set "1/1023@5*-1" --new-tokens 3
      attrgraph intervene "in the state containing dallas the capital is" \\
        --set "head:2.0@8*0" \\
        --set "attn:3=from:in the state containing chicago the capital is"
      attrgraph intervene "in the state containing dallas the capital is" \\
        --set 3/458@8 --doses -1,0,1,2
    """
    scales = None if doses is None else _scales(doses)
    if scales is not None and new_tokens:
        raise typer.BadParameter("--new-tokens continues one changed text; leave --doses out.")
    if figure is not None and scales is None:
        raise typer.BadParameter("--figure shows doses; give --doses too.")
    check_figure(figure, force=force)
    asked, tokens = reading.read(prompt), reading.how()
    from attrgraph.interventions.setting import parse_setting

    changes = [parse_setting(one, has_others=True) for one in setting] if scales is None else []
    from attrgraph.interventions.intervene import needs_transcoders

    if mode.startswith("frozen") or needs_transcoders(changes or [ag.Intervention(setting, scale=1.0)]):
        choice.need_transcoders()
    from attrgraph.cli.progress import progress_bar

    with progress_bar():
        model = choice.load()
    how: dict[str, Any] = {"mode": mode, "upto_layer": upto_layer, **tokens}
    if scales is not None:
        curve = ag.dose_response(model, asked, setting, scales=scales, **how)
        _print_doses(curve, figure, as_json=as_json, force=force)
        return
    changes = [_with_prompts(model, one, reading) for one in changes]
    effect = ag.intervene(model, asked, changes, **how)
    texts: dict[str, str] = {}
    if new_tokens:
        texts["unchanged"] = ag.generate(model, asked, max_new_tokens=new_tokens, **tokens).text
        texts["changed"] = ag.generate(model, asked, changes, max_new_tokens=new_tokens, **how).text
    print_effect(effect, n_top=top, texts=texts, as_json=as_json)


def _with_prompts(
    model: "ag.LanguageModel", one: "ag.Intervention", reading: options.PromptOptions
) -> "ag.Intervention":
    """The intervention with the texts of a file that it names, or with the prompt that it spells."""
    if one.mean is not None:
        return replace(one, mean=ag.read_corpus(model, one.mean).rows)
    return one if one.from_prompt is None else replace(one, from_prompt=reading.read(one.from_prompt))


def print_effect(effect: "ag.Effect", *, n_top: int, texts: dict[str, str], as_json: bool, **more: Any) -> None:
    """Write an effect to stdout."""
    changed = effect.features.assign(change=effect.features["after"] - effect.features["before"])
    most = changed.sort_values("change", key=abs, ascending=False, kind="stable").head(n_top)
    if as_json:
        names = ("mode", "top_before", "top_after", "is_flipped", "kl")
        found = {**more, **{name: getattr(effect, name) for name in names}}
        print_json({**found, "features": most.to_dict("records"), "texts": texts})
        return
    for name, tokens in (("before", effect.top_before), ("after", effect.top_after)):
        print_text(f"{name:<10}" + "  ".join(f"{typed(token)} {share:.3f}" for token, share in tokens))
    print_text(f"change    KL {effect.kl:.4f} nats, mode {effect.mode}")
    for name, text in texts.items():
        print_text(f"{name:<10}{text}")
    if len(most):
        print_text("\nmost changed features")
        print_table(most[["layer", "feature", "pos", "before", "after", "change"]])


def _print_doses(curve: "pd.DataFrame", figure: Path | None, *, as_json: bool, force: bool) -> None:
    if figure is not None:
        from attrgraph.viz.figures import draw_figure

        draw_figure(lambda canvas: _draw_doses(canvas, curve), figure, size=(5.0, 3.2), overwrite=force)
    rows = curve.reset_index()
    if as_json:
        print_json(rows.to_dict("records"))
        return
    print_table(rows[["scale", "logit_change", "probability", "kl", "top"]])
    print_files([] if figure is None else [figure])


def _draw_doses(canvas: Any, curve: "pd.DataFrame") -> None:
    axes = canvas.subplots()
    axes.plot(curve.index, curve["probability"], marker="o", color="#0072b2")
    axes.set(xlabel="times what the nodes are", ylabel="probability of the answer", ylim=(-0.02, 1.02))


def _scales(text: str) -> list[float]:
    try:
        scales = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        scales = []
    if not scales or not all(map(isfinite, scales)):
        raise typer.BadParameter(f"--doses {text!r} are no numbers; write them as -1,0,0.5,2.")
    return scales
