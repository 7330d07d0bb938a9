"""`attrgraph trace`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import check_outputs, write_graph
from attrgraph.errors import PromptError, TargetError, TranscoderError


def trace(
    prompt: Annotated[str, typer.Argument(help="The prompt; with --ids, token ids separated by spaces or commas.")],
    model: Annotated[str, typer.Option(help="demo, a folder, or owner/repo on the Hugging Face hub.")] = "demo",
    transcoders: Annotated[
        str | None, typer.Option(help="demo, demo-per-layer, a folder, or owner/repo. Default for the demo: demo.")
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Graph file: .json .safetensors .dot .svg .png .pdf .graphml. Repeatable."),
    ] = None,
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
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is token ids.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Features in the summary.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing outputs.")] = False,
) -> None:
    """Trace a prompt: which features, tokens and errors caused the answer.

    Example: attrgraph trace "in the state containing dallas the capital is" -o dallas.json
    """
    outputs = output or []
    if model != "demo" and transcoders is None:
        raise TranscoderError(f"{model}: name its transcoders with --transcoders (a folder, or owner/repo on the hub).")
    check_outputs(outputs, profile=profile, force=force)
    from attrgraph.cli.progress import progress_bar
    from attrgraph.models.loading import load_model
    from attrgraph.targets import LogitDifference, Targets
    from attrgraph.tracing import trace as trace_prompt

    targets: Targets = list(target) if target else None
    if minus is not None:
        if target is None or len(target) != 1:
            raise TargetError("--minus needs exactly one --target; it explains the difference of the two.")
        targets = LogitDifference(target[0], minus)
    asked: str | list[int] = prompt
    if ids:
        try:
            asked = [int(number) for number in prompt.replace(",", " ").split()]
        except ValueError as e:
            raise PromptError(f"--ids: {prompt!r} is not a list of token ids.") from e
    with progress_bar() as progress:
        progress("load", 0, 1)
        loaded = load_model(model, transcoders, dtype, device, revision)
        progress("load", 1, 1)
        graph = trace_prompt(
            loaded,
            asked,
            targets=targets,
            max_n_logits=max_n_logits,
            desired_logit_prob=desired_logit_prob,
            max_feature_nodes=max_feature_nodes,
            memory_budget=memory_budget,
            progress=progress,
        )
        pruned = graph.prune(node_threshold, edge_threshold) if outputs else graph
        for done, path in enumerate(outputs):
            progress("write", done, len(outputs))
            write_graph(graph if path.suffix == ".safetensors" else pruned, path, profile=profile, force=force)
    print_summary(graph, as_json=as_json, n_top=top, files=outputs)
