"""The gradient of a table of feature rows from the pairs that used them: dense, or only the rows that have one."""

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.weighted_bags import weighted_bags


def row_gradients(
    weights: Float[Tensor, " n_pairs"], pairs: Pairs, table: Float[Tensor, "n_tokens d"], *, is_sparse: bool
) -> Tensor:
    """grad[f] = sum over pairs of feature `f` of weight * table[token], [n_features, d].

    Args:
        is_sparse: return a coalesced sparse COO tensor that holds only the rows of features that occur.
    """
    groups = pairs.by_active_feature if is_sparse else pairs.by_feature
    rows = weighted_bags(weights[groups.order], groups.tokens, groups.offsets, table)
    if groups.features is None:
        return rows
    size = (pairs.n_features, rows.shape[1])
    return torch.sparse_coo_tensor(groups.features[None], rows, size, is_coalesced=True, check_invariants=False)
