"""What one sees while a run trains."""

import io
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from attrgraph.cli.progress import progress_bar
from attrgraph.cli.training_progress import TrainingProgress, summary
from attrgraph.errors import TrainingError
from attrgraph.progress import noted_interrupts
from attrgraph.transcoders.training.train_config import TrainConfig

CONFIG = TrainConfig(l0=40.0)
RECORD: dict[str, Any] = {
    "step": 20,
    "tokens": 5_000_000,
    "progress": 0.25,
    "seconds": 1000.0,
    "nmse": 0.12345,
    "l0": 39.96,
    "dead_fraction": 0.071,
    "agreement": 0.9,
    "tokens_per_s": 12345.6,
}


def test_summary_says_where_the_run_is_and_what_is_left() -> None:
    assert summary(RECORD, CONFIG) == (
        "NMSE 0.1235  L0 40.0 of 40  dead 7.1%  agreement 0.900  12,346 tokens/s  50:00 left"
    )
    assert "  5,000 tokens/s" in summary(RECORD | {"progress": 1.0}, CONFIG)  # of the whole run
    assert "agreement" not in summary({k: v for k, v in RECORD.items() if k != "agreement"}, CONFIG)


def test_lines_where_there_is_no_terminal_and_nothing_where_it_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrgraph.cli.progress._LINE_EVERY_S", 0.1)
    with TrainingProgress(Console(file=io.StringIO()), is_shown=True).reporting(CONFIG, None) as (report, doing):
        assert report is not None
        wait_for("  0%  activations of the first tokens\n", capsys)
        report(RECORD)
        report(RECORD)  # too soon for a second line
        wait_for(" 25%  NMSE 0.1235", capsys)
        doing("measure", 1, 2)
        wait_for(" 25%  measure: 1 of 2\n", capsys)
        report(RECORD | {"progress": 1.0})
        assert capsys.readouterr().err.startswith("100%  NMSE 0.1235  L0 40.0 of 40")
        wait_for("100%  measure\n", capsys)  # the last metrics are told once
    with TrainingProgress(Console(file=io.StringIO()), is_shown=False).reporting(CONFIG, None) as (report, _):
        assert report is None
    assert capsys.readouterr().out == ""


def test_other_long_work_writes_lines_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrgraph.cli.progress._LINE_EVERY_S", 0.1)
    with progress_bar() as progress:
        wait_for("load\n", capsys)
        progress("trace", 3, 1200)
        wait_for("trace: 3 of 1,200\n", capsys)


def wait_for(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Until a line of stderr begins so: a thread writes it."""
    until = time.monotonic() + 10
    while not any(line.startswith(start) for line in capsys.readouterr().err.splitlines(keepends=True)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_event_files_get_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    with TrainingProgress(Console(file=io.StringIO()), is_shown=True).reporting(CONFIG, tmp_path) as (report, _):
        assert report is not None
        report(RECORD)
    assert ("nmse", 0.12345, 20) in written and written[-1][0] == "closed"
    assert not {"step", "progress"} & {name for name, _, _ in written}


@pytest.mark.refusal
def test_event_files_without_tensorboard_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    progress = TrainingProgress(Console(file=io.StringIO()), is_shown=True)
    with pytest.raises(TrainingError, match=r"pip install 'attrgraph\[train\]'"), progress.reporting(CONFIG, tmp_path):
        pass


def test_a_handler_that_only_notes_a_signal_does_not_make_stopped_work_look_finished() -> None:
    seen = list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), noted_interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
            while not interrupts:
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
