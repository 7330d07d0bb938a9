"""`attrgraph intervene`."""

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli import options
from attrgraph.cli.settings import parse_node, parse_setting

if TYPE_CHECKING:
    import pandas as pd

    from attrgraph.interventions.intervene import Effect


def intervene(
    prompt: Annotated[str, typer.Argument(help="The prompt; with --ids, token ids separated by spaces or commas.")],
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="NODE=VALUE, NODE*SCALE or NODE+SUMMAND; NODE is LAYER/FEATURE@POSITION (8, 2:5, or 8: for all from 8 "
            "on) or a graph's node id. With --doses, only NODE. Repeatable.",
        ),
    ],
    mode: options.Mode = "constrained",
    upto_layer: options.UptoLayer = None,
    doses: Annotated[str | None, typer.Option(help="Scale all nodes by each of these, such as -1,0,0.5,2.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --doses, a picture: .svg .png .pdf; needs matplotlib (attrgraph[draw]).")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=0, help="Also go on with the text, changed and unchanged.")] = 0,
    model: options.Model = "demo",
    transcoders: options.TranscodersName = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    revision: options.Revision = None,
    ids: options.Ids = False,
    top: Annotated[int, typer.Option(min=0, help="Features in the table of the most changed ones.")] = 10,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Change nodes of a prompt's run, and see what the model says.

    Examples: attrgraph intervene "in the state containing dallas the capital is" --set "1/1023@5*-1" --new-tokens 3;
    attrgraph intervene "in the state containing dallas the capital is" --set 3/458@8 --doses -1,0,1,2
    """
    options.check_named(model, transcoders)
    scales = None if doses is None else _scales(doses)
    if scales is not None and new_tokens:
        raise typer.BadParameter("--new-tokens goes on with one changed text; leave --doses out.")
    if figure is not None:
        if scales is None:
            raise typer.BadParameter("--figure shows doses; give --doses too.")
        from attrgraph.files import check_writable
        from attrgraph.viz.figures import check_drawable

        check_drawable(figure)
        check_writable(figure, overwrite=force)
    asked = options.as_prompt(prompt, ids=ids)
    sets = [] if scales else [parse_setting(one) for one in setting]
    nodes = [parse_node(one) for one in setting] if scales else []
    from attrgraph.cli.progress import progress_bar
    from attrgraph.models.load_model import load_model

    with progress_bar() as progress:
        progress("load", 0, 1)
        loaded = load_model(model, transcoders, dtype, device, revision)
        progress("load", 1, 1)
    how: dict[str, Any] = {"mode": mode, "upto_layer": upto_layer}
    if scales is not None:
        from attrgraph.interventions.swap import dose_response

        _print_doses(dose_response(loaded, asked, nodes, scales=scales, **how), figure, as_json=as_json, force=force)
        return
    from attrgraph.interventions.generate import generate
    from attrgraph.interventions.intervene import intervene as change

    effect = change(loaded, asked, sets, **how)
    texts: dict[str, str] = {}
    if new_tokens:
        texts["unchanged"] = generate(loaded, asked, max_new_tokens=new_tokens).text
        texts["changed"] = generate(loaded, asked, sets, max_new_tokens=new_tokens, **how).text
    print_effect(effect, n_top=top, texts=texts, as_json=as_json)


def print_effect(effect: "Effect", *, n_top: int, texts: dict[str, str], as_json: bool, **more: Any) -> None:
    """Write an effect to stdout."""
    changed = effect.features.assign(change=effect.features["after"] - effect.features["before"])
    most = changed.reindex(changed["change"].abs().sort_values(ascending=False, kind="stable").index).head(n_top)
    if as_json:
        found = {
            **more,
            "mode": effect.mode,
            "top_before": effect.top_before,
            "top_after": effect.top_after,
            "is_flipped": effect.is_flipped,
            "kl": effect.kl,
            "features": most.to_dict("records"),
            "texts": texts,
        }
        print(json.dumps(found, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, tokens in (("before", effect.top_before), ("after", effect.top_after)):
        console.print(
            Text(f"{name:<10}" + "  ".join(f"{token} {share:.3f}" for token, share in tokens)), soft_wrap=True
        )
    console.print(Text(f"change    KL {effect.kl:.4f} nats, mode {effect.mode}"))
    for name, text in texts.items():
        console.print(Text(f"{name:<10}{text}"), soft_wrap=True)
    if len(most):
        console.print("\nmost changed features")
        _print_table(most, ("layer", "feature", "pos", "before", "after", "change"))


def _print_doses(curve: "pd.DataFrame", figure: Path | None, *, as_json: bool, force: bool) -> None:
    if figure is not None:
        from attrgraph.viz.figures import draw_figure

        draw_figure(lambda canvas: _draw_doses(canvas, curve), figure, size=(5.0, 3.2), overwrite=force)
    if as_json:
        print(json.dumps(curve.reset_index().to_dict("records"), ensure_ascii=False))
        return
    _print_table(curve.reset_index(), ("scale", "logit_change", "probability", "kl", "top"))
    if figure is not None:
        print(f"wrote {figure}")


def _draw_doses(canvas: Any, curve: "pd.DataFrame") -> None:
    axes = canvas.subplots()
    axes.plot(curve.index, curve["probability"], marker="o", color="#0072b2")
    axes.set(xlabel="times what the nodes are", ylabel="probability of the answer", ylim=(-0.02, 1.02))


def _print_table(table: "pd.DataFrame", names: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        shown.add_column(name.replace("_", " "), justify="left" if name == "top" else "right")
    for row in table.to_dict("records"):
        shown.add_row(*(Text(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name])) for name in names))
    Console(highlight=False).print(shown)


def _scales(text: str) -> list[float]:
    try:
        scales = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        scales = []
    if not scales or not all(map(isfinite, scales)):
        raise typer.BadParameter(f"--doses {text!r} are no numbers; write them as -1,0,0.5,2.")
    return scales
