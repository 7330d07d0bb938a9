"""Weighted sums of table rows: out[bag] = sum over the bag's entries of weight * table[index]."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from attrgraph.kernels.choose import uses_triton


def weighted_bags_reference(
    weights: Float[Tensor, " n_entries"],
    indices: Int[Tensor, " n_entries"],
    offsets: Int[Tensor, " n_offsets"],
    table: Float[Tensor, "n_rows d"],
) -> Float[Tensor, "n_bags d"]:
    """The specification: scale the gathered rows, add each to its bag; an empty bag is zero."""
    n_bags = len(offsets) - 1
    bag = torch.arange(n_bags, device=offsets.device).repeat_interleave(offsets.diff())
    weights, indices = weights[: len(bag)], indices[: len(bag)]
    return table.new_zeros(n_bags, table.shape[1]).index_add(0, bag, weights[:, None] * table[indices])


def weighted_bags(
    weights: Float[Tensor, " n_entries"],
    indices: Int[Tensor, " n_entries"],
    offsets: Int[Tensor, " n_offsets"],
    table: Float[Tensor, "n_rows d"],
) -> Float[Tensor, "n_bags d"]:
    """`weighted_bags_reference` without the gathered copy. Not differentiable: see the ops built on it.

    Args:
        weights: of each entry.
        indices: the table row of each entry.
        offsets: bag `j` has the entries from `offsets[j]` to before `offsets[j + 1]`; the last one is `n_entries`,
            or less: entries after it are in no bag.
    """
    if uses_triton(table):
        from attrgraph.kernels._weighted_bags_triton import weighted_bags_triton

        return weighted_bags_triton(weights, indices, offsets, table)
    if len(offsets) == 1:
        return table.new_zeros(0, table.shape[1])
    # entries after the last offset come into a bag of their own, which is dropped
    return embedding_bag(indices, table, offsets, per_sample_weights=weights, mode="sum")[:-1]
