"""`attrgraph validate`."""

import os
from pathlib import Path
from typing import Annotated, Any

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.groups_file import read_groups
from attrgraph.cli.output import print_files, print_json, print_text
from attrgraph.cli.writing import check_distinct
from attrgraph.files import check_writable
from attrgraph.viz.text import typed, visible


def validate(
    subject: Annotated[str, options.argument("PROMPT|GRAPH", "A prompt, or a traced graph (.safetensors).")],
    choice: options.GraphModelOptions,
    reading: options.PromptOptions,
    output: Annotated[
        list[Path] | None, options.output("Report: .html (needs attrgraph[draw]), .json. Repeatable.")
    ] = None,
    mode: options.Mode = "constrained",
    supernodes: Annotated[Path | None, "FILE", 'Groups removed together: JSON {"name": ["node id", ...]}.'] = None,
    paraphrase: Annotated[list[str] | None, "PROMPT", "It should be answered for the same reasons. Repeatable."] = None,
    compare_with: Annotated[str | None, "NAME", "Other transcoders: how many hops do they show?"] = None,
    n_nodes: Annotated[int, "N", "Most nodes removed one by one.", "--nodes", {"min": 1}] = 256,
    n_controls: Annotated[int, "N", "Random sets compared with each set of features.", "--controls", {"min": 0}] = 20,
    seed: Annotated[int, "N", "Of samples, controls and intervals."] = 0,
    memory_budget: options.MemoryBudget = None,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Test a graph's predictions by changing the model.

    \b
    Example:
      attrgraph validate "in the state containing dallas the capital is" \\
        -o report.html
    """
    from attrgraph.validation.validation_report import check_report

    outputs = output or []
    check_distinct(outputs)
    for path in outputs:
        check_report(path)
        check_writable(path, overwrite=force)
    groups = None if supernodes is None else read_groups(supernodes)
    # a path that exists is meant as a file: what is no graph is refused, and never read as a prompt
    is_graph = subject.endswith((".safetensors", ".json")) or ("/" in subject and os.path.exists(subject))
    tokens = reading.how()
    if is_graph:
        choice.check_with_graph()

    from attrgraph.cli.progress import progress_bar
    from attrgraph.models.load_model import named_transcoders

    with progress_bar() as progress:
        asked: Any = ag.load_graph(Path(subject)) if is_graph else reading.read(subject)
        model = choice.load(asked if is_graph else None)
        found = ag.validate(
            model,
            asked,
            mode=mode,
            supernodes=groups,
            paraphrases=paraphrase or [],
            compare_with=None if compare_with is None else named_transcoders(compare_with, model.device),
            n_nodes=n_nodes,
            n_controls=n_controls,
            seed=seed,
            memory_budget=memory_budget,
            progress=progress,
            **tokens,
        )
    for path in outputs:
        found.save(path, overwrite=force)
    _print(found, outputs, as_json=as_json)


def _print(found: "ag.Validation", files: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json(found.to_dict() | {"files": files})
        return
    from rich.text import Text

    styles = {"good": "green", "fair": "yellow", "weak": "red"}
    prompt, probability = " ".join(map(visible, found.graph.prompt_tokens)), found.facts["probability"]
    print_text(Text.assemble(prompt, " → ", (typed(found.facts["answer"]), "bold"), f" {probability:.3f}\n"))
    for line in found.verdict:
        level = Text(f"{line.level:<5} ", style=styles.get(line.level, "dim"))
        print_text(level + Text(line.text))
    print_files(files)
