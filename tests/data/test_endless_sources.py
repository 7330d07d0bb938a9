"""What never ends is refused before it is read."""

import os
from pathlib import Path

import pytest

from attrgraph.data.documents import Documents
from attrgraph.errors import CorpusError


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        Documents([tmp_path / "pipe"], "text")


def test_a_device_is_refused() -> None:
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        Documents(["/dev/zero"], "text")
