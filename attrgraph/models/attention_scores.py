"""One attention head before the softmax: queries and keys, and their scores.

    score[query, key] = scale * q . k,    q = rotation(norm(W_Q x + b_Q)),    k = rotation(norm(W_K x + b_K))

with x what attention reads. Which of the parts there are, and the order of a fused projection, differs by family. The
rotations are the model's own: they are recorded while it runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.models.families import KEY, QUERY, head_projection
from attrgraph.models.frozen import FrozenNorm, widened
from attrgraph.models.hooks import at_home, on_call
from attrgraph.models.language_model import LanguageModel


@dataclass
class AttentionInput:
    """What one layer's attention read in a run, in the engine's type."""

    stream: Float[Tensor, "n_pos d_model"] | None = None  # after the norm in front of attention
    rotary: Float[Tensor, "2 n_pos d_rotary"] | None = None  # cosines and sines, if the family rotates


@contextmanager
def recorded_attention(model: LanguageModel, layer: int) -> Iterator[AttentionInput]:
    """While the context lasts, what the layer's attention reads is kept; of one prompt."""
    seen = AttentionInput()

    def record(_: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.stream = widened(at_home((args[0] if args else kwargs["hidden_states"])[0].detach()))
        rotary = kwargs.get("position_embeddings")
        if rotary is not None:
            seen.rotary = torch.stack([widened(at_home(part[0].detach())) for part in rotary])

    with on_call([model.attention_module(layer)], record):
        yield seen


@dataclass(frozen=True)
class AffineMap:
    """`x -> matrix x + bias`."""

    matrix: Float[Tensor, "d_head d_model"]
    bias: Float[Tensor, " d_head"]


@dataclass(frozen=True)
class HeadProjection:
    """A head's queries, or its keys, from what attention reads."""

    W: Float[Tensor, "d_head d_model"]
    b: Float[Tensor, " d_head"] | None
    norm: Callable[[Tensor], FrozenNorm] | None  # over the head's dimensions, held for what it is given
    rotary: Float[Tensor, "2 n_pos d_rotary"] | None

    def apply(self, x: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, "n_pos d_head"]:
        """Of every position."""
        projected = self._project(x)
        projected = projected if self.norm is None else self.norm(projected).apply(projected)
        return projected if self.rotary is None else _rotate(projected, self.rotary)

    def frozen_at(self, pos: int, x: Float[Tensor, "n_pos d_model"]) -> AffineMap:
        """The map at one position with the norm's scale held at its value there."""
        matrix, bias = self.W, self.W.new_zeros(len(self.W)) if self.b is None else self.b
        columns = torch.cat([matrix.T, bias[None]])  # each is mapped like a vector of the head
        if self.norm is not None:
            columns = self.norm(self._project(x[pos : pos + 1])).linear(columns)
        if self.rotary is not None:
            columns = _rotate(columns, self.rotary[:, pos : pos + 1])
        return AffineMap(columns[:-1].T, columns[-1])

    def _project(self, x: Tensor) -> Tensor:
        projected = x @ self.W.T
        return projected if self.b is None else projected + self.b


@dataclass(frozen=True)
class HeadScores:
    """How one head's scores come from what attention reads."""

    query: HeadProjection
    key: HeadProjection
    scale: float

    @staticmethod
    def of(model: LanguageModel, layer: int, head: int, rotary: Tensor | None) -> "HeadScores":
        family, config, attention = model.family, model.config, model.attention_module(layer)

        def projection(part: int, norm: str | None) -> HeadProjection:
            W, b = head_projection(attention, family, config, part)
            W, b = W.to(model.device), None if b is None else b.to(model.device)
            at = head * len(W) // config.num_attention_heads  # several query heads may share a key head
            hold = None if norm is None else partial(model.frozen_norm, attention.get_submodule(norm))
            return HeadProjection(W[at], None if b is None else b[at], hold, rotary)

        query, key = projection(QUERY, family.query_norm), projection(KEY, family.key_norm)
        return HeadScores(query, key, family.score_scale(attention, config))

    def row(self, query: int, x: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, " n_keys"]:
        """Scores of one query with the keys up to its own position, as the model computes them."""
        return (self.key.apply(x)[: query + 1] @ self.query.apply(x)[query]) * self.scale


def _rotate(x: Float[Tensor, "n d_head"], rotary: Float[Tensor, "2 n_or_1 d_rotary"]) -> Float[Tensor, "n d_head"]:
    """Turn the first `d_rotary` dimensions in pairs (i, i + d_rotary / 2); the others stay."""
    cos, sin = rotary
    turned, kept = x[:, : cos.shape[-1]], x[:, cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, kept], dim=-1)
