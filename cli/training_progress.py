"""A training run on stderr: a live line on a terminal, a line every few seconds elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrgraph.cli.progress import as_text, spoken
from attrgraph.errors import TrainingError
from attrgraph.progress import Progress, silent
from attrgraph.transcoders.training.train_config import TrainConfig

# called with a record of metrics
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingProgress:
    """Says what a run is doing; silent unless `is_shown`."""

    console: Any  # of rich, on stderr
    is_shown: bool

    def say(self, message: str) -> None:
        """One line."""
        if self.is_shown:
            self.console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def reporting(self, config: TrainConfig, tensorboard: Path | None) -> Iterator[tuple[Report | None, Progress]]:
        """What to call with each record of metrics, and while other work is done."""
        if not self.is_shown:
            yield None, silent
            return
        with self._drawn() as draw, _event_files(tensorboard) as write:
            latest: dict[str, Any] = {}

            def report(record: dict[str, Any]) -> None:
                latest.update(record)  # the agreement is not in every record
                draw(record["progress"], summary(latest, config))
                if record["progress"] == 1.0 and not self.console.is_terminal:
                    print(f"100%  {summary(latest, config)}", file=sys.stderr, flush=True)
                    draw(1.0, "measure")
                write(record)

            yield report, lambda phase, done, total: draw(latest.get("progress", 0.0), as_text(phase, done, total))

    @contextmanager
    def _drawn(self) -> Iterator[Callable[[float, str], None]]:
        if not self.console.is_terminal:
            with spoken("  0%  activations of the first tokens") as say:
                yield lambda progress, text: say(f"{progress:4.0%}  {text}")
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.description}"))
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda progress, text: bar.update(task, completed=progress, description=text)


def summary(record: dict[str, Any], config: TrainConfig) -> str:
    """The metrics that one looks at while waiting."""
    progress = record["progress"]
    left = record["seconds"] * (1 - progress) / progress if progress else 0.0
    # at the end, of the whole run: the last steps alone may have waited for text
    rate = record["tokens"] / record["seconds"] if progress == 1 and record["seconds"] else record["tokens_per_s"]
    agreement = f"  agreement {record['agreement']:.3f}" if "agreement" in record else ""
    return (
        f"NMSE {record['nmse']:.4f}  L0 {record['l0']:.1f} of {config.l0:g}  dead {record['dead_fraction']:.1%}"
        f"{agreement}  {rate:,.0f} tokens/s  {_clock(left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def _event_files(folder: Path | None) -> Iterator[Report]:
    """Writes scalars for TensorBoard, or nothing without a folder."""
    if folder is None:
        yield lambda record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise TrainingError("--tensorboard needs TensorBoard; pip install 'attrgraph[train]'.") from e
    with closing(SummaryWriter(str(folder))) as writer:

        def write(record: dict[str, Any]) -> None:
            for name, value in record.items():
                if isinstance(value, int | float) and name not in ("step", "progress"):
                    writer.add_scalar(name, value, record["step"])

        yield write
