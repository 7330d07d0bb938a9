"""Directions of the stream."""

import numpy as np
import pytest
import torch

import attrgraph as ag
from attrgraph.errors import TargetError


def test_a_direction_is_what_was_given() -> None:
    direction = ag.Direction(np.array([0.0, 2.0]), layer=np.int64(1), pos=-1)
    assert direction.layer == 1 and direction.pos == -1 and direction.vector[1] == 2.0


@pytest.mark.refusal
@pytest.mark.parametrize("vector", [[0.0, 0.0], [1.0, float("nan")], [[1.0]], [], [1j]])
def test_vectors_that_point_nowhere_are_refused(vector: list) -> None:
    with pytest.raises(TargetError, match="expected \\[d_model\\] finite numbers, not all 0"):
        ag.Direction(torch.tensor(vector), layer=0)
    with pytest.raises(TargetError, match="layer is -1"):
        ag.Direction(torch.ones(2), layer=-1)
