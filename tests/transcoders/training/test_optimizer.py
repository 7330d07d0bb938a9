"""Adam on rows is Adam where there is a gradient, and nothing elsewhere."""

import torch
from torch import nn
from torch.testing import assert_close

from attrgraph.transcoders.training.optimizer import RowAdam
from attrgraph.transcoders.training.shards import Shards

LEARNING_RATE = 0.1


def make(n_steps: int, *, is_sparse: bool, max_norm: float = 1e9) -> torch.Tensor:
    """A table after steps on the same gradients, which rows 0 and 3 alone have."""
    generator = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.ones(5, 2))
    optimizer = RowAdam({"table": table}, Shards(), replicated=frozenset())
    for _ in range(n_steps):
        rows = torch.randn(2, 2, generator=generator)
        gradient = torch.sparse_coo_tensor(torch.tensor([[0, 3]]), rows, (5, 2), check_invariants=True)
        table.grad = gradient if is_sparse else gradient.to_dense()
        optimizer.step(LEARNING_RATE, max_norm)
        assert table.grad is None
    return table.data


def test_rows_with_a_gradient_move_as_in_dense_adam_and_others_stay() -> None:
    assert_close(make(5, is_sparse=True), make(5, is_sparse=False))
    assert bool((make(5, is_sparse=True)[[1, 2, 4]] == 1).all())


def test_dense_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = nn.Parameter(torch.ones(5, 2))
    optimizer = torch.optim.Adam([theirs], lr=LEARNING_RATE)
    for _ in range(5):
        theirs.grad = torch.zeros(5, 2).index_copy(0, torch.tensor([0, 3]), torch.randn(2, 2, generator=generator))
        optimizer.step()
    assert_close(make(5, is_sparse=False), theirs.data)


def test_gradients_of_one_row_used_twice_add_up() -> None:
    table = nn.Parameter(torch.ones(3, 1))
    optimizer = RowAdam({"table": table}, Shards(), replicated=frozenset())
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[2.0], [-2.0]]), (3, 1), check_invariants=True
    )
    optimizer.step(LEARNING_RATE, 1e9)
    assert bool((table.data == 1).all())


def test_clipping_is_over_all_parameters_together() -> None:
    def first_moments(max_norm: float) -> list[float]:
        parameters = {name: nn.Parameter(torch.zeros(1, 1)) for name in "ab"}
        optimizer = RowAdam(parameters, Shards(), replicated=frozenset({"b"}))
        parameters["a"].grad = torch.tensor([[3.0]]).to_sparse(1)
        parameters["b"].grad = torch.tensor([[4.0]])
        optimizer.step(LEARNING_RATE, max_norm)
        return [float(optimizer.first[name]) for name in "ab"]

    assert_close(first_moments(100.0), [0.3, 0.4])
    assert_close(first_moments(1.0), [0.06, 0.08])
