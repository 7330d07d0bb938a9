"""`attrgraph validate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json, print_text
from attrgraph.cli.settings import read_groups
from attrgraph.errors import GraphFileError

if TYPE_CHECKING:
    from attrgraph.validation.result import Validation


@options.with_groups
def validate(
    subject: Annotated[str, options.argument("PROMPT|GRAPH", "A prompt, or a traced graph (.safetensors).")],
    choice: options.ModelOptions,
    output: Annotated[
        list[Path] | None,
        options.option("FILE", "Report: .html (needs attrgraph[draw]), .json. Repeatable.", "-o", "--output"),
    ] = None,
    mode: options.Mode = "constrained",
    supernodes: Annotated[
        Path | None, options.option("FILE", 'Groups removed together: JSON {"name": ["node id", ...]}.')
    ] = None,
    paraphrase: Annotated[
        list[str] | None, options.option("PROMPT", "It should be answered for the same reasons. Repeatable.")
    ] = None,
    compare_with: Annotated[
        str | None, options.option("NAME", "Other transcoders: how many hops do they show?")
    ] = None,
    n_nodes: Annotated[int, options.option("N", "Most nodes removed one by one.", "--nodes", min=1)] = 256,
    n_controls: Annotated[
        int, options.option("N", "Random sets compared with each set of features.", "--controls", min=0)
    ] = 20,
    seed: Annotated[int, options.option("N", "Of samples, controls and intervals.")] = 0,
    ids: options.Ids = False,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Test a graph's predictions by changing the model.

    \b
    Example:
      attrgraph validate "in the state containing dallas the capital is" \\
        -o report.html
    """
    from attrgraph.files import check_writable
    from attrgraph.validation.validation_report import check_report

    outputs = output or []
    for path in outputs:
        if outputs.count(path) > 1:
            raise GraphFileError(f"{path}: is named twice as an output.")
        check_report(path)
        check_writable(path, overwrite=force)
    groups = None if supernodes is None else read_groups(supernodes)
    is_graph = subject.endswith((".safetensors", ".json"))
    choice.check(has_graph=is_graph)

    from attrgraph.cli.progress import progress_bar
    from attrgraph.graph.load_graph import load_graph
    from attrgraph.models.load_model import named_transcoders
    from attrgraph.validation.validate import validate as put_to_the_test

    with progress_bar() as progress:
        progress("load", 0, 1)
        asked: Any = load_graph(Path(subject)) if is_graph else options.as_prompt(subject, ids=ids)
        model = choice.load(asked if is_graph else None)
        progress("load", 1, 1)
        found = put_to_the_test(
            model,
            asked,
            mode=mode,
            supernodes=groups,
            paraphrases=paraphrase or [],
            compare_with=None if compare_with is None else named_transcoders(compare_with, model.device),
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
        print_json(found.to_dict() | {"files": list(map(str, files))})
        return
    from rich.text import Text

    styles = {"good": "green", "fair": "yellow", "weak": "red"}
    answer, probability = found.facts["answer"], found.facts["probability"]
    print_text(Text.assemble(" ".join(found.graph.prompt_tokens), " → ", (answer, "bold"), f" {probability:.3f}\n"))
    for line in found.verdict:
        level = Text(f"{line.level:<5} ", style=styles.get(line.level, "dim"))
        print_text(level + Text(line.text))
    print_files(files)
