"""`attrgraph validate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli import options
from attrgraph.errors import GraphFileError

if TYPE_CHECKING:
    from attrgraph.validation import Validation


def validate(
    subject: Annotated[str, typer.Argument(help="A prompt, or a graph file (.safetensors) that was traced before.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Report: .html (needs matplotlib, attrgraph[draw]) or .json. Repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="demo, a folder, or owner/repo. Default: the graph's; for a prompt: demo.")
    ] = None,
    transcoders: options.TranscodersName = None,
    mode: options.Mode = "constrained",
    supernodes: Annotated[
        Path | None, typer.Option(help='JSON {"name": ["node id", ...], ...}: groups taken out together.')
    ] = None,
    paraphrase: Annotated[
        list[str] | None, typer.Option(help="A prompt that should be answered for the same reasons. Repeatable.")
    ] = None,
    compare_with: Annotated[
        str | None, typer.Option(help="Other transcoders, such as demo-per-layer: how many hops do they show?")
    ] = None,
    n_nodes: Annotated[int, typer.Option("--nodes", min=1, help="Most nodes taken out one by one.")] = 256,
    n_controls: Annotated[int, typer.Option("--controls", min=0, help="Random sets beside each set of features.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the sample, the controls and the bootstrap.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float64, bfloat16 or float16. Default: the graph's, or float32.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto.")] = None,
    revision: options.Revision = None,
    ids: options.Ids = False,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Say how far a graph can be trusted: what it predicts against what happens when the model is changed.

    Example: attrgraph validate "in the state containing dallas the capital is" -o report.html
    """
    from attrgraph.files import check_writable
    from attrgraph.validation import check_report

    outputs = output or []
    for path in outputs:
        if outputs.count(path) > 1:
            raise GraphFileError(f"{path}: is named twice as an output.")
        check_report(path)
        check_writable(path, overwrite=force)
    groups = None if supernodes is None else _read_supernodes(supernodes)
    is_graph = subject.endswith((".safetensors", ".json"))
    if not is_graph or model is not None:
        options.check_named(model or "demo", transcoders)
    elif (transcoders, dtype, device, revision) != (None,) * 4:
        raise typer.BadParameter("with a graph, --transcoders, --dtype, --device and --revision need a --model.")

    from attrgraph.attribution.provenance import load_traced_model
    from attrgraph.cli.progress import progress_bar
    from attrgraph.graph.load_graph import load_graph
    from attrgraph.models.load_model import load_model, named_transcoders
    from attrgraph.validation import validate as put_to_the_test

    with progress_bar() as progress:
        progress("load", 0, 1)
        asked: Any = load_graph(subject) if is_graph else options.as_prompt(subject, ids=ids)
        if is_graph and model is None:
            loaded = load_traced_model(asked)
        else:
            traced_in = asked.metadata.get("dtype") if is_graph else None
            loaded = load_model(
                model or "demo", transcoders, dtype or traced_in or "float32", device or "auto", revision
            )
        progress("load", 1, 1)
        found = put_to_the_test(
            loaded,
            asked,
            mode=mode,
            supernodes=groups,
            paraphrases=paraphrase or [],
            compare_with=None if compare_with is None else named_transcoders(compare_with, loaded.device),
            n_nodes=n_nodes,
            n_controls=n_controls,
            seed=seed,
            progress=progress,
        )
    for path in outputs:
        found.save(path, overwrite=force)
    _print(found, outputs, as_json=as_json)


def _print(found: "Validation", files: list[Path], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_dict() | {"files": [str(path) for path in files]}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console, styles = Console(highlight=False), {"good": "green", "fair": "yellow", "weak": "red"}
    answer, probability = found.facts["answer"], found.facts["probability"]
    console.print(
        Text.assemble(" ".join(found.graph.prompt_tokens), " → ", (answer, "bold"), f" {probability:.3f}\n"),
        soft_wrap=True,
    )
    for line in found.verdict:
        level = Text(f"{line.level:<5} ", style=styles.get(line.level, "dim"))
        console.print(level + Text(line.text), soft_wrap=True)
    for path in files:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _read_supernodes(path: Path) -> dict[str, list[str]]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise GraphFileError(f"{path}: cannot be read as JSON: {e}") from e
    is_right = isinstance(read, dict) and all(
        isinstance(nodes, list) and all(isinstance(node, str) for node in nodes) for nodes in read.values()
    )
    if not is_right:
        raise GraphFileError(f'{path}: expected JSON of the form {{"name": ["node id", ...], ...}}.')
    groups: dict[str, list[str]] = read
    return groups
