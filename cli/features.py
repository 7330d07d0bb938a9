"""`attrgraph features`."""

from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.feature import print_best
from attrgraph.cli.output import print_files, print_json, tell
from attrgraph.cli.stopping import leaving
from attrgraph.errors import FeatureError


def features(
    model: options.Model,
    transcoders: Annotated[str, options.argument("TRANSCODERS", "demo, demo-per-layer, a folder, or owner/repo.")],
    text: Annotated[list[Path], "FILE", options.TEXT_HELP],
    output: Annotated[Path, options.output("Folder of pages.", "FOLDER")],
    features: Annotated[str | None, "NAMES", "Only these, such as 3/458,2/17; 3/* for a layer."] = None,
    graph: Annotated[Path | None, "GRAPH", "Only those of this graph."] = None,
    tokens: Annotated[str | None, "N", "At most about so many of the text, such as 2M."] = None,
    labels: Annotated[list[Path] | None, "FILE", "Names that win over those found here. Repeatable."] = None,
    like: Annotated[str | None, "SET", "Another set with labels, for features in the same directions."] = None,
    skip_positions: Annotated[str, "WHICH", "Tokens that do not count: auto, none, or 0,2."] = "auto",
    text_field: options.TextField = "text",
    scan: Annotated[str, "NAME", "How Neuronpedia calls the model."] = "",
    source_set: Annotated[str, "NAME", "How it calls the transcoders."] = "",
    read_point: options.ReadPoint = None,
    write_point: options.WritePoint = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Describe what features mean: examples, tokens, scored labels.

    A run that is stopped goes on when the same command is given again.

    \b
    Example:
      attrgraph features demo demo --text sentences.txt -o pages
    """
    if features is not None and graph is not None:
        raise FeatureError("--features and --graph exclude each other.")
    from attrgraph.cli.progress import progress_bar
    from attrgraph.features.describe import cost_in_words
    from attrgraph.features.pages import check_folder
    from attrgraph.models.load_model import named_transcoders

    check_folder(output, overwrite=force)
    n_tokens = None if tokens is None else options.count(tokens)
    named = None if features is None else [name for name in features.split(",") if name.strip()]
    state = output.with_name(f"{output.name}.state")

    def left() -> str:
        return f"; {state} is kept: the same command goes on" if state.exists() else "; nothing is kept"

    with leaving(left), progress_bar() as progress:
        loaded = options.load_model(model, dtype=dtype, device=device)
        points = {"read_point": read_point, "write_point": write_point}
        found = named_transcoders(transcoders, loaded.device, **points)
        rows = ag.read_corpus(loaded, text, text_field=text_field)
        rows = rows if n_tokens is None else rows.first_tokens(n_tokens)
        what = ag.load_graph(graph) if graph is not None else named
        tell(cost_in_words(loaded, rows, found, what))
        pages = ag.describe_features(
            loaded,
            rows,
            what,
            transcoders=found,
            labels=None if labels is None else {**found.labels, **ag.load_labels(*labels)},
            like=None if like is None else named_transcoders(like, loaded.device),
            scan=scan,
            source_set=source_set,
            skip_positions=options.positions(skip_positions),
            state=state,
            progress=progress,
        )
        pages.save(output, overwrite=force)
    if as_json:
        print_json({**pages.card, "files": [output], "n_described": len(pages)})
        return
    print_best(pages, 10)
    print_files([output])
