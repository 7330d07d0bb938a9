"""Train transcoders on a model and a corpus, write them with their record and card, and measure what was written."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import yaml

from attrgraph.data.activation_cache import ActivationCache, cache_size_bytes
from attrgraph.data.activations import LiveRounds, divergence_on_rows
from attrgraph.data.corpus import HELD_OUT_SHARE, TokenRows
from attrgraph.errors import TrainingError, checked
from attrgraph.evaluation import Evaluation, evaluate
from attrgraph.files import foreign_file, put_back, write_whole
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions, plain_positions, text_mask, why_left_out
from attrgraph.progress import Progress, shown
from attrgraph.training.card import training_card
from attrgraph.training.metrics import Metrics, Watcher
from attrgraph.training.record import run_record
from attrgraph.transcoders.folder import check_replaceable, save_transcoders
from attrgraph.transcoders.training.checkpoint import CheckpointFolder
from attrgraph.transcoders.training.export import export_transcoders, gather_features
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.streams import Activations, Rounds
from attrgraph.transcoders.training.train_config import TrainConfig
from attrgraph.transcoders.training.trainer import Divergence, Hooks, train_transcoders

# of held-out rows that the card's figures are measured on
_MEASURED_TOKENS = 50_000
# the record of an unfinished run, in its folder
_BEGUN = "run.yaml"
# of an unfinished run
_OF_RUN = r"run\.yaml|metrics\.jsonl|(partial-)?checkpoint-[0-9]+/.*|\.attrgraph-.*"
# a round is shuffled as a whole; beyond this it only makes the first step wait
_MOST_ROUND_TOKENS = 65_536


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out. `cache` and `buffer_bytes` change the order of tokens; the others change no result."""

    overwrite: bool = False
    is_resuming: bool = False
    checkpoint_every_s: float = 60.0
    buffer_bytes: int = 2**30  # most of activations held in memory and shuffled, unless 16 batches need more
    cache: Path | None = None  # folder of activations on disk, written on first use; every epoch then has one order
    cache_dtype: str = "int8"
    weights_dtype: torch.dtype = torch.float32
    held_out_share: float = HELD_OUT_SHARE  # recorded, so that an evaluation can tell which documents were trained on
    shards: Shards = field(default_factory=Shards)
    spent_s: float = 0.0  # of the config's max_minutes, before this: on samples, for one
    say: Callable[[str], None] = lambda message: None  # called before work that takes long or much space
    progress: Progress | None = None  # called while activations are written and transcoders measured


@checked
def train(
    model: LanguageModel,
    rows: TokenRows,
    held_out: TokenRows,
    output: str | Path,
    config: TrainConfig,
    settings: RunSettings | None = None,
    *,
    skip_positions: SkipPositions | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Evaluation | None:
    """Train transcoders, write them, and measure what was written on held-out text.

    While it runs, `OUTPUT.partial` next to the output holds checkpoints and metrics; the output appears when all is
    done. Next to the weights it has `README.md` (card), `training.yaml` (settings, digests, versions, result) and
    `metrics.jsonl`.

    Args:
        model: the model to explain.
        rows: token rows to train on.
        held_out: others, to measure on.
        output: the folder to write.
        config: what to learn, and how.
        settings: how to carry it out.
        skip_positions: in place of the config's: "auto", "none", or positions of each row.
        report: called every few steps with the metrics of the last one; without it, `settings.progress` is told.

    Returns:
        Measurements of the written folder; None in processes other than the first.

    Raises:
        TrainingError, CorpusError: the run cannot work; where possible this is found before any long work.
    """
    settings, output = settings or RunSettings(), Path(output)
    config, report = _checked(model, rows, config, skip_positions), report or partial(_tell, shown(settings.progress))
    settings.shards.features(config.n_features)
    key = _activations_key(model, rows, config, settings)
    record = {**run_record(model, rows, config, settings.held_out_share), "activations": key}
    with ExitStack() as locks:
        if settings.shards.rank == 0:
            _prepare(output, record, settings, locks)
        settings.shards.barrier()
        return _run(model, (rows, held_out), output, config, settings, record, report)


def _tell(progress: Progress, record: dict[str, Any]) -> None:
    """Metrics as progress: tokens, of about as many as there will be."""
    done = record["tokens"]
    total = round(done / record["progress"]) if record["progress"] else done
    progress(f"train (NMSE {record['nmse']:.4f}, L0 {record['l0']:.1f})", done, total)


def _run(
    model: LanguageModel,
    corpus: tuple[TokenRows, TokenRows],
    output: Path,
    config: TrainConfig,
    settings: RunSettings,
    record: dict[str, Any],
    report: Callable[[dict[str, Any]], None] | None,
) -> Evaluation | None:
    """`train`, in a folder that is prepared."""
    (rows, held_out), shards, partial = corpus, settings.shards, _partial(output)
    rounds = _rounds(model, rows, config, settings, record["activations"])
    metrics, checkpoints = Metrics(partial / "metrics.jsonl", shards, report), CheckpointFolder(partial, shards)
    if settings.is_resuming:
        metrics.cut_after(step := checkpoints.newest_step())
        settings.say(f"resumed at step {step}" if step else "no checkpoint was written yet: begins again")
    watcher = Watcher(model, held_out, metrics.add, shards, config.skip_positions)
    hooks = Hooks(watcher, checkpoints, settings.checkpoint_every_s, settings.spent_s, settings.is_resuming)
    divergence = _divergence(model, rows, config)
    trained = train_transcoders(rounds, config, hooks=hooks, shards=shards, divergence=divergence)
    # every process takes part in both
    whole, sample = gather_features(trained), rounds.round(0)
    if shards.rank:
        return None
    finished = export_transcoders(whole, sample, record["model"]["id"], dtype=settings.weights_dtype)
    to_measure = held_out.first_tokens(_MEASURED_TOKENS)
    how: dict[str, Any] = {"skip_positions": config.skip_positions, "progress": settings.progress}
    measured = evaluate(model, finished, to_measure, n_graphs=0, **how)
    result = {**metrics.last(), "held_out": measured.headline(), "skipped": _skipped(model, rows, sample, config)}
    texts = _texts({**record, "result": result}, measured, metrics)
    save_transcoders(finished, output, overwrite=settings.overwrite, texts=texts)
    rmtree(partial)
    return measured


def _checked(
    model: LanguageModel, rows: TokenRows, config: TrainConfig, skip_positions: SkipPositions | None
) -> TrainConfig:
    """The config, with `skip_positions` if given; refused if it does not fit the model."""
    if skip_positions is not None:
        config = replace(config, skip_positions=plain_positions(skip_positions))
    model.check_state()
    text_mask(model, rows.rows[0], config.skip_positions)
    config.check_fits(model.n_layers)
    return config


def _divergence(model: LanguageModel, rows: TokenRows, config: TrainConfig) -> Divergence | None:
    if not config.kl_weight:
        return None
    of_rows: dict[str, Any] = {"seed": config.seed, "skip_positions": config.skip_positions}
    return divergence_on_rows(model, rows.rows, batch_tokens=config.kl_tokens, **of_rows)


def _skipped(model: LanguageModel, rows: TokenRows, first: Activations, config: TrainConfig) -> dict[str, Any]:
    """How many tokens were not trained on, and why."""
    n_skipped = sum(int((~text_mask(model, row, config.skip_positions)).sum()) for row in rows.rows)
    sinks = {"n_sinks": first.n_sinks, "of": first.n_tokens + first.n_sinks}  # of the first round: others are alike
    return {"n": n_skipped, "why": why_left_out(model, config.skip_positions), **sinks}


def _texts(record: dict[str, Any], measured: Evaluation, metrics: Metrics) -> dict[str, str]:
    """What is written next to the weights, by file name."""
    return {
        "README.md": training_card(record, measured),
        "training.yaml": yaml.safe_dump(record, sort_keys=False),
        "metrics.jsonl": metrics.text(),
    }


def check_output(output: Path, *, overwrite: bool, is_resuming: bool) -> None:
    """Raise for an output that a run could not be written to; to be asked before a model or a text is read.

    Raises:
        TranscoderError, TrainingError: the output or an unfinished run exists and must not be overwritten, or there is
            no unfinished run to resume.
    """
    partial = _partial(output)
    begun = (partial / _BEGUN).is_file()
    put_back(output)
    if (output / "training.yaml").is_file() and not overwrite:
        way = "--resume --force continues the unfinished run and replaces it" if begun else "--force trains anew"
        raise TrainingError(f"{output}: exists and is finished; {way} (overwrite=True), or choose another name.")
    check_replaceable(output, overwrite=overwrite)
    is_other = bool(foreign_file(partial, _OF_RUN)) if begun or partial.is_dir() else partial.exists()
    if is_other:
        raise TrainingError(f"{partial}: is no unfinished training run; choose another output, or remove it.")
    if is_resuming and not begun:
        raise TrainingError(f"{partial}: holds no unfinished run to resume; start without --resume.")
    if begun and not (is_resuming or overwrite):
        raise TrainingError(
            f"{partial}: holds an unfinished run; continue with --resume, or start again with --force (overwrite=True)."
        )


def kept_step(output: Path) -> int | None:
    """After how many steps an unfinished run would go on; None if there is none."""
    partial = _partial(output)
    return CheckpointFolder(partial, Shards()).newest_step() if (partial / _BEGUN).is_file() else None


def _partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Refuses a folder that another run writes; that the run is killed frees it.

    Raises:
        TrainingError: it is in use.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except OSError as e:
            raise TrainingError(
                f"{folder}: another process is training in it; wait until it has ended, or choose another output."
            ) from e
        yield
    finally:
        os.close(descriptor)


def _prepare(output: Path, record: dict[str, Any], settings: RunSettings, locks: ExitStack) -> None:
    """Make the folder of the unfinished run, or check that the one to resume is the same run; and lock it."""
    check_output(output, overwrite=settings.overwrite, is_resuming=settings.is_resuming)
    partial = _partial(output)
    begun = partial / _BEGUN
    if partial.is_dir():
        locks.enter_context(_in_use(partial))
    if settings.is_resuming:
        before = yaml.safe_load(begun.read_text(encoding="utf-8"))
        changed = [key for key in ("model", "text", "held_out_share", "activations") if before.get(key) != record[key]]
        if changed:
            raise TrainingError(
                f"{partial}: the unfinished run has another {' and '.join(changed)}; resume it with the same "
                "as before, or start again without --resume."
            )
        return
    try:
        rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as e:
        raise TrainingError(f"{partial}: cannot be written ({e.strerror}).") from e
    locks.enter_context(_in_use(partial))
    write_whole(begun, lambda path: path.write_text(yaml.safe_dump(record, sort_keys=False)), overwrite=True)


def _activations_key(
    model: LanguageModel, rows: TokenRows, config: TrainConfig, settings: RunSettings
) -> dict[str, str]:
    """What the sequence of rounds depends on."""
    source = model.source
    return {
        "model": str(source.get("digest") or f"{source['id']}@{source.get('revision')}"),
        "rows": rows.digest(),
        "dtype": str(model.dtype),
        "hooks": "hook_resid_mid hook_mlp_out",
        "seed": str(config.seed),
        "skip_positions": str(config.skip_positions),
        "round_tokens": str(_round_tokens(model, config, settings)),
        "stored": "live" if settings.cache is None else settings.cache_dtype,
    }


def _round_tokens(model: LanguageModel, config: TrainConfig, settings: RunSettings) -> int:
    """As many as the buffer holds; enough to shuffle, and no more than needed for that."""
    bytes_per_token = 2 * model.n_layers * model.d_model * 4
    return max(min(settings.buffer_bytes // bytes_per_token, _MOST_ROUND_TOKENS), 16 * config.batch_tokens)


def _counted(n: int, tell: Progress) -> Iterator[int]:
    for i in range(n):
        tell("activations", i, n)
        yield i


def _rounds(
    model: LanguageModel, rows: TokenRows, config: TrainConfig, settings: RunSettings, key: dict[str, str]
) -> Rounds:
    """Activations of the model as it runs, or from a cache on disk."""
    round_tokens, cache = _round_tokens(model, config, settings), settings.cache
    of_rows: dict[str, Any] = {
        "round_tokens": round_tokens,
        "seed": config.seed,
        "skip_positions": config.skip_positions,
    }
    live = LiveRounds(model, rows.rows, **of_rows, shards=settings.shards)
    if cache is None:
        return live
    if not cache.exists() and settings.shards.rank == 0:
        n_rounds = live.n_rounds_per_epoch
        # the last round is filled up with the beginning of the next epoch
        n_tokens = rows.n_tokens * n_rounds * live.n_rows // len(rows.rows)
        n_bytes = cache_size_bytes(model.n_layers, model.d_model, n_tokens, settings.cache_dtype, n_rounds=n_rounds)
        settings.say(f"writing {n_tokens:,} tokens of activations to {cache}: {n_bytes / 1e9:.2f} GB")
        alone = LiveRounds(model, rows.rows, **of_rows)
        once = (alone.round(i) for i in _counted(n_rounds, shown(settings.progress)))
        ActivationCache.write(cache, once, dtype=settings.cache_dtype, key=key, n_bytes_expected=n_bytes)
    settings.shards.barrier()
    return ActivationCache.open(cache, key=key, device=model.device)
