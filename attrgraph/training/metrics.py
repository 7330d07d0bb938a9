"""A run's metrics as JSON lines, and the agreement that is watched while it runs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrgraph.data.activations import agreement_on, batches_of_similar_length
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import TrainingError
from attrgraph.files import write_whole
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions
from attrgraph.transcoders.training.parameters import TrainableTranscoders
from attrgraph.transcoders.training.shards import Shards

Report = Callable[[dict[str, Any]], None]
# of held-out rows: agreement is then known to about one percent
_WATCHED_TOKENS = 2_000
_WATCH_EVERY_S = 20.0


class Metrics:
    """The metrics file of a run; one process writes it.

    Args:
        path: the file, continued if it exists.
        shards: the first process writes.
        report: called with every record too.
    """

    def __init__(self, path: Path, shards: Shards, report: Report | None) -> None:
        self._path, self._is_writer, self._report = path, shards.rank == 0, report

    def add(self, record: dict[str, Any]) -> None:
        """Append a record.

        Raises:
            TrainingError: the file cannot be written.
        """
        if not self._is_writer:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as e:
            raise TrainingError(f"{self._path}: cannot be written ({e}); make room and go on with --resume.") from e
        if self._report is not None:
            self._report(record)

    def cut_after(self, step: int) -> None:
        """Delete the records after a step: the resumed run records these steps again."""
        if self._is_writer and self._path.is_file():
            # a killed process may have left half a line
            whole = [line for line in self.text().splitlines(keepends=True) if line.endswith("\n")]
            kept = "".join(line for line in whole if json.loads(line)["step"] <= step)
            write_whole(self._path, lambda path: path.write_text(kept, encoding="utf-8"), overwrite=True)

    def last(self) -> dict[str, Any]:
        """The newest value of each metric."""
        newest: dict[str, Any] = {}
        for line in self.text().splitlines():
            newest |= json.loads(line)
        return newest

    def text(self) -> str:
        return self._path.read_text(encoding="utf-8") if self._path.is_file() else ""


class Watcher:
    """Adds to a run's records, now and then, how often the replacement model agrees with the model on held-out text."""

    def __init__(
        self,
        model: LanguageModel,
        held_out: TokenRows,
        report: Report,
        shards: Shards,
        skip_positions: SkipPositions = "auto",
    ) -> None:
        self._model, self._report, self._shards = model, report, shards
        rows = held_out.first_tokens(_WATCHED_TOKENS).rows
        self._batches = list(
            batches_of_similar_length(model, rows, batch_tokens=_WATCHED_TOKENS, skip_positions=skip_positions)
        )
        self._watched = -float("inf")

    def __call__(self, trained: TrainableTranscoders, record: dict[str, Any]) -> None:
        """Report the record."""
        # all processes or none: each holds a part of the features
        if self._shards.agree(float(time.monotonic() - self._watched > _WATCH_EVERY_S)):
            agreed, n_tokens = 0.0, 0
            for tokens in self._batches:
                n = int(tokens.is_trained.sum())
                agreed += n * agreement_on(self._model, tokens, trained)
                n_tokens += n
            record["agreement"] = agreed / n_tokens
            self._watched = time.monotonic()
        self._report(record)
