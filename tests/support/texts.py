"""A text of random tokens for tiny models, and what their MLPs do on it."""

from collections.abc import Sequence

import torch
from tiny import BOS, D_VOCAB, N_LAYERS
from torch import Tensor

from attrgraph.data.corpus import TokenRows
from attrgraph.models.language_model import LanguageModel

# lengths differ, so that batches need padding; one row is nothing but BOS
LENGTHS = (9, 3, 14, 6, 1, 9, 2, 12)


def make_rows(lengths: Sequence[int] = LENGTHS, *, seed: int = 0) -> TokenRows:
    """One row a document, each beginning with BOS."""
    generator = torch.Generator().manual_seed(seed)
    bodies = [torch.randint(2, D_VOCAB, (length - 1,), generator=generator) for length in lengths]
    rows = [torch.cat([torch.tensor([BOS]), body]) for body in bodies]
    return TokenRows(rows, list(range(len(rows))), {"text.txt": "sha256:0"})


def read_and_written(model: LanguageModel, rows: TokenRows) -> tuple[list[Tensor], list[Tensor]]:
    """What enters the MLPs' norms and what the MLP branches add, by layer, at all tokens but BOS, row by row."""
    runs = [model.run(row) for row in rows.rows]
    reads = [torch.cat([run.blocks[layer].mlp_stream[1:] for run in runs]) for layer in range(N_LAYERS)]
    writes = [torch.cat([run.blocks[layer].written("hook_mlp_out")[1:] for run in runs]) for layer in range(N_LAYERS)]
    return reads, writes
