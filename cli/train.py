"""`attrgraph train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.errors import TrainingError
from attrgraph.transcoders.training.train_config import ACTIVATIONS, TrainConfig

if TYPE_CHECKING:
    from attrgraph.evaluation import Evaluation

_DEFAULT = TrainConfig()


def train(
    model: Annotated[str, typer.Argument(help="demo, a folder, or owner/repo on the Hugging Face hub.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write the transcoders to.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text (a document a line), JSON lines, or a Hugging Face datasets folder. Repeatable."),
    ] = None,
    self_generate: Annotated[
        int | None, typer.Option(min=1, help="Train on this many tokens of the model's own samples instead of text.")
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help=f"Features of each layer. Default: {_DEFAULT.n_features}.")
    ] = None,
    l0: Annotated[
        float | None,
        typer.Option(help=f"Mean active features a token, summed over layers. Default: {_DEFAULT.l0:g}."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help=f"Tokens to train on, such as 500k or 20M. Default: {_DEFAULT.token_limit:,}.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after this many minutes; schedules follow the clock.")
    ] = None,
    cross_layer: Annotated[bool | None, typer.Option("--cross-layer/--per-layer", help="Default: cross-layer.")] = None,
    activation: Annotated[
        str | None, typer.Option(help=f"{', '.join(ACTIVATIONS)}. Default: {_DEFAULT.activation}.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with any settings of training.yaml's `config`; options given here go before it."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"Default: {_DEFAULT.seed}.")] = None,
    text_field: Annotated[str, typer.Option(help="JSON lines and datasets: the field with the text.")] = "text",
    held_out_share: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of documents kept for measuring.")
    ] = 0.05,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for activations on disk, written on first use and read afterwards.")
    ] = None,
    cache_dtype: Annotated[str, typer.Option(help="int8 (one scale a channel) or bfloat16.")] = "int8",
    weights_dtype: Annotated[str, typer.Option(help="Of the written weights: float32 or bfloat16.")] = "float32",
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Between checkpoints.")] = 1.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in OUTPUT.partial.")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of the curves: .svg .png .pdf; needs matplotlib (attrgraph[draw]).")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard event files.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the model: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the held-out measurements as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output, and an unfinished run.")] = False,
) -> None:
    """Train transcoders for a model, on text or on its own samples, and measure them on held-out documents.

    Several processes share the features: torchrun --nproc-per-node N -m attrgraph.cli.main train ...

    Example: attrgraph train demo --self-generate 20000 --features 256 --l0 24 --max-minutes 0.2 -o my-transcoders
    """
    options = {
        "n_features": features,
        "l0": l0,
        "n_tokens": None if tokens is None else parse_count(tokens),
        "max_minutes": max_minutes,
        "is_cross_layer": cross_layer,
        "activation": activation,
        "seed": seed,
    }
    settings = effective_config(config, {name: value for name, value in options.items() if value is not None})
    if (not text) == (self_generate is None):
        raise TrainingError("name the corpus with --text FILE (repeatable), or with --self-generate N_TOKENS.")
    if figure is not None:
        from attrgraph.files import check_writable
        from attrgraph.viz.figures import check_drawable

        check_drawable(figure)
        check_writable(figure, overwrite=force)
    import torch

    from attrgraph.cli.training_progress import training_progress
    from attrgraph.models.load_model import load_model
    from attrgraph.training.corpora import training_rows
    from attrgraph.training.train import RunSettings
    from attrgraph.training.train import train as train_on
    from attrgraph.transcoders.training.shards import process_group

    if weights_dtype not in ("float32", "bfloat16"):
        raise TrainingError(f"weights_dtype is {weights_dtype!r}; expected float32 or bfloat16.")
    with process_group(device) as (shards, own_device), training_progress(is_shown=shards.rank == 0) as progress:
        progress.say("loading the model and the text")
        loaded = load_model(model, None, dtype, own_device, revision)
        rows, held_out = training_rows(
            loaded,
            text or [],
            n_self_generated=self_generate,
            held_out_share=held_out_share,
            text_field=text_field,
            seed=settings.seed,
        )
        progress.say(f"{rows.n_tokens:,} tokens in {rows.n_documents:,} documents; {held_out.n_documents:,} held out")
        run = RunSettings(
            overwrite=force,
            is_resuming=resume,
            checkpoint_every_s=60 * checkpoint_minutes,
            cache=cache,
            cache_dtype=cache_dtype,
            weights_dtype=getattr(torch, weights_dtype),
            held_out_share=held_out_share,
            shards=shards,
            say=progress.say,
        )
        with progress.reporting(settings, tensorboard) as report:
            measured = train_on(loaded, rows, held_out, output, settings, run, report=report)
    if measured is None:
        return
    if figure is not None:
        from attrgraph.training.loss_figure import draw_curves

        draw_curves(output / "metrics.jsonl", figure, asked_l0=settings.l0, overwrite=force)
    _print_result(measured, settings, output, as_json=as_json)


def parse_count(text: str) -> int:
    """A number of tokens: 500000, 500k, 20M, 1.5B.

    Raises:
        TrainingError: it is none.
    """
    factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
    try:
        count = round(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise TrainingError(f"--tokens is {text!r}; expected a number such as 500000, 500k, 20M.")
    return count


def effective_config(path: Path | None, options: dict[str, Any]) -> TrainConfig:
    """The settings of a YAML file, or the defaults, with options of the command line in their place.

    Raises:
        TrainingError: the file cannot be read; AttrGraphError: a setting is unknown or cannot work.
    """
    values: dict[str, Any] = {}
    if path is not None:
        import yaml

        try:
            read: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise TrainingError(f"{path}: cannot be read as YAML ({type(e).__name__}).") from e
        read = read.get("config", read) if isinstance(read, dict) else read
        if not isinstance(read, dict):
            raise TrainingError(f"{path}: expected a mapping of settings, got {type(read).__name__}.")
        values = read
    return TrainConfig.from_dict({**values, **options}, str(path or "options"))


def _print_result(measured: "Evaluation", settings: TrainConfig, output: Path, *, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(measured.to_dict(), ensure_ascii=False))
        return
    print(f"NMSE       {measured.nmse:.4f} on {measured.n_tokens:,} held-out tokens")
    print(f"L0         {measured.l0:.1f} active features a token, asked {settings.l0:g}")
    print(f"dead       {measured.dead_fraction:.1%} of features not active once on these tokens")
    print(f"agreement  {measured.top1_agreement:.3f} with all MLPs replaced")
    print(f"KL         {measured.kl:.4f} nats; cross-entropy recovered {measured.ce_recovered:.3f}")
    print(f"wrote {output}")
