"""`attrgraph swap`."""

from typing import Annotated, Any

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.intervene import print_effect
from attrgraph.errors import PromptError
from attrgraph.viz.text import typed


def swap(
    prompt_a: Annotated[str, options.argument("PROMPT_A", "Its run is changed; with --ids, token ids.")],
    prompt_b: Annotated[str, options.argument("PROMPT_B", "Its features are put in.")],
    choice: options.ModelOptions,
    reading: options.PromptOptions,
    take_out: Annotated[options.Nodes, "LAYER/FEATURE@POSITION or a node id of PROMPT_A. Repeatable."] = None,
    put_in: Annotated[options.Nodes, "The same of PROMPT_B. Repeatable."] = None,
    at: Annotated[str | None, "POS", "Swap what the pruned graphs keep at this position; POS, or POS_A,POS_B."] = None,
    dose: Annotated[float, "DOSE", "1 swaps; 2 takes out and puts in twice what was there."] = 1.0,
    align: options.Align = "end",
    mode: options.Mode = "constrained",
    upto_layer: options.UptoLayer = None,
    top: options.Top = 10,
    as_json: options.AsJson = False,
) -> None:
    """Swap features of two prompts: does the answer follow?

    With --at, as many other active features at the same places are swapped too, as a control.

    \b
    Example:
      attrgraph swap "in the state containing dallas the capital is" \\
        "in the state containing chicago the capital is" --at 5
    """
    if (at is None) == (not take_out and not put_in):
        raise typer.BadParameter("give --take-out and --put-in, or --at.")
    places = None if at is None else _places(at)
    a, b = (reading.read(prompt) for prompt in (prompt_a, prompt_b))
    tokens = reading.how()
    loaded = choice.load()
    how: dict[str, Any] = {"dose": dose, "align": align, "mode": mode, "upto_layer": upto_layer, **tokens}
    more: dict[str, Any] = {}
    if places is None:
        groups: list[Any] = [take_out or [], put_in or []]
    else:
        found = [
            ag.features_at(ag.trace(loaded, prompt, **tokens), pos) for prompt, pos in zip((a, b), places, strict=True)
        ]
        groups = [each.kept for each in found]
        others = [each.others[: len(each.kept)] for each in found]
        # where pruning keeps all there is, nothing is left to compare with
        more["control_is_swapped"] = ag.swap(loaded, a, b, *others, **how).is_swapped if any(others) else None
        more["n_swapped"], more["n_control"] = ([len(nodes) for nodes in each] for each in (groups, others))
    result = ag.swap(loaded, a, b, *groups, **how)
    more |= {"answer_a": result.answer_a, "answer_b": result.answer_b, "is_swapped": result.is_swapped}
    if not as_json:
        follows = "follows" if result.is_swapped else "does not follow"
        print(f"answers  {typed(result.answer_a)}, {typed(result.answer_b)}; the first {follows} the second")
        if any(more.get("n_control", ())):
            follows = "follows" if more["control_is_swapped"] else "does not follow"
            sizes = " and ".join(str(n) for n in more["n_control"])
            print(f"control  with {sizes} other active features of the same place the answer {follows}")
    print_effect(result.effect, n_top=top, texts={}, as_json=as_json, **more)


def _places(text: str) -> tuple[int, int]:
    try:
        numbers = options.numbers(text, "--at", "positions")
    except PromptError as e:
        raise typer.BadParameter(str(e)) from e
    if len(numbers) > 2:
        raise typer.BadParameter(f"--at {text!r} has {len(numbers)} positions; expected one, or one for each prompt.")
    return numbers[0], numbers[-1]
