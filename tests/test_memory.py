"""Sizes of memory."""

import psutil
import pytest
import torch

from attrgraph.errors import AttrGraphError
from attrgraph.memory import budget_bytes, in_words, large_empty, parse_bytes


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [(7, 7), ("7", 7), ("8G", 8 * 2**30), ("512M", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("2kb", 2048), ("1T", 2**40)],
)
def test_sizes_in_words_and_numbers(size: int | str, n_bytes: int) -> None:
    assert parse_bytes(size) == n_bytes


@pytest.mark.refusal
@pytest.mark.parametrize("size", ["", "G", "-1", "0", "8X", "1e9", "8 G B", -5, 0])
def test_other_sizes_are_refused(size: int | str) -> None:
    with pytest.raises(AttrGraphError, match="expected a number of bytes"):
        parse_bytes(size)


def test_default_budget_is_a_share_of_what_is_free() -> None:
    budget = budget_bytes(None, torch.device("cpu"))
    assert 0 < budget < psutil.virtual_memory().total
    assert budget_bytes("1G", torch.device("cpu")) == 2**30


@pytest.mark.parametrize(("n_bytes", "words"), [(512, "0.5 KiB"), (3 * 2**19, "1.5 MiB"), (5 * 2**40, "5120.0 GiB")])
def test_messages_give_sizes_in_binary_units(n_bytes: int, words: str) -> None:
    assert in_words(n_bytes) == words


@pytest.mark.parametrize("shape", [(0, 3), (5, 7), (700, 1024)])
def test_large_tensors_are_tensors_like_others(shape: tuple[int, int]) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    x = large_empty(like, *shape).zero_()
    assert x.shape == shape and x.dtype == like.dtype and x.is_contiguous()
    assert torch.equal(x + 1, torch.ones(shape, dtype=torch.float64))
