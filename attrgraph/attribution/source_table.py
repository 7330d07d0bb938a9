"""The nodes that edges come from, as rows of a node table."""

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import with_names

SOURCE_KINDS = ("feature", "error", "embedding", "bias")


def source_table(
    model: LanguageModel, local: LocalReplacement, selected: Int[Tensor, " n_selected"] | slice = slice(None)
) -> pd.DataFrame:
    """One row per source, in the order of the columns of edges: features, errors layer by layer, embeddings, bias.

    Args:
        model: the one that was run.
        local: the prompt's local replacement model.
        selected: which of the active features are sources.

    Returns:
        A graph's columns but for influence and probability, index `node_id`.
    """
    run, active = local.run, local.active
    layer, pos, feature, activation = (
        column[selected].cpu().numpy() for column in (active.layer, active.pos, active.feature, active.activation)
    )
    error_layer, error_pos = np.divmod(np.arange(run.n_layers * run.n_pos), run.n_pos)
    tokens = [model.token_text(i) for i in run.token_ids.tolist()]
    counts = [len(pos), len(error_pos), run.n_pos, 1]
    positions = np.concatenate([pos, error_pos, np.arange(run.n_pos), [-1]])
    table = pd.DataFrame(
        {
            "kind": np.repeat(SOURCE_KINDS, counts),
            "layer": np.concatenate([layer, error_layer, np.full(run.n_pos + 1, -1)]),
            "pos": positions,
            "feature": np.concatenate([feature, np.full_like(error_pos, -1), run.token_ids.cpu().numpy(), [-1]]),
            "token": np.array([*tokens, ""], dtype=object)[positions],
            "activation": np.append(activation.astype(np.float64), np.zeros(sum(counts[1:]))),
        }
    )
    return with_names(table, local.transcoders.labels, n_layers=run.n_layers)
