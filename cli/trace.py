"""`attrgraph trace`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli import options
from attrgraph.cli.summary import print_summary
from attrgraph.cli.trace_many import trace_prompts
from attrgraph.cli.writing import ENDINGS, check_format, check_outputs, write_graph
from attrgraph.errors import TargetError
from attrgraph.prompts.prompt_file import read_prompts

if TYPE_CHECKING:
    from attrgraph.attribution.targets import Targets


def trace(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; with --ids, token ids separated by spaces or commas.")
    ] = None,
    model: options.Model = "demo",
    transcoders: options.TranscodersName = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help=f"Graph file: {' '.join(ENDINGS)}. Repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"prompt", "id", "target"}: one graph each, in the folder that -o names.'),
    ] = None,
    ending: Annotated[str, typer.Option("--format", help="With --prompts: the ending of files.")] = ".safetensors",
    target: Annotated[
        list[str] | None, typer.Option(help="Token to explain, instead of the most probable ones. Repeatable.")
    ] = None,
    minus: Annotated[
        str | None, typer.Option(help="With one --target: explain its logit minus that of this token.")
    ] = None,
    max_n_logits: Annotated[int, typer.Option(min=1, help="Most tokens explained.")] = 10,
    desired_logit_prob: Annotated[
        float, typer.Option(min=0, max=1, help="Explain the fewest tokens that hold this probability.")
    ] = 0.95,
    max_feature_nodes: Annotated[int, typer.Option(min=0, help="Most features in the graph.")] = 7500,
    memory_budget: Annotated[
        str | None, typer.Option(help="What edges may take, such as 8G. Default: half of what is free.")
    ] = None,
    node_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of influence kept in all outputs but .safetensors.")
    ] = 0.8,
    edge_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of edge influence kept in all outputs but .safetensors.")
    ] = 0.98,
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    revision: options.Revision = None,
    ids: options.Ids = False,
    top: Annotated[int, typer.Option(min=0, help="Features in the summary.")] = 10,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Trace a prompt: which features, tokens and errors caused the answer.

    Examples: attrgraph trace "in the state containing dallas the capital is" -o dallas.json;
    attrgraph trace --prompts questions.jsonl -o graphs
    """
    outputs = output or []
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either a prompt or --prompts FILE.")
    options.check_named(model, transcoders)
    rows = None if prompts is None else read_prompts(prompts)
    if rows is None:
        check_outputs(outputs, profile=profile, force=force)
    elif len(outputs) != 1 or target or minus or ids:
        raise typer.BadParameter("--prompts needs one -o, a folder; targets and token ids stand in the file.")
    else:
        check_format(ending, profile=profile, where="--format: ")
    targets = _targets(target, minus)
    asked = None if prompt is None else options.as_prompt(prompt, ids=ids)

    from attrgraph.attribution.trace import trace as trace_prompt
    from attrgraph.cli.progress import progress_bar
    from attrgraph.models.load_model import load_model

    settings: dict[str, Any] = {
        "max_n_logits": max_n_logits,
        "desired_logit_prob": desired_logit_prob,
        "max_feature_nodes": max_feature_nodes,
    }
    with progress_bar() as progress:
        progress("load", 0, 1)
        loaded = load_model(model, transcoders, dtype, device, revision)
        progress("load", 1, 1)
        if rows is not None:
            trace_prompts(
                loaded,
                rows,
                outputs[0],
                settings=settings,
                memory_budget=memory_budget,
                thresholds=(node_threshold, edge_threshold),
                ending=ending,
                profile=profile,
                force=force,
                as_json=as_json,
                progress=progress,
            )
            return
        assert asked is not None  # without rows there is a prompt
        graph = trace_prompt(loaded, asked, targets=targets, memory_budget=memory_budget, progress=progress, **settings)
        pruned = graph.prune(node_threshold, edge_threshold) if outputs else graph
        for done, path in enumerate(outputs):
            progress("write", done, len(outputs))
            write_graph(graph if path.suffix == ".safetensors" else pruned, path, profile=profile, force=force)
    print_summary(graph, as_json=as_json, n_top=top, files=outputs)


def _targets(target: list[str] | None, minus: str | None) -> "Targets":
    if minus is None:
        return list(target) if target else None
    if target is None or len(target) != 1:
        raise TargetError("--minus needs exactly one --target; it explains the difference of the two.")
    from attrgraph.attribution.targets import LogitDifference

    return LogitDifference(target[0], minus)
