"""`attrgraph evaluate`."""

import json
from pathlib import Path
from typing import Annotated

from attrgraph.cli import options
from attrgraph.cli.output import print_json
from attrgraph.cli.writing import check_figure
from attrgraph.errors import AttrGraphError, TranscoderError
from attrgraph.files import check_writable, write_whole


def evaluate(
    model: options.Model,
    transcoders: Annotated[str, options.argument("TRANSCODERS", "demo, demo-per-layer, a folder, or owner/repo.")],
    text: Annotated[list[Path], "FILE", options.TEXT_HELP],
    compare_with: Annotated[list[str] | None, "NAME", "Other transcoders of the model. Repeatable."] = None,
    neurons: Annotated[bool, options.flag("Also the model's own top-k neurons at equal L0.")] = True,
    n_graphs: Annotated[int, "N", "Prompts traced for graph scores.", {"min": 0}] = 10,
    max_documents: Annotated[
        int | None, "N", "Read only the first N, before held-out ones are chosen.", {"min": 1}
    ] = None,
    held_out: Annotated[
        bool | None,
        options.flag(
            "Which documents. Default: those held out in training, if transcoders given here were trained on "
            "this text; else all.",
            "--held-out/--all",
        ),
    ] = None,
    skip_positions: Annotated[
        str | None,
        "WHICH",
        "Tokens of a row not measured: auto (BOS, or the first, and attention sinks), none, or 0,2. Default: as "
        "TRANSCODERS were trained; else auto.",
    ] = None,
    text_field: options.TextField = "text",
    figure: Annotated[Path | None, "FILE", "Picture: .svg .png .pdf (needs attrgraph[draw])."] = None,
    output: Annotated[Path | None, options.output("Report: .json.")] = None,
    read_point: options.ReadPoint = None,
    write_point: options.WritePoint = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Measure transcoders on a text.

    Reconstruction errors, sparsity, answers with all MLPs replaced, graph scores. Intervals in the table are 95%, by
    bootstrap over documents.

    \b
    Example:
      attrgraph evaluate demo demo --text sentences.txt \\
        --compare-with demo-per-layer
    """
    names = [transcoders, *(compare_with or [])]
    for name in names:
        if names.count(name) > 1:
            raise TranscoderError(f"{name}: is named twice; its column would show twice.")
    outputs = [path for path in (output, figure) if path is not None]
    if output is not None:
        if output.suffix != ".json":
            raise AttrGraphError(f"{output}: unknown ending {output.suffix!r}; the report is written as .json.")
        check_writable(output, overwrite=force)
    check_figure(figure, force=force)
    asked_positions = None if skip_positions is None else options.positions(skip_positions)
    from attrgraph.cli.evaluation_table import print_tables
    from attrgraph.cli.progress import progress_bar
    from attrgraph.evaluation import Split, choose_split, compare, draw_evaluation, read_rows, skipped_in_training
    from attrgraph.models.load_model import named_transcoders

    with progress_bar() as progress:
        loaded = options.load_model(model, dtype=dtype, device=device)
        points = {"read_point": read_point, "write_point": write_point}
        sets = {name: named_transcoders(name, loaded.device, **points) for name in names}
        asked: Split | None = None if held_out is None else "held-out" if held_out else "all"
        skipped = skipped_in_training(transcoders) if asked_positions is None else asked_positions
        choice = choose_split(text, names, asked=asked, text_field=text_field)
        rows = read_rows(loaded, text, choice, text_field=text_field, max_documents=max_documents)
        found = compare(
            loaded,
            sets,
            rows,
            with_neurons=neurons,
            n_graphs=n_graphs,
            skip_positions=skipped,
            progress=progress,
        )
    # of the first set at the top, of the others by name
    others = {name: evaluation.to_dict() for name, evaluation in found.items() if name != transcoders}
    report = {**found[transcoders].to_dict(), "compared": others}
    report |= {"split": choice.split, "held_out_share": choice.held_out_share, "split_reason": choice.reason}
    if output is not None:
        text_of_report = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        write_whole(output, lambda path: path.write_text(text_of_report, encoding="utf-8"), overwrite=force)
    if figure is not None:
        draw_evaluation(list(found.values()), path=figure, overwrite=force)
    if as_json:
        print_json(report)
    else:
        print_tables(found, documents=f"{choice.split} documents ({choice.reason})", files=outputs)
