"""The dense ops agree with their references for odd, empty and non-contiguous shapes."""

import pytest
import torch
from torch.testing import assert_close

from attrgraph.kernels.edge_rows import edge_rows, edge_rows_reference
from attrgraph.kernels.mix_heads import mix_heads, mix_heads_reference


@pytest.mark.parametrize(("n_rows", "n_pos", "n_sources"), [(1, 1, 1), (3, 5, 17), (4, 7, 0), (0, 3, 5), (2, 1, 33)])
def test_edge_rows_gathers_and_dots(n_rows: int, n_pos: int, n_sources: int) -> None:
    adjoint = torch.randn(n_rows, 9, n_pos).transpose(1, 2)  # not contiguous
    vectors = torch.randn(n_sources, 9)
    positions = torch.randint(n_pos, (n_sources,)).sort().values
    assert_close(edge_rows(adjoint, vectors, positions), edge_rows_reference(adjoint, vectors, positions))


def test_edge_rows_of_later_sources_are_zero() -> None:
    adjoint, vectors = torch.randn(3, 2, 5), torch.randn(4, 5)
    out = edge_rows(adjoint, vectors, torch.tensor([0, 1, 2, 8]))
    assert (out[:, 2:] == 0).all()
    assert_close(out[:, :2], edge_rows_reference(adjoint, vectors[:2], torch.tensor([0, 1])))


@pytest.mark.parametrize(("n_rows", "n_pos", "n_heads", "d_head"), [(1, 1, 1, 1), (3, 7, 4, 5), (0, 3, 2, 4)])
def test_mix_heads_mixes_queries_into_keys(n_rows: int, n_pos: int, n_heads: int, d_head: int) -> None:
    x = torch.randn(n_rows, n_heads, n_pos, d_head).transpose(1, 2)
    pattern = torch.randn(n_heads, n_pos, n_pos).tril().softmax(-1)
    assert_close(mix_heads(x, pattern), mix_heads_reference(x, pattern))
