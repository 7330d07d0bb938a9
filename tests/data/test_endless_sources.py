"""What never ends is refused before it is read."""

import os
from pathlib import Path

import pytest

from attrgraph.data import documents
from attrgraph.data.documents import Documents
from attrgraph.errors import CorpusError


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        Documents([tmp_path / "pipe"], "text")


def test_a_device_is_refused() -> None:
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        Documents(["/dev/zero"], "text")


def test_a_substituted_process_is_refused() -> None:
    reading, writing = os.pipe()
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        Documents([f"/dev/fd/{reading}"], "text")
    os.close(reading)
    os.close(writing)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MOST_LINE_BYTES", 2**20)
    (tmp_path / "t.txt").write_bytes(b"x" * 2**20 + b"\n" + b"x" * (2**20 + 1))
    texts = iter(Documents([tmp_path / "t.txt"], "text"))
    with pytest.raises(CorpusError, match="line 1 is longer than 1 MiB"):
        next(texts)
    (tmp_path / "t.txt").write_bytes(b"x" * (2**20 - 1) + b"\ny")
    assert [len(text) for text in Documents([tmp_path / "t.txt"], "text")] == [2**20 - 1, 1]
