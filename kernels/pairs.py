"""Which features are active at which tokens, as pairs: ordered by token, and the same pairs ordered by feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def counts_are_known(x: Tensor) -> bool:
    """Whether a number of entries of `x` can be asked for without waiting for a device."""
    return x.device.type == "cpu"


@dataclass(frozen=True)
class Pairs:
    """Pairs (token, feature): those of token `i` are `features[offsets[i] : offsets[i + 1]]`.

    A feature occurs at most once at a token. Values of the pairs are kept in a second tensor, in the same order.

    On a GPU the host need not know how many pairs there are: those after the last offset then are padding, which has
    some token and feature, in no token's bag and no feature's group.
    """

    features: Int[Tensor, " n_pairs"]
    offsets: Int[Tensor, " n_offsets"]  # n_tokens + 1, from 0 to n_pairs, or to where the padding begins
    n_features: int
    is_padded: bool = False

    @staticmethod
    def of_rows(features: Int[Tensor, "n_tokens k"], n_features: int) -> "Pairs":
        """The same number of features at every token."""
        n_tokens, k = features.shape
        offsets = torch.arange(n_tokens + 1, device=features.device) * k
        return Pairs(features.flatten(), offsets, n_features)

    @staticmethod
    def of_indices(
        tokens: Int[Tensor, " n_pairs"],
        features: Int[Tensor, " n_pairs"],
        n: Sequence[int],
        is_kept: Bool[Tensor, " n_pairs"] | None = None,
    ) -> "Pairs":
        """From tokens in ascending order and their features.

        Args:
            n: the number of tokens and of features.
            is_kept: which pairs there are; the others' places become padding, or on a CPU are left out.
        """
        if is_kept is not None and counts_are_known(features):
            tokens, features, is_kept = tokens[is_kept], features[is_kept], None
        starts = torch.searchsorted(tokens, torch.arange(n[0] + 1, device=tokens.device))
        if is_kept is None:
            return Pairs(features, starts, n[1])
        kept_before = torch.cat([starts.new_zeros(1), is_kept.cumsum(0)])
        last = len(features)
        places = torch.where(is_kept, kept_before[:-1], last)
        packed = features.new_zeros(last + 1).scatter_(0, places, features)[:-1]
        return Pairs(packed, kept_before[starts], n[1], is_padded=True)

    @property
    def n_tokens(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def tokens(self) -> Int[Tensor, " n_pairs"]:
        """The token of each pair."""
        if self.is_padded:
            every = torch.arange(len(self.features), device=self.offsets.device)
            return torch.searchsorted(self.offsets, every, right=True).sub_(1).clamp_max_(self.n_tokens - 1)
        every = torch.arange(self.n_tokens, device=self.offsets.device)
        return every.repeat_interleave(self.offsets.diff(), output_size=len(self.features))

    @cached_property
    def is_real(self) -> Bool[Tensor, " n_pairs"]:
        """Which are no padding."""
        return torch.arange(len(self.features), device=self.offsets.device) < self.offsets[-1]

    def stack(self, other: "Pairs") -> "Pairs":
        """The tokens of both, `other`'s after these, which must have no padding."""
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Pairs(torch.cat([self.features, other.features]), offsets, self.n_features, other.is_padded)

    @cached_property
    def by_feature(self) -> "FeaturePairs":
        """The pairs of every feature, active or not; padding comes after them."""
        features = torch.where(self.is_real, self.features, self.n_features) if self.is_padded else self.features
        in_order, order = features.sort(stable=True)
        every = torch.arange(self.n_features + 1, device=in_order.device)
        return FeaturePairs(order, self.tokens[order], torch.searchsorted(in_order, every), None)

    @cached_property
    def by_active_feature(self) -> "FeaturePairs":
        """The pairs of the features that have any. Their number has to be known to the host."""
        every = self.by_feature
        features = every.offsets.diff().nonzero()[:, 0]
        offsets = torch.cat([every.offsets[features], every.offsets[-1:]])
        return FeaturePairs(every.order, every.tokens, offsets, features)


@dataclass(frozen=True)
class FeaturePairs:
    """Pairs grouped by feature: group `j` is `order[offsets[j] : offsets[j + 1]]`."""

    order: Int[Tensor, " n_pairs"]  # of each pair, its place in the order by token
    tokens: Int[Tensor, " n_pairs"]
    offsets: Int[Tensor, " n_offsets"]
    features: Int[Tensor, " n_groups"] | None  # the feature of each group; None: group j is feature j
