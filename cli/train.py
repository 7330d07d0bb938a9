"""`attrgraph train`."""

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json
from attrgraph.cli.progress import progress_bar
from attrgraph.cli.stopping import leaving
from attrgraph.cli.training_progress import TrainingProgress
from attrgraph.cli.writing import check_figure
from attrgraph.errors import TrainingError
from attrgraph.files import read_yaml
from attrgraph.progress import silent
from attrgraph.transcoders.training.train_config import ACTIVATIONS, TrainConfig

if TYPE_CHECKING:
    from attrgraph.evaluation import Evaluation

_DEFAULT = TrainConfig()


def train(
    model: options.Model,
    output: Annotated[Path, options.output("Where to write the transcoders.", "FOLDER")],
    text: Annotated[list[Path] | None, "FILE", options.TEXT_HELP] = None,
    self_generate: Annotated[int | None, "N", "Instead, train on N tokens that the model samples.", {"min": 1}] = None,
    features: Annotated[int | None, "N", f"Features of each layer. Default: {_DEFAULT.n_features}.", {"min": 1}] = None,
    l0: Annotated[
        float | None, "N", f"Mean active features a token, over all layers. Default: {_DEFAULT.l0:g}."
    ] = None,
    tokens: Annotated[
        str | None, "N", f"Tokens to train on, such as 500k or 20M. Default: {_DEFAULT.token_limit:,}."
    ] = None,
    max_minutes: Annotated[
        float | None,
        "N",
        "Train for so many minutes, sampling included; measuring comes after. Schedules follow the clock.",
    ] = None,
    cross_layer: Annotated[bool | None, options.flag("Default: cross-layer.", "--cross-layer/--per-layer")] = None,
    activation: Annotated[str | None, "NAME", f"{', '.join(ACTIVATIONS)}. Default: {_DEFAULT.activation}."] = None,
    config: Annotated[
        Path | None, "FILE", "YAML with any settings of training.yaml's `config`; options override it."
    ] = None,
    skip_positions: Annotated[
        str | None, "WHICH", "Tokens of a row left out: auto (BOS, or the first, and attention sinks), none, or 0,2."
    ] = None,
    seed: Annotated[int | None, "N", f"Default: {_DEFAULT.seed}."] = None,
    text_field: options.TextField = "text",
    held_out_share: Annotated[
        float, "SHARE", "Share of documents kept for measuring.", {"min": 0.001, "max": 0.5}
    ] = 0.05,
    cache: Annotated[Path | None, "FOLDER", "Keep activations on disk; written once, then read."] = None,
    cache_dtype: Annotated[str, "DTYPE", "int8 (one scale a channel) or bfloat16."] = "int8",
    weights_dtype: Annotated[str, "DTYPE", "Of the written weights: float32 or bfloat16."] = "float32",
    checkpoint_minutes: Annotated[float, "N", "Between checkpoints.", {"min": 0}] = 1.0,
    resume: Annotated[bool, options.flag("Continue an unfinished run in OUTPUT.partial.", "--resume")] = False,
    figure: Annotated[Path | None, "FILE", "Learning curves: .svg .png .pdf (needs attrgraph[draw])."] = None,
    tensorboard: Annotated[Path | None, "FOLDER", "Write TensorBoard event files (needs attrgraph[train])."] = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    revision: options.Revision = None,
    as_json: options.AsJson = False,
    force: Annotated[bool, options.flag("Overwrite the output, and an unfinished run.", "--force")] = False,
) -> None:
    """Train transcoders for a model.

    They are trained on text, or on the model's own samples, and measured on held-out documents. Several processes share
    the features: torchrun --nproc-per-node N -m attrgraph.cli.main train ...

    \b
    Example:
      attrgraph train demo --self-generate 4000 --features 256 --l0 24 \\
        --tokens 60k -o my-transcoders
    """
    given = {
        "n_features": features,
        "l0": l0,
        "n_tokens": None if tokens is None else parse_count(tokens),
        "max_minutes": max_minutes,
        "is_cross_layer": cross_layer,
        "activation": activation,
        "skip_positions": None if skip_positions is None else options.positions(skip_positions),
        "seed": seed,
    }
    settings = effective_config(config, {name: value for name, value in given.items() if value is not None})
    if (not text) == (self_generate is None):
        raise TrainingError("name the corpus with --text FILE (repeatable), or with --self-generate N_TOKENS.")
    check_figure(figure, force=force)
    import torch
    from rich.console import Console

    from attrgraph.training.corpora import training_rows
    from attrgraph.training.train import RunSettings, check_output
    from attrgraph.transcoders.training.shards import process_group

    check_output(output, overwrite=force, is_resuming=resume)
    if weights_dtype not in ("float32", "bfloat16"):
        raise TrainingError(f"weights_dtype is {weights_dtype!r}; expected float32 or bfloat16.")
    with leaving(lambda: _left(output, settings)), process_group(device) as (shards, own_device):
        progress = TrainingProgress(Console(stderr=True), is_shown=shards.rank == 0)
        progress.say("loading the model and the text")
        with progress_bar() if shards.rank == 0 else nullcontext(silent) as preparing:
            loaded = options.load_model(model, dtype=dtype, device=own_device, revision=revision)
            began = time.monotonic()

            def sampling(phase: str, done: int, total: int) -> None:
                preparing(phase, done, total)
                if time.monotonic() - began > 60 * (settings.max_minutes or math.inf):
                    raise TrainingError(
                        f"--max-minutes {settings.max_minutes:g} were over after {done:,} of {total:,} tokens were "
                        "sampled; ask for fewer with --self-generate, or for more minutes."
                    )

            rows, held_out = training_rows(
                loaded,
                text or [],
                n_self_generated=self_generate,
                held_out_share=held_out_share,
                text_field=text_field,
                seed=settings.seed,
                progress=sampling,
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
            spent_s=time.monotonic() - began if self_generate else 0.0,
            say=progress.say,
        )
        with progress.reporting(settings, tensorboard) as (report, doing):
            run = replace(run, progress=doing)
            measured = ag.train(loaded, rows, held_out, output, settings, run, report=report)
    if measured is None:
        return
    if figure is not None:
        from attrgraph.training.loss_figure import draw_curves

        draw_curves(output / "metrics.jsonl", figure, asked_l0=settings.l0, overwrite=force)
    _print_result(measured, settings, output, as_json=as_json)


def _left(output: Path, settings: TrainConfig) -> str:
    """What a stopped run leaves."""
    from attrgraph.training.train import kept_step

    step, limit = kept_step(output), settings.token_limit
    if not step:
        return "; no run was begun" if step is None else " before the first checkpoint; --resume begins again"
    of = f" of {-(-limit // settings.batch_tokens):,}" if limit and not settings.max_minutes else ""
    return f" at step {step:,}{of}; --resume continues"


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


def effective_config(path: Path | None, given: dict[str, Any]) -> TrainConfig:
    """The settings of a YAML file, or the defaults, with options of the command line in their place.

    Raises:
        TrainingError: the file cannot be read; AttrGraphError: a setting is unknown or cannot work.
    """
    values: Any = {}
    if path is not None:
        try:
            values = read_yaml(path)
        except (OSError, ValueError) as e:
            raise TrainingError(f"{path}: cannot be read as YAML ({e}).") from e
        values = values.get("config", values) if isinstance(values, dict) else values
        if not isinstance(values, dict):
            raise TrainingError(f"{path}: expected a mapping of settings, got {type(values).__name__}.")
    return TrainConfig.from_dict({**values, **given}, str(path or "options"))


def _print_result(measured: "Evaluation", settings: TrainConfig, output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(measured.to_dict())
        return
    from attrgraph.cli.evaluation_table import left_out

    print(f"NMSE       {measured.nmse:.4f} on {measured.n_tokens:,} held-out tokens ({left_out(measured)})")
    print(f"L0         {measured.l0:.1f} active features a token, asked {settings.l0:g}")
    print(f"dead       {measured.dead_fraction:.1%} of features not active once on these tokens")
    print(f"agreement  {measured.top1_agreement:.3f} with all MLPs replaced")
    print(f"KL         {measured.kl:.4f} nats; cross-entropy recovered {measured.ce_recovered:.3f}")
    print_files([output])
    from attrgraph.training.card import too_short

    warning = too_short(read_yaml(output / "training.yaml")["result"])
    if warning:
        print(f"warning: {warning}")
