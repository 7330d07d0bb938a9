"""Pairs on a case written out by hand."""

import pytest
import torch

from attrgraph.kernels import pairs
from attrgraph.kernels.pairs import Pairs


@pytest.fixture
def by_hand() -> Pairs:
    """Token 0 has features 2 and 0, token 1 none, token 2 feature 2; features 1 and 3 never occur."""
    return Pairs(torch.tensor([2, 0, 2]), torch.tensor([0, 2, 2, 3]), 4)


def test_pairs_know_their_tokens(by_hand: Pairs) -> None:
    assert by_hand.n_tokens == 3
    assert by_hand.tokens.tolist() == [0, 0, 2]


def test_pairs_stack_tokens(by_hand: Pairs) -> None:
    both = by_hand.stack(Pairs(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]), 4))
    assert both.features.tolist() == [2, 0, 2, 1, 2, 3]
    assert both.offsets.tolist() == [0, 2, 2, 3, 4, 6]
    assert both.tokens.tolist() == [0, 0, 2, 3, 4, 4]
    assert both.n_features == 4


def test_pairs_by_feature_have_a_group_for_every_feature(by_hand: Pairs) -> None:
    groups = by_hand.by_feature
    assert groups.features is None
    assert groups.order.tolist() == [1, 0, 2]
    assert groups.tokens.tolist() == [0, 0, 2]
    assert groups.offsets.tolist() == [0, 1, 1, 3, 3]


def test_pairs_by_active_feature_have_a_group_for_those_that_occur(by_hand: Pairs) -> None:
    groups = by_hand.by_active_feature
    assert groups.features is not None and groups.features.tolist() == [0, 2]
    assert groups.order.tolist() == [1, 0, 2]
    assert groups.tokens.tolist() == [0, 0, 2]
    assert groups.offsets.tolist() == [0, 1, 3]


def test_pairs_are_the_same_from_rows_and_from_indices(by_hand: Pairs) -> None:
    rows = Pairs.of_rows(torch.tensor([[4, 1], [0, 2]]), 5)
    assert rows.features.tolist() == [4, 1, 0, 2]
    assert rows.offsets.tolist() == [0, 2, 4]
    assert Pairs.of_rows(torch.zeros(3, 0, dtype=torch.int64), 5).offsets.tolist() == [0, 0, 0, 0]
    from_indices = Pairs.of_indices(by_hand.tokens, by_hand.features, (3, 4))
    assert from_indices.features.tolist() == by_hand.features.tolist()
    assert from_indices.offsets.tolist() == by_hand.offsets.tolist()


def test_padded_pairs_are_those_kept(by_hand: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, features = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([2, 1, 0, 3, 2])
    is_kept = torch.tensor([True, False, True, False, True])
    trimmed = Pairs.of_indices(tokens, features, (3, 4), is_kept)
    assert trimmed.features.tolist() == by_hand.features.tolist() and not trimmed.is_padded
    monkeypatch.setattr(pairs, "counts_are_known", lambda x: False)
    padded = Pairs.of_indices(tokens, features, (3, 4), is_kept)
    assert padded.is_padded and len(padded.features) == 5
    assert padded.features[:3].tolist() == by_hand.features.tolist()
    assert padded.tokens[:3].tolist() == by_hand.tokens.tolist()
    assert padded.offsets.tolist() == trimmed.offsets.tolist() == by_hand.offsets.tolist()
    assert padded.is_real.tolist() == [True] * 3 + [False] * 2
    groups = padded.by_feature
    assert groups.offsets.tolist() == [0, 1, 1, 3, 3]
    assert groups.order[:3].tolist() == [1, 0, 2]
