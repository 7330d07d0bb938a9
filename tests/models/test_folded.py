"""A folded block carries read vectors backwards as the transposes of what the block does forwards."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attrgraph.models.folded import AttentionAdjoint, SkipAdjoint
from attrgraph.models.frozen import FrozenAttention, FrozenBlock, FrozenNorm

N_POS, D_MODEL, D_HEAD, N_HEADS, N_ROWS = 5, 8, 3, 4, 5


def random(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def make_norm(*, is_centered: bool) -> FrozenNorm:
    return FrozenNorm(random(N_POS, 1).exp(), random(D_MODEL), random(D_MODEL) if is_centered else None, is_centered)


def make_block(n_value_heads: int, norm: FrozenNorm, post_norm: FrozenNorm | None) -> FrozenBlock:
    future = torch.ones(N_POS, N_POS).triu(1).bool()
    pattern = random(N_HEADS, N_POS, N_POS).masked_fill(future, -torch.inf).softmax(-1)
    attention = FrozenAttention(
        recall=lambda: pattern,
        W_V=random(n_value_heads, D_HEAD, D_MODEL),
        W_O=random(N_HEADS, D_MODEL, D_HEAD),
        b_V=random(n_value_heads, D_HEAD),
        b_O=random(D_MODEL),
    )
    stream = random(N_POS, D_MODEL)
    return FrozenBlock(norm, attention, post_norm, norm, None, False, stream, stream)


@pytest.mark.parametrize("is_centered", [True, False])
@pytest.mark.parametrize("post", ["none", "rms", "centred"])
@pytest.mark.parametrize("n_value_heads", [1, 2, 4])
@pytest.mark.parametrize("n_pos", [3, N_POS])
def test_attention_adjoint_is_the_transpose(is_centered: bool, post: str, n_value_heads: int, n_pos: int) -> None:
    post_norm = None if post == "none" else make_norm(is_centered=post == "centred")
    block = make_block(n_value_heads, make_norm(is_centered=is_centered), post_norm)
    adjoint = AttentionAdjoint.of(block)
    assert_close(adjoint.constant, block.attend(torch.zeros(N_POS, D_MODEL).double()))
    x = random(N_POS, D_MODEL)
    u = torch.zeros(N_ROWS, N_POS, D_MODEL).double()
    u[:, :n_pos] = random(N_ROWS, n_pos, D_MODEL)
    read = u[:, :n_pos].contiguous()
    out = torch.ones_like(read)
    # as if no row had passed attention before but the first ones, which are all there is in one case
    n_spread = N_ROWS if n_pos == N_POS else 2
    pos = torch.arange(N_ROWS) % n_pos
    is_zero = (torch.arange(N_ROWS) >= n_spread)[:, None] & (torch.arange(n_pos) != pos[:, None])
    read[is_zero] = 0
    u[:, :n_pos] = read
    adjoint.add_to(out, read, n_spread=n_spread, pos=pos)
    forwards = torch.einsum("rpd,pd->r", u, block.attend(x) - adjoint.constant)
    assert_close(torch.einsum("rpd,pd->r", out - 1, x[:n_pos]), forwards)


@pytest.mark.parametrize("read", ["none", "rms", "centred"])
@pytest.mark.parametrize("write", ["none", "rms", "centred"])
def test_skip_adjoint_is_the_transpose(read: str, write: str) -> None:
    read_norm, write_norm = (
        None if kind == "none" else make_norm(is_centered=kind == "centred") for kind in (read, write)
    )
    W_skip, x, u = random(D_MODEL, D_MODEL), random(N_POS, D_MODEL), random(N_ROWS, N_POS, D_MODEL)

    def forwards(stream: Tensor) -> Tensor:
        seen = stream if read_norm is None else read_norm.apply(stream)
        written = seen @ W_skip.T
        return written if write_norm is None else write_norm.linear(written)

    skip = SkipAdjoint.of(W_skip, read_norm, write_norm)
    constant = forwards(torch.zeros_like(x))
    assert_close(torch.zeros_like(constant) if skip.constant is None else skip.constant, constant)
    g = u.clone()
    skip.add_to(g)
    expected = torch.einsum("rpd,pd->r", u, forwards(x) - constant)
    assert_close(torch.einsum("rpd,pd->r", g - u, x), expected)
