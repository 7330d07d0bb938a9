"""One pass over a text: what a stand-in for the MLPs gets wrong, summed by document."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attrgraph.data.activations import TokenBatch, pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import PromptError, ResultError
from attrgraph.evaluation.batches import (
    NO_TARGET,
    affordable_tokens,
    count_measured,
    index_batches,
    next_ids,
)
from attrgraph.evaluation.stand_ins import StandIn
from attrgraph.evaluation.statistics import Sums, blocks_of_documents
from attrgraph.models.hooks import on_input
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import ReplaceMlp, replaced_mlps
from attrgraph.models.live_replacement import divergence
from attrgraph.progress import Progress

# numbers in one of the arrays that comparing distributions makes
_COMPARED_AT_ONCE = 2**24


@dataclass(frozen=True)
class Measured:
    """What one pass over a text gives."""

    sums: Sums  # by block of documents
    n_firings: list[Int[np.ndarray, " n_units"]]  # by layer: tokens on which each unit was active
    n_documents: int  # with at least one measured token


@dataclass(frozen=True)
class _TrueRun:
    """What the model does at a batch's measured tokens."""

    reads: list[Tensor]  # by layer, whatever the stand-in reads: [n_tokens, d_read]
    outs: list[Float[Tensor, "n_tokens d_model"]]  # by layer, what the MLP branch adds to the stream
    logits: Float[Tensor, "n_tokens d_vocab"]


@torch.no_grad()
def measure(
    model: LanguageModel, stand_in: StandIn, rows: TokenRows, *, batch_tokens: int, progress: Progress
) -> Measured:
    """Run the model, the model with its MLPs replaced, and the model without MLPs on every row.

    Measured tokens are all but BOS and padding. Rows are padded at their ends, which needs no mask: attention is causal
    in every supported family, so nothing before the padding sees it.

    Raises:
        PromptError: there are fewer than two measured tokens.
        ResultError: a number is not finite.
    """
    measured = _measured_rows(model, rows)
    documents, document_of_row = np.unique([rows.document[i] for i in measured], return_inverse=True)
    block_of_row = blocks_of_documents(len(documents), model.n_layers, model.d_model)[document_of_row]
    sums = Sums.zeros(int(block_of_row.max()) + 1, model.n_layers, model.d_model)
    n_firings = [torch.zeros(n, dtype=torch.int64, device=model.device) for n in stand_in.n_units]
    batches = index_batches([rows.rows[i] for i in measured], affordable_tokens(model, batch_tokens))
    for done, batch in enumerate(batches):
        progress("measure", done, len(batches))
        tokens = pad_rows(model, [rows.rows[measured[i]] for i in batch])
        sums.add(block_of_row[batch], _measure_batch(model, stand_in, tokens, n_firings))
    progress("measure", len(batches), len(batches))
    return Measured(sums, [n.cpu().numpy() for n in n_firings], len(documents))


def _measured_rows(model: LanguageModel, rows: TokenRows) -> list[int]:
    """Rows with something to measure."""
    n_tokens = [count_measured(model, row) for row in rows.rows]
    if sum(n_tokens) < 2:
        raise PromptError(f"the text has {sum(n_tokens)} tokens besides BOS; expected at least 2 to measure at.")
    return [i for i, n in enumerate(n_tokens) if n]


def _measure_batch(model: LanguageModel, stand_in: StandIn, tokens: TokenBatch, n_firings: list[Tensor]) -> Sums:
    """The sums of every row of a batch; adds to `n_firings`."""
    run = _run_model(model, stand_in, tokens)
    by_row = _RowSums(tokens.is_trained)
    squared_error, total, total_squared, n_active = [], [], [], []
    for layer, (out, is_active) in enumerate(stand_in.reconstruct(run.reads)):
        true_out = run.outs[layer].double()
        squared_error.append(by_row((true_out - out.double()).square().sum(-1)))
        total.append(by_row(true_out))
        total_squared.append(by_row(true_out.square().sum(-1)))
        n_active.append(by_row(is_active.sum(-1)))
        n_firings[layer] += is_active.sum(0)
    targets = next_ids(tokens)[tokens.is_trained]
    with stand_in.in_place(tokens.is_trained):
        replacement = _logits(model, tokens)
    kl, agrees = _compare(run.logits, replacement)
    ce_replacement = _cross_entropy(replacement, targets)
    del replacement  # as large as the vocabulary times the batch
    with replaced_mlps(model, _zeros(tokens.is_trained)):
        ce_zero = _cross_entropy(_logits(model, tokens), targets)
    sums = Sums(
        n_tokens=by_row(torch.ones_like(kl)),
        squared_error=np.stack(squared_error, 1),
        total=np.stack(total, 1),
        total_squared=np.stack(total_squared, 1),
        n_active=np.stack(n_active, 1),
        divergence=by_row(kl),
        n_agreeing=by_row(agrees),
        n_targets=by_row(targets != NO_TARGET),
        ce_model=by_row(_cross_entropy(run.logits, targets)),
        ce_replacement=by_row(ce_replacement),
        ce_zero=by_row(ce_zero),
    )
    _check_finite(sums)
    return sums


def _run_model(model: LanguageModel, stand_in: StandIn, tokens: TokenBatch) -> _TrueRun:
    """The true run, observed."""
    reads: dict[int, Tensor] = {}
    outs: dict[int, Tensor] = {}

    def keep_read(layer: int, x: Tensor) -> None:
        reads[layer] = x[tokens.is_trained]

    def keep_out(layer: int, _: Tensor, out: Tensor) -> Tensor:
        outs[layer] = out[tokens.is_trained]
        return out

    layers = range(model.n_layers)
    with (
        on_input([stand_in.read_module(layer) for layer in layers], keep_read),
        replaced_mlps(model, keep_out),
    ):
        logits = _logits(model, tokens)
    return _TrueRun([reads[layer] for layer in layers], [outs[layer] for layer in layers], logits)


def _logits(model: LanguageModel, tokens: TokenBatch) -> Float[Tensor, "n_tokens d_vocab"]:
    """At measured tokens."""
    return model.logits(tokens.token_ids)[tokens.is_trained]


def _zeros(is_replaced: Bool[Tensor, "n_rows n_pos"]) -> ReplaceMlp:
    """MLPs that write nothing at the chosen tokens."""

    def replace(_: int, __: Tensor, out: Tensor) -> Tensor:
        return out.masked_fill(is_replaced[..., None], 0)

    return replace


class _RowSums:
    """Sums numbers at measured tokens over each row, in float64 and in a fixed order."""

    def __init__(self, is_measured: Bool[Tensor, "n_rows n_pos"]) -> None:
        self._is_measured = is_measured

    def __call__(self, values: Tensor) -> Float[np.ndarray, "n_rows ..."]:
        """[n_tokens, ...] to [n_rows, ...]."""
        padded = values.new_zeros(*self._is_measured.shape, *values.shape[1:], dtype=torch.float64)
        padded[self._is_measured] = values.double()
        sums: np.ndarray = padded.sum(1).cpu().numpy()
        return sums


def _in_pieces(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`compute` on a few tokens at a time, so that what it makes on the way stays small; logits in at least float32."""
    n_at_once = max(1, _COMPARED_AT_ONCE // tensors[0].shape[-1])
    pieces = zip(*(tensor.split(n_at_once) for tensor in tensors), strict=True)
    return torch.cat([compute(*(_widened(x) for x in piece)) for piece in pieces])


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


def _compare(
    logits: Float[Tensor, "n_tokens d_vocab"], others: Float[Tensor, "n_tokens d_vocab"]
) -> tuple[Float[Tensor, " n_tokens"], Bool[Tensor, " n_tokens"]]:
    """KL(model || other) in nats, and whether both find the same token most probable."""
    return _in_pieces(divergence, logits, others), logits.argmax(-1) == others.argmax(-1)


def _cross_entropy(
    logits: Float[Tensor, "n_tokens d_vocab"], targets: Int[Tensor, " n_tokens"]
) -> Float[Tensor, " n_tokens"]:
    """-log probability of the targets in nats; 0 without a target."""

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="none")

    return _in_pieces(compute, logits, targets)


def _check_finite(sums: Sums) -> None:
    columns: Sequence[tuple[str, np.ndarray]] = [
        ("MLP outputs", sums.total_squared),
        ("reconstructions", sums.squared_error),
        ("the model's answers", sums.ce_model),
        ("the answers with MLPs replaced", sums.divergence),
        ("the answers with MLPs replaced", sums.ce_replacement),
        ("the answers without MLPs", sums.ce_zero),
    ]
    for what, values in columns:
        if not bool(np.isfinite(values).all()):
            raise ResultError(f"{what} are not finite; weights hold NaN, or the dtype overflows: try float32.")
