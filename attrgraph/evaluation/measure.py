"""One pass over a text: what a stand-in for the MLPs gets wrong, summed by document."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attrgraph.data.activations import TokenBatch, batches_by_length, pad_rows, trained_logits
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import PromptError
from attrgraph.evaluation.stand_ins import StandIn
from attrgraph.evaluation.statistics import Sums, add_to_blocks, blocks_of_documents
from attrgraph.models.hooks import on_input
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import divergence
from attrgraph.models.special import SkipPositions, text_mask, why_left_out
from attrgraph.models.weights import stored_weights
from attrgraph.progress import Progress
from attrgraph.transcoders.finite import not_finite

_NO_TARGET = -100  # in place of a token id; torch's cross-entropy gives 0 for it
# logits of one run of the model; with the copies that comparing two of them takes, this is about 3 GiB in float32
_MOST_LOGITS = 2**27
# sums, and what they are of in an error's words
_MUST_BE_FINITE = {
    "total_squared": "MLP outputs",
    "squared_error": "reconstructions",
    "ce_model": "the model's answers",
    "divergence": "the answers with MLPs replaced",
    "ce_replacement": "the answers with MLPs replaced",
    "ce_zero": "the answers without MLPs",
}
# numbers in one of the arrays that comparing distributions makes
_COMPARED_AT_ONCE = 2**24


@dataclass(frozen=True)
class Measured:
    """What one pass over a text gives."""

    sums: Sums  # by block of documents
    n_firings: list[Int[np.ndarray, " n_units"]]  # by layer: tokens on which each unit was active
    n_documents: int  # with at least one measured token
    n_skipped: int  # tokens that `text_mask` leaves out

    @property
    def n_tokens(self) -> int:
        return int(self.sums["n_tokens"].sum())

    @property
    def n_sinks(self) -> int:
        return int(self.sums["n_sinks"].sum())


class _TrueRun(NamedTuple):
    """What the model does at a batch's measured tokens."""

    reads: list[Tensor]  # by layer, whatever the stand-in reads: [n_tokens, d_read]
    outs: list[Float[Tensor, "n_tokens d_model"]]  # by layer, what the MLP branch adds to the stream
    logits: Float[Tensor, "n_tokens d_vocab"]


def check_rows(model: LanguageModel, rows: TokenRows) -> None:
    """Raise PromptError for rows that the model cannot read."""
    for row in rows.rows:
        problem = ""
        if not 1 <= len(row) <= model.n_context:
            problem = f"{len(row)} tokens; expected 1 to {model.n_context}, the model's context"
        elif not 0 <= int(row.min()) <= int(row.max()) < model.d_vocab:
            problem = f"token id {int(row.max())}; the model's vocabulary is 0 to {model.d_vocab - 1}"
        if problem:
            raise PromptError(f"a row has {problem}. Were the rows made for another model?")


def count_measured(model: LanguageModel, row: Int[Tensor, " n_pos"], skip_positions: SkipPositions) -> int:
    """Tokens of a row that are measured unless they are sinks; see `text_mask`."""
    return int(text_mask(model, row, skip_positions).sum())


@torch.no_grad()
def measure(
    model: LanguageModel,
    stand_in: StandIn,
    rows: TokenRows,
    *,
    batch_tokens: int,
    skip_positions: SkipPositions,
    progress: Progress,
) -> Measured:
    """Run the model, the model with its MLPs replaced, and the model without MLPs on every row.

    Measured tokens are those of `text_mask` that are no attention sinks. Rows are padded at their ends, which needs no
    mask: attention is causal in every supported family, so nothing before the padding sees it.

    Raises:
        PromptError: there are fewer than two measured tokens.
        ResultError: a number is not finite.
    """
    measured, n_skipped = _measured_rows(model, rows, skip_positions)
    documents, document_of_row = np.unique([rows.document[i] for i in measured], return_inverse=True)
    block_of_row = blocks_of_documents(len(documents), model.n_layers, model.d_model)[document_of_row]
    n_blocks = int(block_of_row.max()) + 1
    sums: Sums = {}
    n_firings = [torch.zeros(n, dtype=torch.int64, device=model.device) for n in stand_in.n_units]
    # fewer at once if the model's vocabulary is so large that their logits would not fit
    n_at_once = max(1, min(batch_tokens, _MOST_LOGITS // model.d_vocab))
    batches = batches_by_length([rows.rows[i] for i in measured], n_at_once, longest_first=True)
    for done, batch in enumerate(batches):
        progress("measure", done, len(batches))
        tokens = pad_rows(model, [rows.rows[measured[i]] for i in batch], skip_positions)
        of_rows = _measure_batch(model, stand_in, tokens, n_firings)
        add_to_blocks(sums, block_of_row[batch], of_rows, n_blocks=n_blocks)
    progress("measure", len(batches), len(batches))
    return Measured(sums, [n.cpu().numpy() for n in n_firings], len(documents), n_skipped)


def _measured_rows(model: LanguageModel, rows: TokenRows, skip_positions: SkipPositions) -> tuple[list[int], int]:
    """Rows with something to measure, and how many tokens of all rows are left out."""
    n_tokens = [count_measured(model, row, skip_positions) for row in rows.rows]
    if sum(n_tokens) < 2:
        raise PromptError(
            f"the text has {sum(n_tokens)} tokens besides those left out ({why_left_out(model, skip_positions)}); "
            "expected at least 2 to measure at."
        )
    return [i for i, n in enumerate(n_tokens) if n], sum(map(len, rows.rows)) - sum(n_tokens)


def _measure_batch(model: LanguageModel, stand_in: StandIn, tokens: TokenBatch, n_firings: list[Tensor]) -> Sums:
    """The sums of every row of a batch, by layer [n_rows, n_layers, ...] or not [n_rows]; adds to `n_firings`."""
    targets = _next_ids(tokens)
    run, kept = _run_model(model, stand_in, tokens)
    n_sinks = (tokens.is_trained & ~kept.is_trained).sum(1).cpu().numpy()
    tokens = kept
    targets = targets[tokens.is_trained]
    by_row = partial(_sum_rows, tokens.is_trained)
    squared_error, total, total_squared, n_active = [], [], [], []
    for layer, (out, is_active) in enumerate(stand_in.reconstruct(run.reads)):
        true_out = run.outs[layer].double()
        squared_error.append(by_row((true_out - out.double()).square().sum(-1)))
        total.append(by_row(true_out))
        total_squared.append(by_row(true_out.square().sum(-1)))
        n_active.append(by_row(is_active.sum(-1)))
        n_firings[layer] += is_active.sum(0)
    with stand_in.in_place(tokens.is_trained):
        replacement = trained_logits(model, tokens)
    kl = _in_pieces(divergence, run.logits, replacement)
    agrees = run.logits.argmax(-1) == replacement.argmax(-1)
    ce_replacement = _cross_entropy(replacement, targets)
    del replacement  # as large as the vocabulary times the batch
    with replaced_mlps(model, lambda _layer, _stream, out: out.masked_fill(tokens.is_trained[..., None], 0)):
        ce_zero = _cross_entropy(trained_logits(model, tokens), targets)
    sums = {
        "n_tokens": by_row(torch.ones_like(kl)),
        "n_sinks": n_sinks,  # which are not measured
        "squared_error": np.stack(squared_error, 1),  # of the reconstructed MLP outputs
        "total": np.stack(total, 1),  # of the MLP outputs
        "total_squared": np.stack(total_squared, 1),
        "n_active": np.stack(n_active, 1),
        "divergence": by_row(kl),  # KL(model || replacement), nats
        "n_agreeing": by_row(agrees),  # tokens after which both find the same next token most probable
        "n_targets": by_row(targets != _NO_TARGET),  # tokens whose next token is a measured one too
        "ce_model": by_row(_cross_entropy(run.logits, targets)),  # -log probability of these next tokens, nats
        "ce_replacement": by_row(ce_replacement),
        "ce_zero": by_row(ce_zero),  # with all MLP outputs zero
    }
    for name, what in _MUST_BE_FINITE.items():
        if not bool(np.isfinite(sums[name]).all()):
            weights = {**stored_weights(model.hf_model), **stand_in.weights}
            raise not_finite(what, "the model or stand-in", weights, model.dtype)
    return sums


def _run_model(model: LanguageModel, stand_in: StandIn, tokens: TokenBatch) -> tuple[_TrueRun, TokenBatch]:
    """The true run, observed, and the batch without attention sinks, whose numbers are left out."""
    reads, outs, lengths = list[Tensor](), list[Tensor](), list[Tensor]()

    def keep_read(_: int, x: Tensor) -> None:
        reads.append(x[tokens.is_trained])

    def keep_out(_: int, stream: Tensor, out: Tensor) -> Tensor:
        lengths.append(stream.float().norm(dim=-1))
        outs.append(out[tokens.is_trained])
        return out

    read_modules = [stand_in.read_module(layer) for layer in range(model.n_layers)]
    with on_input(read_modules, keep_read), replaced_mlps(model, keep_out):
        run = _TrueRun(reads, outs, trained_logits(model, tokens))
    kept = tokens.without_sinks(lengths)
    is_kept = kept.is_trained[tokens.is_trained]
    if not bool(is_kept.all()):
        run = _TrueRun([x[is_kept] for x in run.reads], [x[is_kept] for x in run.outs], run.logits[is_kept])
    return run, kept


def _next_ids(tokens: TokenBatch) -> Int[Tensor, "n_rows n_pos"]:
    """The token after each; _NO_TARGET where that is padding or BOS, and after the last."""
    following = torch.full_like(tokens.token_ids, _NO_TARGET)
    following[:, :-1] = torch.where(tokens.is_trained[:, 1:], tokens.token_ids[:, 1:], _NO_TARGET)
    return following


def _sum_rows(is_measured: Bool[Tensor, "n_rows n_pos"], values: Tensor) -> Float[np.ndarray, "n_rows ..."]:
    """Sums of numbers at measured tokens [n_tokens, ...] over each row, in float64 and in a fixed order."""
    padded = values.new_zeros(*is_measured.shape, *values.shape[1:], dtype=torch.float64)
    padded[is_measured] = values.double()
    sums: np.ndarray = padded.sum(1).cpu().numpy()
    return sums


def _in_pieces(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`compute` on a few tokens at a time, so that what it makes on the way stays small."""
    n_at_once = max(1, _COMPARED_AT_ONCE // tensors[0].shape[-1])
    pieces = zip(*(tensor.split(n_at_once) for tensor in tensors), strict=True)
    return torch.cat([compute(*piece) for piece in pieces])


def _cross_entropy(
    logits: Float[Tensor, "n_tokens d_vocab"], targets: Int[Tensor, " n_tokens"]
) -> Float[Tensor, " n_tokens"]:
    """-log probability of the targets in nats, in at least float32; 0 without a target."""

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(wide, targets, ignore_index=_NO_TARGET, reduction="none")

    return _in_pieces(compute, logits, targets)
