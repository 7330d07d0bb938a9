"""A frozen block as the fewest matrices that carry read vectors backwards through it.

The scales of the norms around attention go into the pattern, their weights and means into the projections, so that no
step of a sweep is spent on norms: out = sum over heads of pattern'^T (g W_out) W_in.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.kernels.mix_heads import mix_heads
from attrgraph.models.frozen import FrozenBlock, FrozenNorm

# read vectors (rows x positions) that are projected together: chosen, not tuned; small enough to stay in a cache
_VECTORS = 2048


@dataclass(frozen=True)
class AttentionAdjoint:
    """How read vectors of what attention adds travel back to the stream that attention reads."""

    W_out: Float[Tensor, "d_model d_heads"]  # d_heads: n_heads * d_head
    pattern: Float[Tensor, "n_heads n_pos n_pos"]  # [head, query, key], with the norms' scales at both
    W_in: Float[Tensor, "d_values d_model"]  # d_values: n_value_heads * d_head
    n_value_heads: int
    d_head: int
    constant: Float[Tensor, "n_pos d_model"]  # what attention adds to the stream whatever it reads

    @staticmethod
    def of(block: FrozenBlock) -> "AttentionAdjoint":
        attention = block.attention.to(block.mlp_stream.device)
        held = attention.pattern
        block = replace(block, attention=replace(attention, recall=lambda: held))  # computed once
        norm, post = block.attention_norm, block.attention_post_norm
        n_heads, d_model, d_head = attention.W_O.shape
        W_out = attention.W_O.permute(1, 0, 2).reshape(d_model, n_heads * d_head)
        W_in = norm.without_scale().transpose(attention.W_V.flatten(0, 1))
        pattern = held * norm.scale[:, 0]
        if post is not None:
            W_out, pattern = post.without_scale().linear(W_out.T).T, pattern * post.scale
        constant = block.attend(torch.zeros_like(block.mlp_stream))
        return AttentionAdjoint(W_out, pattern, W_in, len(attention.W_V), d_head, constant)

    def add_to(
        self,
        out: Float[Tensor, "n_rows n_pos d_model"],
        gradient: Float[Tensor, "n_rows n_pos d_model"],
        *,
        n_spread: int,
        pos: Int[Tensor, " n_rows"],
    ) -> None:
        """Add the read vectors at attention's input to `out`, which may be `gradient` itself.

        Causal: both may hold only the prompt's first positions.

        Args:
            n_spread: rows that have passed attention before; the others are zero but at one position.
            pos: that position, for every row.
        """
        n_pos, n_rows = gradient.shape[1], len(gradient)
        pattern, step = self.pattern[:, :n_pos, :n_pos], max(1, _VECTORS // n_pos)
        starts = [*range(0, n_spread, step), *range(n_spread, n_rows, step)]
        for start in starts:
            is_spread = start < n_spread
            some = slice(start, min(start + step, n_spread if is_spread else n_rows))
            if is_spread:
                by_head = (gradient[some].flatten(0, 1) @ self.W_out).view(-1, n_pos, len(pattern), self.d_head)
                mixed = mix_heads(by_head, pattern, self.n_value_heads)
            else:
                mixed = self._spread(gradient[some], pos[some])
            out[some].view(-1, out.shape[2]).addmm_(mixed.reshape(-1, len(self.W_in)), self.W_in)

    def _spread(self, gradient: Tensor, pos: Tensor) -> Float[Tensor, "n_rows n_pos n_value_heads d_head"]:
        """What heads mix of rows that are zero but at one position: no more of them is projected."""
        rows = torch.arange(len(pos), device=pos.device)
        by_head = (gradient[rows, pos] @ self.W_out).view(len(pos), self.n_value_heads, -1, self.d_head)
        weights = self.pattern[:, pos, : gradient.shape[1]].unflatten(0, (self.n_value_heads, -1))
        return torch.einsum("vgrk,rvgc->rkvc", weights, by_head)


@dataclass(frozen=True)
class SkipAdjoint:
    """How read vectors of an MLP's output travel through a transcoder's linear skip to the stream that it reads."""

    matrix: Float[Tensor, "d_model d_model"]
    scale: Float[Tensor, "n_pos 1"] | None
    constant: Float[Tensor, "n_pos d_model"] | None  # what the skip adds whatever the stream is

    @staticmethod
    def of(
        W_skip: Float[Tensor, "d_model d_model"], read_norm: FrozenNorm | None, write_norm: FrozenNorm | None
    ) -> "SkipAdjoint":
        matrix, scale, constant = W_skip, None, None
        if read_norm is not None:
            matrix, scale = read_norm.without_scale().transpose(matrix), read_norm.scale
            if read_norm.bias is not None:
                constant = (W_skip @ read_norm.bias).expand(len(scale), -1)
        if write_norm is not None:
            matrix = write_norm.without_scale().linear(matrix.T).T
            scale = write_norm.scale if scale is None else scale * write_norm.scale
            constant = None if constant is None else write_norm.linear(constant)
        return SkipAdjoint(matrix, scale, constant)

    def add_to(self, g: Float[Tensor, "n_rows n_pos d_model"]) -> None:
        """Add the read vectors at the skip's input to those at its output."""
        through = g @ self.matrix
        g += through if self.scale is None else through * self.scale[: g.shape[1]]
