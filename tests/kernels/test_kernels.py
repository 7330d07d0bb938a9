"""The ops of the engine agree with their references for odd, empty and non-contiguous shapes, in PyTorch and Triton."""

from collections.abc import Sequence

import pytest
import torch
from torch.testing import assert_close

from attrgraph.kernels import encode_sparse, mix_heads
from attrgraph.kernels import influence_rows as influence_rows_module
from attrgraph.kernels.edge_rows import Writes, edge_rows, edge_rows_reference
from attrgraph.kernels.encode_sparse import encode_sparse_reference
from attrgraph.kernels.influence_rows import influence_rows, influence_rows_reference
from attrgraph.kernels.mix_heads import mix_heads_reference


def make_writes(counts: Sequence[int], first_pos: int, d_model: int, device: str) -> tuple[Writes, int]:
    """So many sources at each position from the first on; between two positions' columns lie three others."""
    offsets = torch.tensor([0, *counts]).cumsum(0).tolist()
    columns = [start + 3 * (i + 1) for i, start in enumerate(offsets[:-1])]
    return Writes(torch.randn(offsets[-1], d_model, device=device), first_pos, offsets, columns), offsets[-1] + 3 * len(
        counts
    ) + 2


@pytest.mark.parametrize("counts", [[1], [3, 0, 5, 2], [0, 0], [], [2, 130, 64]])
@pytest.mark.parametrize("n_rows", [0, 1, 33])
@pytest.mark.parametrize(("first_pos", "d_model"), [(0, 9), (2, 70)])
def test_edge_rows_adds_the_dots_of_each_position(
    counts: list[int], n_rows: int, first_pos: int, d_model: int, device: str
) -> None:
    writes, n_columns = make_writes(counts, first_pos, d_model, device)
    wide = torch.randn(n_rows + 1, 6, d_model, device=device)
    # the last sources lie beyond it; not contiguous, like the first rows and positions of a larger tensor
    for adjoint in (wide[1:, :4], torch.randn(n_rows, d_model, 4, device=device).transpose(1, 2)):
        whole = torch.ones(n_rows, n_columns + 3, device=device)
        out, expected = whole[:, :n_columns], torch.ones(n_rows, n_columns, device=device)
        edge_rows(adjoint, writes, out)
        edge_rows_reference(adjoint, writes, expected)
        assert_close(out, expected)
        assert bool((whole[:, n_columns:] == 1).all())


@pytest.mark.parametrize(("n_heads", "n_value_heads"), [(1, 1), (4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize(("n_rows", "n_pos", "d_head"), [(1, 1, 1), (3, 7, 5), (0, 3, 4), (2, 70, 33)])
def test_mix_heads_mixes_queries_into_keys(
    n_rows: int,
    n_pos: int,
    d_head: int,
    n_heads: int,
    n_value_heads: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mix_heads, "_KEY_BLOCK", 3)
    x = torch.randn(n_rows, n_heads, n_pos, d_head, device=device).transpose(1, 2)
    future = torch.ones(n_pos, n_pos, device=device).triu(1).bool()
    # a corner of a longer prompt's pattern
    pattern = torch.randn(n_heads, n_pos + 2, n_pos + 2, device=device)[:, :n_pos, :n_pos]
    pattern.copy_(pattern.masked_fill(future, -torch.inf).softmax(-1))
    got = mix_heads.mix_heads(x, pattern, n_value_heads)
    assert_close(got, mix_heads_reference(x, pattern, n_value_heads))


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "topk of all"])
@pytest.mark.parametrize(("n_pos", "n_features"), [(5, 23), (1, 1), (3, 0), (0, 4), (18, 140)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encode_sparse_some_features_at_a_time(
    kind: str, n_pos: int, n_features: int, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, W_enc = torch.randn(n_pos, 7, device=device), torch.randn(7, n_features, device=device).T.to(dtype)
    b_enc = torch.randn(n_features, device=device).to(dtype)
    threshold = torch.rand(n_features, device=device).to(dtype) if kind == "jumprelu" else None
    k = {"topk": 3, "topk of all": 1000}.get(kind)
    expected = encode_sparse_reference(x, W_enc, b_enc, threshold, k)
    for n_at_once in (1, 4, 1000) if n_features < 100 else (100,):
        monkeypatch.setattr(encode_sparse, "_DENSE_BYTES", n_at_once * max(n_pos, 7) * 4)
        found = encode_sparse.encode_sparse(x, W_enc, b_enc, threshold, k)
        assert torch.equal(found.pos, expected.pos) and torch.equal(found.feature, expected.feature)
        assert_close(found.activation, expected.activation)
        assert bool(found.is_finite)
    if n_features > 8 and n_pos:
        assert 0 < len(expected.pos) < n_pos * n_features
    if n_features and n_pos:
        W_enc[-1, 0] = torch.nan
        assert not bool(encode_sparse.encode_sparse(x, W_enc, b_enc, threshold, k).is_finite)


@pytest.mark.parametrize("n_rows", [0, 1, 9])
def test_influence_of_levels_is_that_of_one_row_after_the_other(
    n_rows: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influence_rows_module, "_BLOCK_BYTES", 3 * 12 * 8)  # three rows at a time
    n_columns = 12
    level = torch.tensor([9, 9, 2, 1, 2, 1, 1, 2, 0])[:n_rows]
    column = torch.tensor([-1, -1, 5, 3, 6, 2, 4, 7, 1])[:n_rows]
    # what lies lower is to the left, down to columns that have no row
    below = torch.tensor([0, 1, 5, 8, 8, 8, 8, 8, 8, 12])[level]
    rows = torch.randn(n_rows, n_columns).double() * (torch.arange(n_columns) < below[:, None])
    weight = torch.tensor([0.7, 0.3, 0, 0, 0, 0, 0, 0, 0])[:n_rows].double()
    wide = torch.cat([rows, torch.full((n_rows, 1), torch.nan)], 1).to(device)  # a column that does not count
    rows, column, level, weight = wide[:, :-1], column.to(device), level.to(device), weight.to(device)
    found = influence_rows(rows, column, level, weight)
    for got, expected in zip(found, influence_rows_reference(rows, column, level, weight), strict=True):
        assert_close(got, expected)
    if n_rows == 9:
        assert float(found[0].sum()) > 1 and float(found[1][:2].sum()) == pytest.approx(1.0)
