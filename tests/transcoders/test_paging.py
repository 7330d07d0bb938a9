"""Paging out changes no number."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from attrgraph.transcoders.paging import is_scarce, page_out


def test_pages_come_back_with_what_they_held(tmp_path: Path) -> None:
    in_memory = torch.randn(3000, 100)
    save_file({"x": in_memory}, tmp_path / "x.safetensors")
    from_file = load_file(tmp_path / "x.safetensors")["x"]
    for x in (in_memory, from_file, from_file[7:], from_file[:, ::2], torch.zeros(0)):
        expected = x.clone()
        page_out(x)
        assert torch.equal(x, expected)


def test_memory_is_scarce_for_what_would_fill_it() -> None:
    assert is_scarce(2**60) and not is_scarce(2**20)
