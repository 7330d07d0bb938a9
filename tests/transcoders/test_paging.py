"""Releasing pages changes no number, and frees those of files."""

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from attrgraph.transcoders.paging import release


def test_released_pages_come_back_with_what_they_held(tmp_path: Path) -> None:
    in_memory = torch.randn(3000, 100)
    save_file({"x": in_memory}, tmp_path / "x.safetensors")
    from_file = load_file(tmp_path / "x.safetensors")["x"]
    changed = load_file(tmp_path / "x.safetensors")["x"]
    changed[1500] += 1.0  # these pages are in memory only
    for x in (in_memory, from_file, from_file[7:], from_file[:, ::2], changed, torch.zeros(3000, 100), torch.zeros(0)):
        expected = x.clone()
        release(x)
        assert torch.equal(x, expected)


@pytest.mark.skipif(not psutil.LINUX, reason="pages are released on Linux only")
def test_released_pages_are_no_longer_in_the_process(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2**22)}, tmp_path / "x.safetensors")
    x = load_file(tmp_path / "x.safetensors")["x"]
    assert float(x.sum()) == 2**22
    before = psutil.Process().memory_info().rss
    release(x)
    freed = before - psutil.Process().memory_info().rss
    assert freed > 0.9 * x.nbytes
