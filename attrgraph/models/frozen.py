"""One prompt's run of a model, with attention patterns and norm scales held at their values: plain tensors, no modules.

With patterns and scales frozen, everything between two MLPs is affine. Each part here has its forward map `apply`; how
read vectors travel backwards through it is `models.folded`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.errors import TranscoderError

# (which part of a block, what it computes) -> what takes its place; parts are named as in `models.components`
SeePart = Callable[[str, Tensor], Tensor]
_TensorOrNone = TypeVar("_TensorOrNone", Tensor, Tensor | None)


def widened(x: _TensorOrNone) -> _TensorOrNone:
    """In at least float32: half precision is widened, float64 stays, and None, for a missing part, stays None."""
    return None if x is None else x.to(torch.promote_types(x.dtype, torch.float32))


def unseen(_: str, x: Tensor) -> Tensor:
    """Leaves every part as it is."""
    return x


@dataclass(frozen=True)
class FrozenNorm:
    """`x -> (x - mean(x)) * scale * weight + bias`; an RMS norm does not subtract the mean and has no bias."""

    scale: Float[Tensor, "n_pos 1"]
    weight: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None
    is_centered: bool
    is_there: bool = True  # False where the model has no norm: nothing changes

    @staticmethod
    def of(
        x: Float[Tensor, "n d"], weight: Tensor | None, bias: Tensor | None, *, is_centered: bool, eps: float
    ) -> "FrozenNorm":
        """With the scales that it has for `x`."""
        if is_centered:
            x = x - x.mean(-1, keepdim=True)
        return FrozenNorm((x.square().mean(-1, keepdim=True) + eps).rsqrt(), weight, bias, is_centered)

    def apply(self, x: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, "n_pos d_model"]:
        x = self.linear(x)
        return x if self.bias is None else x + self.bias

    def linear(
        self, x: Float[Tensor, "n d_model"], positions: slice | Tensor = slice(None)
    ) -> Float[Tensor, "n d_model"]:
        """`apply` without the bias, for vectors at the given positions."""
        if self.is_centered:
            x = x - x.mean(-1, keepdim=True)
        x = x * self.scale[positions]
        return x if self.weight is None else x * self.weight

    def transpose(
        self, gradient: Float[Tensor, "*rows n_pos d_model"], positions: slice | Tensor = slice(None)
    ) -> Float[Tensor, "*rows n_pos d_model"]:
        """Carry read vectors at the output back to the input, at the given positions."""
        if self.weight is not None:
            gradient = gradient * self.weight
        gradient = gradient * self.scale[positions]
        return gradient - gradient.mean(-1, keepdim=True) if self.is_centered else gradient

    @staticmethod
    def times(factor: float, like: Float[Tensor, "n_pos d_model"]) -> "FrozenNorm":
        """Nothing but a scale that is the same at every position."""
        return FrozenNorm(like.new_full((len(like), 1), factor), None, None, False)

    def without_scale(self) -> "FrozenNorm":
        """The norm with a scale of 1 at every position."""
        return replace(self, scale=self.scale.new_ones(1, 1))


def norm_before(point: str, mlp_norm: FrozenNorm) -> FrozenNorm | None:
    """What lies between the stream and a read point of `transcoders.config.READ_POINTS`.

    Raises:
        TranscoderError: `ln2.hook_normalized` of a LayerNorm, which has two meanings, or where there is no norm.
    """
    if point.endswith("ln2.hook_normalized") and not mlp_norm.is_there:
        raise TranscoderError(
            f"feature_input_hook {point} is what the norm in front of the MLP gives, and this model has no norm there; "
            "if features read what the MLP takes in, pass --read-point mlp.hook_in (read_point=)."
        )
    match point:
        case "hook_resid_mid":
            return None
        case "ln2.hook_normalized" if mlp_norm.is_centered:
            raise TranscoderError(
                "feature_input_hook ln2.hook_normalized is ambiguous for models with LayerNorm: in TransformerLens 2 "
                "it lies after the norm's weight and bias, in 3 before. Pass --read-point tl2.ln2.hook_normalized or "
                "tl3.ln2.hook_normalized (read_point=), whichever the set was trained with."
            )
        case "ln2.hook_normalized" | "tl3.ln2.hook_normalized":
            return replace(mlp_norm, weight=None, bias=None)
        case "tl2.ln2.hook_normalized":
            return mlp_norm if mlp_norm.is_centered else replace(mlp_norm, weight=None, bias=None)
        case "mlp.hook_in":
            return mlp_norm
    raise AssertionError(f"unknown read point {point!r}")


@dataclass(frozen=True)
class FrozenAttention:
    """Attention with its pattern given: values are mixed over positions by `pattern`, head by head.

    It lies where the model runs the layer, and comes to where it is used: together, layers may be too large for there.
    Several query heads may share a value head: query head `h` uses value head `h * n_value_heads // n_heads`.
    """

    recall: Callable[[], Float[Tensor, "n_heads n_pos n_pos"]]  # gives the pattern: as kept, or computed again
    W_V: Float[Tensor, "n_value_heads d_head d_model"]
    W_O: Float[Tensor, "n_heads d_model d_head"]
    b_V: Float[Tensor, "n_value_heads d_head"] | None
    b_O: Float[Tensor, " d_model"] | None

    def to(self, device: torch.device) -> "FrozenAttention":
        parts = ((name, getattr(self, name)) for name in ("W_V", "W_O", "b_V", "b_O"))
        there: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in parts}
        return replace(self, recall=lambda: self.recall().to(device), **there)

    @property
    def pattern(self) -> Float[Tensor, "n_heads n_pos n_pos"]:
        """Attention weights [head, query, key]."""
        return self.recall()

    def apply(self, x: Float[Tensor, "n_pos d_model"], see: SeePart = unseen) -> Float[Tensor, "n_pos d_model"]:
        here = self.to(x.device)
        values = torch.einsum("vcd,pd->vpc", here.W_V, x)  # [n_value_heads, n_pos, d_head]
        if here.b_V is not None:
            values = values + here.b_V[:, None]
        values = see("v", values.transpose(0, 1)).transpose(0, 1)
        mixed = here.pattern @ values.repeat_interleave(len(here.W_O) // len(here.W_V), dim=0)
        mixed = see("head", mixed.transpose(0, 1)).transpose(0, 1)  # [n_heads, n_pos, d_head]
        out = torch.einsum("hpc,hdc->pd", mixed, here.W_O)
        return out if here.b_O is None else out + here.b_O


@dataclass(frozen=True)
class FrozenBlock:
    """One transformer block. Sequential: the MLP reads after attention; parallel: both read what enters the block."""

    attention_norm: FrozenNorm
    attention: FrozenAttention
    attention_post_norm: FrozenNorm | None
    mlp_norm: FrozenNorm
    mlp_post_norm: FrozenNorm | None
    is_parallel: bool
    mlp_stream: Float[Tensor, "n_pos d_model"]  # what enters the MLP's norm
    mlp_out: Float[Tensor, "n_pos d_model"]  # what the MLP returns, before the post-norm if there is one
    residual_scale: float = 1.0  # multiplies what the MLP returns on its way to the stream, after both write points

    def read_norm(self, point: str) -> FrozenNorm | None:
        """What lies between the stream and a read point; see `norm_before`."""
        return norm_before(point, self.mlp_norm)

    def read(self, point: str) -> Float[Tensor, "n_pos d_model"]:
        """What transcoders that read at this point see."""
        norm = self.read_norm(point)
        return self.mlp_stream if norm is None else norm.apply(self.mlp_stream)

    def write_norm(self, point: str) -> FrozenNorm | None:
        """What lies between a write point of `transcoders.config.WRITE_POINTS` and the stream."""
        if self.residual_scale != 1:
            return FrozenNorm.times(self.residual_scale, self.mlp_stream)
        return None if point == "hook_mlp_out" else self.mlp_post_norm

    def written(self, point: str) -> Float[Tensor, "n_pos d_model"]:
        """What transcoders that write at this point are to reconstruct."""
        if point == "mlp.hook_out" or self.mlp_post_norm is None:
            return self.mlp_out
        return self.mlp_post_norm.apply(self.mlp_out)

    def attend(self, stream: Float[Tensor, "n_pos d_model"], see: SeePart = unseen) -> Float[Tensor, "n_pos d_model"]:
        """What attention adds to the stream."""
        out = self.attention.apply(self.attention_norm.apply(stream), see)
        return see("attn", out if self.attention_post_norm is None else self.attention_post_norm.apply(out))

    def attend_linear(
        self, change: Float[Tensor, "n_pos d_model"], see: SeePart = unseen
    ) -> Float[Tensor, "n_pos d_model"]:
        """How a change of the stream changes what attention adds to it."""
        out = replace(self.attention, b_V=None, b_O=None).apply(self.attention_norm.linear(change), see)
        return see("attn", out if self.attention_post_norm is None else self.attention_post_norm.linear(out))


@dataclass(frozen=True)
class FrozenRun:
    """Everything about one run of the model that attribution needs. Float tensors are in the run's dtype."""

    token_ids: Int[Tensor, " n_pos"]
    embedding: Float[Tensor, "n_pos d_model"]  # of the tokens alone
    position_embedding: Float[Tensor, "n_pos d_model"] | None  # added to it, if the model has one
    blocks: tuple[FrozenBlock, ...]
    final_norm: FrozenNorm
    final_stream: Float[Tensor, "n_pos d_model"]  # what enters the final norm
    W_U: Float[Tensor, "d_vocab d_model"]
    b_U: Float[Tensor, " d_vocab"] | None
    logits: Float[Tensor, " d_vocab"]  # of the last position, soft-capped if the model does so
    uncapped_logits: Float[Tensor, " d_vocab"]  # before soft-capping, recomputed from `final_stream`
    pattern_bytes: int  # of attention patterns that are kept in memory
    embedding_deviation: float  # of `embedding` from what the weights say; see `requirements.embedding_deviation`
    unembedding_deviation: float  # largest difference of the recomputed logits, capped again, from the model's own

    @property
    def n_pos(self) -> int:
        return len(self.token_ids)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def entering(self, layer: int) -> Float[Tensor, "n_pos d_model"]:
        """The stream that enters a block, or, at the number of blocks, the final norm."""
        if layer == self.n_layers:
            return self.final_stream
        if self.blocks[layer].is_parallel:
            return self.blocks[layer].mlp_stream
        if layer == 0:
            return self.embedding if self.position_embedding is None else self.embedding + self.position_embedding
        below = self.blocks[layer - 1]
        return below.mlp_stream + below.residual_scale * below.written("hook_mlp_out")

    def unembed(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """Logits before soft-capping, from what leaves the final norm."""
        logits = normed @ self.W_U.T
        return logits if self.b_U is None else logits + self.b_U
