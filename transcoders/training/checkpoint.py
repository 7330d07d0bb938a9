"""Checkpoints that appear whole or not at all: written under another name, then renamed."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from attrgraph.errors import TrainingError
from attrgraph.files import read_json
from attrgraph.transcoders.training.shards import Shards

_PREFIX = "checkpoint-"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had not stopped."""

    tensors: dict[str, Tensor]  # this process's
    state: dict[str, Any]  # JSON


class CheckpointFolder:
    """The checkpoints of one run; only the newest whole one is kept."""

    def __init__(self, folder: Path, shards: Shards) -> None:
        self.folder, self._shards = folder, shards

    def newest(self) -> Path | None:
        """The last checkpoint that was finished."""
        found = [p for p in self.folder.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit()]
        return max(found, key=_step_of, default=None)

    def newest_step(self) -> int:
        """After how many steps the last finished checkpoint was taken; 0 if there is none."""
        return _step_of(self.newest())

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Write one, then delete older ones. Every process writes its own tensors.

        Raises:
            TrainingError: it cannot be written; older checkpoints are then untouched.
        """
        final = self.folder / f"{_PREFIX}{step:09d}"
        partial = self.folder / f"partial-{final.name}"
        try:
            if self._shards.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self._shards.barrier()
            tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
            save_file(tensors, partial / f"rank-{self._shards.rank}.safetensors")
            self._shards.barrier()
            if self._shards.rank == 0:
                state = {"format_version": FORMAT_VERSION, "n_ranks": self._shards.n_ranks, **checkpoint.state}
                (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
                for path in (*partial.iterdir(), partial):
                    _flush(path)
                older = self.newest()
                partial.rename(final)
                _flush(self.folder)
                if older is not None and older != final:
                    shutil.rmtree(older)
        except (OSError, SafetensorError) as e:
            last = self.newest()
            raise TrainingError(
                f"{final}: the checkpoint cannot be written ({e}); the last one is {last or 'none'}. "
                "Make room and go on with --resume."
            ) from e
        self._shards.barrier()

    def load(self, config: dict[str, Any]) -> Checkpoint | None:
        """The newest one, if there is any.

        Args:
            config: the settings of the run that goes on from it.

        Raises:
            TrainingError: it is broken, or another number of processes or a run with other settings wrote it.
        """
        path = self.newest()
        if path is None:
            return None
        try:
            state = read_json(path / "state.json")
            if state["format_version"] != FORMAT_VERSION or state["n_ranks"] != self._shards.n_ranks:
                raise TrainingError(
                    f"{path}: was written by {state['n_ranks']} processes (format {state['format_version']}); "
                    f"expected {self._shards.n_ranks} (format {FORMAT_VERSION})."
                )
            tensors = load_file(path / f"rank-{self._shards.rank}.safetensors")
            changed = [name for name, value in config.items() if state["config"].get(name) != value]
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as e:
            raise TrainingError(f"{path}: is not a whole checkpoint ({type(e).__name__}: {e}).") from e
        if changed:
            raise TrainingError(
                f"{path}: was written with other settings ({', '.join(changed)}); resume with the same settings, or "
                "start again without --resume."
            )
        return Checkpoint(tensors, state)


def _step_of(path: Path | None) -> int:
    return 0 if path is None else int(path.name.removeprefix(_PREFIX))


def _flush(path: Path) -> None:
    """Wait until it is on the disk, so that a renamed checkpoint is never incomplete."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
