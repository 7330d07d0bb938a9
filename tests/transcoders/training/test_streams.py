"""Batches: every token of a round once, in an order that can be taken up again."""

import torch

from attrgraph.transcoders.training.streams import Activations, ShuffledBatches


class Numbered:
    """Round `i` has ten tokens, whose reads are 10 i to 10 i + 9."""

    def round(self, index: int) -> Activations:
        numbers = (10.0 * index + torch.arange(10.0))[None, :, None]
        return Activations(numbers, -numbers)


def take(batches: ShuffledBatches, n: int) -> list[list[float]]:
    return [batches.next().reads.flatten().tolist() for _ in range(n)]


def test_every_token_of_a_round_comes_once_and_reads_stay_with_writes() -> None:
    batches = ShuffledBatches(Numbered(), batch_tokens=5, seed=0)
    seen = take(batches, 4)
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert sorted(seen[2] + seen[3]) == list(range(10, 20))
    assert seen[0] + seen[1] != list(range(10))
    batch = batches.next()
    assert torch.equal(batch.reads, -batch.writes)


def test_what_does_not_fill_a_batch_is_left_out() -> None:
    seen = take(ShuffledBatches(Numbered(), batch_tokens=4, seed=0), 3)
    assert all(number < 10 for number in seen[0] + seen[1]) and all(number >= 10 for number in seen[2])


def test_a_position_can_be_taken_up_again() -> None:
    batches = ShuffledBatches(Numbered(), batch_tokens=3, seed=4)
    take(batches, 4)
    position = batches.round_index, batches.batch_index
    rest = take(batches, 5)
    again = ShuffledBatches(Numbered(), batch_tokens=3, seed=4)
    again.restore(*position)
    assert take(again, 5) == rest
