"""The training run: steps, schedules, the controller of L0, checkpoints and reports."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import TrainingError
from attrgraph.progress import noted_interrupts
from attrgraph.transcoders.training.checkpoint import Checkpoint, CheckpointFolder
from attrgraph.transcoders.training.optimizer import RowAdam
from attrgraph.transcoders.training.parameters import FeatureDictionary, Normalisation, TrainableTranscoders
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.step import DeadFeatures, StepResult, train_step
from attrgraph.transcoders.training.streams import Activations, Rounds, ShuffledBatches
from attrgraph.transcoders.training.train_config import TrainConfig

# tokens that means and scales are estimated on: their error is then below one percent of a standard deviation
_SAMPLE_TOKENS = 32_768
# steps between two searches for dead features; checkpoints are taken only after such a step
_REFRESH_EVERY = 10
_REPORT_EVERY = 20
# what processes agree on where one is interrupted: a last checkpoint
_STOP = 2.0
# the penalty is multiplied by (L0 / target) to this power in each step, which damps, and grows by this rate per step
_CONTROL_POWER, _CONTROL_RATE = 3.0, 0.04
# the mean alone has an NMSE of 1
_EXPLODED = 1e3

# KL(model || replacement model) with gradients, on text drawn for the given step
Divergence = Callable[[FeatureDictionary, int], Tensor]


@dataclass
class Hooks:
    """What a run calls while it runs; none of it changes the numbers."""

    # every few steps, with the metrics of the last one
    report: Callable[[TrainableTranscoders, dict[str, Any]], None] = lambda model, record: None
    checkpoints: CheckpointFolder | None = None
    checkpoint_every_s: float = 60.0
    spent_s: float = 0.0  # of max_minutes, before this
    is_resuming: bool = False


class TrainingRun:
    """The state of a run between two steps."""

    def __init__(self, model: TrainableTranscoders, batches: ShuffledBatches, spent_s: float = 0.0) -> None:
        self.model, self.batches, self._spent_s = model, batches, spent_s
        self.optimizer = RowAdam(dict(model.named_parameters()), model.shards, replicated=frozenset({"b_dec"}))
        self.dead = DeadFeatures(model)
        self.excess = torch.zeros((), device=model.b_dec.device)  # log of L0 over its target, in the last batch
        is_penalised = model.config.activation in ("jumprelu", "relu")
        self.penalty = torch.full((), 1e-3, device=model.b_dec.device) if is_penalised else None
        self.step = 0
        self.seconds = 0.0  # spent so far, before earlier interruptions too

    @property
    def n_tokens(self) -> int:
        return self.step * self.model.config.batch_tokens

    def progress(self) -> float:
        """The share of the run that is done, by tokens or by time, whichever is further."""
        config = self.model.config
        by_tokens = 0.0 if config.token_limit is None else self.n_tokens / config.token_limit
        by_time = (
            0.0 if config.max_minutes is None else self.seconds / max(60 * config.max_minutes - self._spent_s, 1e-9)
        )
        return self.model.shards.agree(max(by_tokens, by_time)) if config.max_minutes else by_tokens

    def advance(self, progress: float, divergence: Divergence | None) -> StepResult:
        """One step."""
        config = self.model.config
        if self.step % _REFRESH_EVERY == 0:
            self.dead.refresh(is_over=progress > config.revival_share)
        penalty = None if self.penalty is None else self.penalty * self.excess.exp() ** _CONTROL_POWER
        result = train_step(self.model, self.batches.next(), self.dead, penalty=penalty)
        kl_weight = config.kl_scale(progress) * config.kl_weight
        if divergence is not None and kl_weight:
            kl = kl_weight * divergence(self.model, self.step)
            # the model that is explained is left as it was, whatever of it asks for gradients
            kl.backward(inputs=list(self.model.parameters()))
            result = replace(result, loss=result.loss + kl.detach())
        self.optimizer.step(config.learning_rate * config.lr_scale(progress), config.max_gradient_norm)
        if self.penalty is not None:
            self.excess = (result.l0.sum() / config.l0).clamp_min(1e-3).log().clamp(-0.5, 0.5)
            self.penalty *= torch.exp(_CONTROL_RATE * self.excess)
        self.step += 1
        return result

    def _tensors(self) -> dict[str, Tensor]:
        """All that the next steps depend on, by name in a checkpoint; the run's own tensors, no copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"norm.{name}": tensor for name, tensor in vars(self.model.norm).items()}
        tensors |= {f"first.{name}": tensor for name, tensor in self.optimizer.first.items()}
        tensors |= {f"second.{name}": tensor for name, tensor in self.optimizer.second.items()}
        tensors |= {f"idle.{layer}": idle for layer, idle in enumerate(self.dead.idle)}
        return tensors if self.penalty is None else {**tensors, "penalty": self.penalty, "excess": self.excess}

    def checkpoint(self) -> Checkpoint:
        state = {
            "config": self.model.config.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "position": [self.batches.round_index, self.batches.batch_index],
        }
        return Checkpoint(self._tensors(), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from where `checkpoint` was taken."""
        for name, tensor in self._tensors().items():
            tensor.copy_(checkpoint.tensors[name])
        self.step = self.optimizer.n_steps = checkpoint.state["step"]
        self.seconds = checkpoint.state["seconds"]
        self.batches.restore(*checkpoint.state["position"])


def train_transcoders(
    rounds: Rounds,
    config: TrainConfig,
    *,
    hooks: Hooks | None = None,
    shards: Shards | None = None,
    divergence: Divergence | None = None,
) -> TrainableTranscoders:
    """Train on rounds of activations until the configured number of tokens or minutes.

    Args:
        rounds: where activations come from.
        hooks: reports and checkpoints.
        shards: this process's place among several; each must be given the same rounds.
        divergence: used if `config.kl_weight` is set.

    Raises:
        TrainingError: the loss is not finite or explodes (step, batch and last checkpoint are named); a checkpoint
            cannot be written, or the one to resume from does not fit.
        AttrGraphError: the settings do not fit the model.
    """
    hooks, shards = hooks or Hooks(), shards or Shards()
    run = _start(rounds, config, hooks, shards)
    started, saved = time.monotonic() - run.seconds, time.monotonic()
    reported, result = (time.monotonic(), run.n_tokens), None
    with noted_interrupts() as interrupts:
        while (progress := run.progress()) < 1:
            position = run.batches.round_index, run.batches.batch_index
            result = run.advance(progress, divergence)
            run.seconds = time.monotonic() - started
            is_reported = run.step % _REPORT_EVERY == 0
            is_between = run.step % _REFRESH_EVERY == 0
            # on a GPU, looking at a number waits for the step to end
            if is_reported or is_between or not result.loss.is_cuda:
                _check(run, result, position, hooks)
            if is_reported:
                hooks.report(run.model, _record(run, result, progress, reported))
                reported = time.monotonic(), run.n_tokens
            if not is_between:
                continue
            is_due = time.monotonic() - saved >= hooks.checkpoint_every_s
            due = shards.agree(_STOP if interrupts else float(is_due))
            if due and hooks.checkpoints is not None:
                hooks.checkpoints.save(run.step, run.checkpoint())
                saved = time.monotonic()
            if due == _STOP:
                raise KeyboardInterrupt
    if run.step % _REPORT_EVERY and result is not None:
        hooks.report(run.model, _record(run, result, progress, reported))
    return run.model


def _start(rounds: Rounds, config: TrainConfig, hooks: Hooks, shards: Shards) -> TrainingRun:
    """A run at its beginning, or where its last checkpoint left it."""
    # a run that was stopped before its first checkpoint begins again
    checkpoints = hooks.checkpoints if hooks.is_resuming else None
    checkpoint = None if checkpoints is None else checkpoints.load(config.to_dict())
    if checkpoint is None:
        norm = Normalisation.estimate(_sample(rounds))
    else:
        device = rounds.round(checkpoint.state["position"][0]).reads.device
        names = [field.name for field in fields(Normalisation)]
        norm = Normalisation(**{name: checkpoint.tensors[f"norm.{name}"].to(device) for name in names})
    config.check_fits(len(norm.read_mean))
    batches = ShuffledBatches(rounds, batch_tokens=config.batch_tokens, seed=config.seed)
    run = TrainingRun(TrainableTranscoders(norm, config, shards), batches, hooks.spent_s)
    if checkpoint is not None:
        run.restore(checkpoint)
    return run


def _sample(rounds: Rounds) -> Activations:
    """Tokens of the first rounds."""
    parts: list[Activations] = []
    while sum(part.n_tokens for part in parts) < _SAMPLE_TOKENS:
        part = rounds.round(len(parts))
        if not part.n_tokens:
            raise TrainingError("a round of activations has no tokens; give more text, or set skip_positions to fewer.")
        parts.append(part.at(torch.arange(part.n_tokens)[:: max(1, part.n_tokens // _SAMPLE_TOKENS)]))
    sample = Activations(torch.cat([p.reads for p in parts], 1), torch.cat([p.writes for p in parts], 1))
    if not bool(torch.isfinite(sample.reads).all() and torch.isfinite(sample.writes).all()):
        raise TrainingError(
            "the activations of the first rounds are not finite: weights hold NaN, or numbers overflow; "
            "run the model in a wider dtype."
        )
    return sample


def _check(run: TrainingRun, result: StepResult, position: tuple[int, int], hooks: Hooks) -> None:
    """Raise unless loss and gradient are finite and not far too large."""
    loss, nmse, norm = float(result.loss), float(result.nmse.mean()), float(run.optimizer.last_norm)
    if math.isfinite(loss) and math.isfinite(norm) and nmse < _EXPLODED:
        return
    last = None if hooks.checkpoints is None else hooks.checkpoints.newest()
    raise TrainingError(
        f"the loss is {loss:g} (NMSE {nmse:g}, gradient {norm:g}) at step {run.step - 1}, round {position[0]}, batch "
        f"{position[1]}; the last checkpoint is {last or 'none'}. Lower learning_rate; if the model "
        "runs in half precision, its answers may overflow: use float32."
    )


def _record(run: TrainingRun, result: StepResult, progress: float, since: tuple[float, int]) -> dict[str, Any]:
    """The metrics of the step that was just done.

    Args:
        progress: before it.
        since: when the last record was made, and after how many tokens.
    """
    config = run.model.config
    record: dict[str, Any] = {
        "step": run.step,
        "tokens": run.n_tokens,
        "seconds": round(run.seconds, 3),
        "progress": min(1.0, run.progress()),
        "learning_rate": config.learning_rate * config.lr_scale(progress),
        "loss": float(result.loss),
        "nmse": float(result.nmse.mean()),
        "nmse_by_layer": result.nmse.tolist(),
        "l0": float(result.l0.sum()),
        "l0_by_layer": result.l0.tolist(),
        "dead_fraction": run.dead.share(),
        "tokens_per_s": round((run.n_tokens - since[1]) / max(time.monotonic() - since[0], 1e-9), 1),
    }
    if config.activation == "batchtopk":
        record["threshold"] = float(run.model.running_threshold)
    if run.penalty is not None:
        record["penalty"] = float(run.penalty)
    return record
