"""Rows of a text in batches."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from attrgraph.data.activations import TokenBatch
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import PromptError
from attrgraph.models.language_model import LanguageModel

NO_TARGET = -100  # in place of a token id; torch's cross-entropy gives 0 for it
# logits of one run of the model; with the copies that comparing two of them takes, this is about 3 GiB in float32
_MOST_LOGITS = 2**27


def index_batches(rows: Sequence[Int[Tensor, " _"]], batch_tokens: int) -> list[list[int]]:
    """Indices of all rows, longest first, in batches of at most `batch_tokens` tokens with padding (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        # the first row of a batch is its longest
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def affordable_tokens(model: LanguageModel, batch_tokens: int) -> int:
    """`batch_tokens`, or fewer if the model's vocabulary is so large that their logits would not fit."""
    return max(1, min(batch_tokens, _MOST_LOGITS // model.d_vocab))


def count_measured(model: LanguageModel, row: Int[Tensor, " n_pos"]) -> int:
    """Tokens of a row that are measured: all but BOS."""
    return len(row) if model.bos_token_id is None else int((row != model.bos_token_id).sum())


def next_ids(tokens: TokenBatch) -> Int[Tensor, "n_rows n_pos"]:
    """The token after each; NO_TARGET where that is padding or BOS, and after the last."""
    following = torch.full_like(tokens.token_ids, NO_TARGET)
    following[:, :-1] = torch.where(tokens.is_trained[:, 1:], tokens.token_ids[:, 1:], NO_TARGET)
    return following


def check_rows(model: LanguageModel, rows: TokenRows) -> None:
    """Raise PromptError for rows that the model cannot read."""
    for row in rows.rows:
        if not 1 <= len(row) <= model.n_context:
            raise PromptError(
                f"a row has {len(row)} tokens; expected 1 to {model.n_context}, the model's context. "
                "Were the rows made for another model?"
            )
        if not 0 <= int(row.min()) <= int(row.max()) < model.d_vocab:
            raise PromptError(
                f"a row has token id {int(row.max())}; the model's vocabulary is 0 to {model.d_vocab - 1}. "
                "Were the rows made for another model?"
            )
