"""Which features are active at which tokens, as pairs: ordered by token, and the same pairs ordered by feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs (token, feature): those of token `i` are `features[offsets[i] : offsets[i + 1]]`.

    A feature occurs at most once at a token. Values of the pairs are kept beside them, in the same order.
    """

    features: Int[Tensor, " n_pairs"]
    offsets: Int[Tensor, " n_offsets"]  # n_tokens + 1, from 0 to n_pairs
    n_features: int

    @staticmethod
    def of_rows(features: Int[Tensor, "n_tokens k"], n_features: int) -> "Pairs":
        """The same number of features at every token."""
        n_tokens, k = features.shape
        offsets = torch.arange(n_tokens + 1, device=features.device) * k
        return Pairs(features.flatten(), offsets, n_features)

    @staticmethod
    def of_indices(tokens: Int[Tensor, " n_pairs"], features: Int[Tensor, " n_pairs"], n: Sequence[int]) -> "Pairs":
        """From tokens in ascending order and their features; `n` is the number of tokens and of features."""
        bounds = torch.arange(n[0] + 1, device=tokens.device)
        return Pairs(features, torch.searchsorted(tokens, bounds), n[1])

    @property
    def n_tokens(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def tokens(self) -> Int[Tensor, " n_pairs"]:
        """The token of each pair."""
        every = torch.arange(self.n_tokens, device=self.offsets.device)
        return every.repeat_interleave(self.offsets.diff(), output_size=len(self.features))

    def stack(self, other: "Pairs") -> "Pairs":
        """The tokens of both, `other`'s after these."""
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Pairs(torch.cat([self.features, other.features]), offsets, self.n_features)

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        in_order, order = self.features.sort(stable=True)
        return in_order, order

    @cached_property
    def by_feature(self) -> "FeaturePairs":
        """The pairs of every feature, active or not."""
        in_order, order = self._sorted
        every = torch.arange(self.n_features + 1, device=in_order.device)
        return FeaturePairs(order, self.tokens[order], torch.searchsorted(in_order, every), None)

    @cached_property
    def by_active_feature(self) -> "FeaturePairs":
        """The pairs of the features that have any. Their number has to be known to the host."""
        in_order, order = self._sorted
        features, counts = torch.unique_consecutive(in_order, return_counts=True)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return FeaturePairs(order, self.tokens[order], offsets, features)


@dataclass(frozen=True)
class FeaturePairs:
    """Pairs grouped by feature: group `j` is `order[offsets[j] : offsets[j + 1]]`."""

    order: Int[Tensor, " n_pairs"]  # of each pair, its place in the order by token
    tokens: Int[Tensor, " n_pairs"]
    offsets: Int[Tensor, " n_offsets"]
    features: Int[Tensor, " n_groups"] | None  # the feature of each group; None: group j is feature j
