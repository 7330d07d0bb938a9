"""Releasing pages changes no number, and frees those of files."""

import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from attrgraph.transcoders.formats.tensors import Tensors
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


@pytest.mark.skipif(not psutil.LINUX, reason="files larger than memory are mapped on Linux")
def test_a_file_larger_than_memory_is_opened(tmp_path: Path) -> None:
    n = (psutil.virtual_memory().total + psutil.swap_memory().total) // 4 + 2**20
    small = {
        "BF16": torch.ones(3, 1).bfloat16(),
        "F8_E4M3": torch.ones(5).to(torch.float8_e4m3fn),
        "I64": torch.ones(()),
    }
    header = {"large": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}
    tail, end = b"", 4 * n
    for dtype, x in small.items():
        x = x.long() if dtype == "I64" else x
        tail += x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[dtype] = {"dtype": dtype, "shape": [*x.shape], "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    head = json.dumps(header).encode()
    with (tmp_path / "x.safetensors").open("wb") as file:  # nothing but its ends is on the disk
        file.write(len(head).to_bytes(8, "little") + head)
        file.seek(8 + len(head) + 4 * n)
        file.write(tail)
    tensors = Tensors(tmp_path / "x.safetensors")
    tensors["large"][-1] += 1.0
    assert tensors["large"].shape == (n,) and tensors["large"][[0, -1]].tolist() == [0.0, 1.0]
    assert all(
        tensors.any(dtype).float().eq(1).all() and tensors.any(dtype).shape == x.shape for dtype, x in small.items()
    )
    assert Tensors(tmp_path / "x.safetensors")["large"][-1] == 0
