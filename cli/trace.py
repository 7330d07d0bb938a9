"""`attrgraph trace`."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import attrgraph as ag
from attrgraph.attribution.trace_settings import DEFAULTS
from attrgraph.cli import options
from attrgraph.cli.prune import PruneOptions
from attrgraph.cli.summary import print_summary
from attrgraph.cli.trace_many import Batch
from attrgraph.cli.writing import ENDINGS, Saving
from attrgraph.errors import TargetError
from attrgraph.prompts.prompt_file import read_prompts

if TYPE_CHECKING:
    from attrgraph.attribution.targets import Targets


@dataclass(frozen=True)
class TraceOptions:
    """Options of `TraceSettings`."""

    max_n_logits: Annotated[int, "N", "Most tokens explained.", {"min": 1}] = DEFAULTS.max_n_logits
    desired_logit_prob: Annotated[
        float, "P", "Explain the fewest tokens that hold this probability.", {"min": 0, "max": 1}
    ] = DEFAULTS.desired_logit_prob
    max_feature_nodes: Annotated[int, "N", "Most features in the graph.", {"min": 0}] = DEFAULTS.max_feature_nodes


def trace(
    choice: options.ModelOptions,
    settings: TraceOptions,
    reading: options.PromptOptions,
    pruning: PruneOptions,
    saving: Saving,
    prompt: Annotated[str | None, options.argument("PROMPT", "Text; with --ids, token ids.")] = None,
    output: Annotated[list[Path] | None, options.output(f"Graph file: {' '.join(ENDINGS)}. Repeatable.")] = None,
    prompts: Annotated[
        Path | None, "FILE", 'JSON lines {"prompt", "id", "target"}: a graph each, in the folder that -o names.'
    ] = None,
    ending: Annotated[
        str | None, "ENDING", "With --prompts: the ending of graph files. Default: .safetensors.", "--format"
    ] = None,
    chat_template_kwargs: Annotated[
        str | None, "JSON", "With --prompts: for the chat template of messages, such as '{\"enable_thinking\": false}'."
    ] = None,
    target: Annotated[
        list[str] | None,
        "TEXT",
        "Explain this token, not the most probable ones; repeatable. Or one answer of several tokens.",
    ] = None,
    minus: Annotated[str | None, "TOKEN", "With one --target: explain its logit minus that of this token."] = None,
    at: Annotated[int | None, "POS", "Explain what comes after this position, from the end if negative."] = None,
    feature: Annotated[
        list[str] | None, "NODE", "Explain why this feature is on, such as 3/458@8: what it reads. Repeatable."
    ] = None,
    memory_budget: options.MemoryBudget = None,
    allow_inexact: Annotated[
        bool, options.flag("Write a graph whose own checks fail, and mark it.", "--allow-inexact")
    ] = False,
    online: options.Online = False,
    top: options.Top = 10,
    as_json: options.AsJson = False,
) -> None:
    """Trace a prompt: what caused the model's answer.

    The graph shows which features, tokens and errors caused it, and through which edges. Files are pruned, except
    .safetensors, which keeps everything.

    \b
    Examples:
      attrgraph trace "in the state containing dallas the capital is" \\
        -o dallas.json
      attrgraph trace --prompts questions.jsonl -o graphs
    """
    outputs = output or []
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either a prompt or --prompts FILE.")
    rows = None if prompts is None else read_prompts(prompts)
    kept_as = ending or ".safetensors"
    if rows is None:
        if ending is not None:
            raise typer.BadParameter("--format is for --prompts; without, a file's own ending decides.")
        if chat_template_kwargs is not None:
            raise typer.BadParameter("--chat-template-kwargs is for chats, which stand in the file of --prompts.")
        saving.check(*outputs)
    elif len(outputs) != 1 or target or minus or feature or at is not None or reading.ids:
        raise typer.BadParameter("--prompts needs one -o, a folder; targets and token ids stand in the file.")
    else:
        from attrgraph.io.exports import check_format

        check_format(kept_as, profile=saving.profile, where="--format: ")
    targets, template = _targets(target, minus, at, feature), options.template_arguments(chat_template_kwargs)
    asked, tokens = reading.read(prompt or ""), reading.how()

    from attrgraph.cli.progress import progress_bar

    with progress_bar() as progress:
        model = choice.load(template=template)
        how = {
            "memory_budget": memory_budget,
            "allow_inexact": allow_inexact,
            "online": online,
            **asdict(settings),
            **tokens,
        }
        if rows is not None:
            batch = Batch(model, outputs[0], kept_as, how, pruning, saving)
            batch.trace(rows, as_json=as_json, progress=progress)
            return
        graph = ag.trace(model, asked, targets=targets, progress=progress, **how)
        pruned = pruning.prune(graph) if outputs else graph
        for done, path in enumerate(outputs):
            progress("write", done, len(outputs))
            saving.write(graph if path.suffix == ".safetensors" else pruned, path)
    print_summary(graph, as_json=as_json, n_top=top, files=outputs)


def _targets(target: list[str] | None, minus: str | None, at: int | None, feature: list[str] | None) -> "Targets":
    if minus is not None and (target is None or len(target) != 1):
        raise TargetError("--minus needs exactly one --target; it explains the difference of the two.")
    said: list[Any] = list(target or ())
    if minus is not None:
        said = [ag.LogitDifference(said[0], minus)]
    if at is not None:
        said = [ag.At(at, said or None)]
    return [*(_feature(name) for name in feature or ()), *said] or None


def _feature(name: str) -> "ag.FeatureTarget":
    from attrgraph.schema import canonical_id

    place = re.fullmatch(r"([0-9]{1,9})_([0-9]{1,18})_([0-9]{1,9})", canonical_id(name))
    if place is None:
        raise TargetError(f"--feature is {name!r:.60}; expected layer, feature and position, such as 3/458@8.")
    return ag.FeatureTarget(*map(int, place.groups()))
