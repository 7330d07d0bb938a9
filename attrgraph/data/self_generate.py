"""The model's own samples as a corpus: for models whose text is not at hand."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.data.corpus import TokenRows
from attrgraph.errors import CorpusError
from attrgraph.models.cached_run import CachedRun
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.weights import stored_weights
from attrgraph.progress import Progress, shown
from attrgraph.transcoders.finite import not_finite

# The default length of samples from models with longer contexts: keys and values are kept for every token of a batch,
# and 32 samples of 512 tokens need under 4 GiB even at 4 KiB a token and layer in 48 layers.
_DEFAULT_LENGTH = 512
_SHORTEST_LENGTH = 16
# the nucleus hardly ever holds more tokens; they are found much faster than all are sorted
_MOST_PROBABLE = 512


def self_generate(
    model: LanguageModel,
    n_tokens: int,
    *,
    seed: int = 0,
    length: int | None = None,
    top_p: float = 0.95,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> TokenRows:
    """Sample documents from the model, each beginning with BOS and a row of its own.

    A sample ends before a token that ends a text (EOS, or BOS, which begins the next one), or at `length`. A model
    without BOS begins each sample with a token drawn uniformly from its vocabulary, which then counts as a token.
    Random numbers come from generators of their own on the CPU, one for each sample: the global state and PyTorch's
    default type are neither used nor changed, and the same seed and settings give the same rows on the same machine, of
    which more tokens take more.

    Args:
        n_tokens: generate at least this many, not counting BOS; samples after the one that reaches it are dropped.
        length: of the longest sample, with BOS; without it, what a batch needs to hold `n_tokens`, at least 16, at most
            512 and the model's context.
        top_p: sample from the most probable tokens that together have this probability.
        batch_size: samples at a time.
        progress: called as `progress("sample", done, n_tokens)`.

    Raises:
        CorpusError: a setting cannot work, or the model ends every text at its beginning.
        ResultError: the model's logits are not finite.
        UnsupportedModelError: as `LanguageModel.check_state`.
    """
    if length is None:
        wanted = max(_SHORTEST_LENGTH, 1 + -(-n_tokens // max(1, batch_size)))
        length = min(model.n_context, _DEFAULT_LENGTH, wanted)
    if not 2 <= length <= model.n_context:
        raise CorpusError(f"length is {length}; expected 2 to {model.n_context}, the model's context.")
    if n_tokens < 1 or batch_size < 1:
        raise CorpusError(f"n_tokens is {n_tokens} and batch_size {batch_size}; expected at least 1.")
    if not 0 < top_p <= 1:
        raise CorpusError(f"top_p is {top_p}; expected above 0 and at most 1.")
    rows: list[Tensor] = []
    n_drawn = n_done = 0
    while n_done < n_tokens:
        # as many as are still needed, if they become as long as those before
        mean = max(1.0, n_done / n_drawn) if n_drawn else length - 1
        n = min(batch_size, math.ceil((n_tokens - n_done) / mean))
        made = partial(_report, shown(progress), n_done, n, n_tokens)
        drawn = [row for row in _sample(model, _draws(seed, n_drawn, n, length), top_p, made) if len(row) > 1]
        n_drawn += n
        if not (drawn or rows) and n_drawn >= batch_size:
            raise CorpusError(
                f"the model ended all of {n_drawn} samples at their first token; it does not write text by itself, "
                "so give it a corpus."
            )
        for row in drawn:
            if n_done < n_tokens:
                rows.append(row)
                n_done += len(row) - 1
    samples = TokenRows(rows, list(range(len(rows))), {})
    return replace(samples, sources={"self-generated": samples.digest()})


def _draws(seed: int, start: int, n: int, length: int) -> Float[Tensor, "length n"]:
    """What decides about the tokens of samples `start` to `start + n - 1`, whatever batch they are in."""
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(start, start + n))
    return torch.stack([torch.rand(length, generator=each, dtype=torch.float32) for each in generators], 1)


def _report(progress: Progress, n_before: int, n_rows: int, n_tokens: int, length: int) -> None:
    progress("sample", min(n_before + n_rows * length, n_tokens), n_tokens)


@torch.no_grad()
def _sample(
    model: LanguageModel, draws: Float[Tensor, "length batch"], top_p: float, made: Callable[[int], None]
) -> Iterator[Tensor]:
    """One batch of samples, each cut before the first token that ends it.

    `generate` is not used: it fills what it is not told from the model's own generation settings (top-k 50, a
    repetition penalty, ...), which differ from model to model and would bend the samples away from its distribution.
    """
    ends = torch.tensor(sorted(_ends(model)), dtype=torch.int64)
    bos, read = model.bos_token_id, CachedRun(model)
    columns = [(draws[0] * model.d_vocab).long() if bos is None else torch.full((draws.shape[1],), bos)]
    is_over = torch.zeros(draws.shape[1], dtype=torch.bool)
    while len(columns) < len(draws) and not bool(is_over.all()):
        logits = read(columns[-1][:, None].to(model.device))
        if read.is_stale:
            read = CachedRun(model)
            logits = read(torch.stack(columns, dim=1).to(model.device))
        if not bool(torch.isfinite(logits).all()):
            raise not_finite("the model's logits", "the model", stored_weights(model.hf_model), logits.dtype)
        columns.append(_draw(logits.float(), top_p, draws[len(columns)]))
        made(len(columns) - 1)
        is_over |= torch.isin(columns[-1], ends)
    for row in torch.stack(columns, dim=1):
        end = torch.isin(row[1:], ends).nonzero()
        yield row[: 1 + int(end[0])].clone() if len(end) else row.clone()


def _draw(
    logits: Float[Tensor, "batch d_vocab"], top_p: float, draws: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """For each row the token at which the nucleus's cumulative probability passes the draw's share of it."""
    probabilities, tokens = logits.softmax(-1).topk(min(_MOST_PROBABLE, logits.shape[-1]))
    if bool((probabilities.sum(-1) < top_p).any()):
        probabilities, tokens = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    n_kept = ((cumulative - probabilities) < top_p).sum(-1, keepdim=True)  # [batch, 1], at least 1
    targets = draws.to(logits.device)[:, None] * cumulative.gather(1, n_kept - 1)
    chosen = torch.searchsorted(cumulative, targets, right=True).minimum(n_kept - 1)  # rounding could pass the end
    return tokens.gather(1, chosen)[:, 0].cpu()


def _ends(model: LanguageModel) -> set[int]:
    """Tokens that end a text: EOS of the model and of its tokenizer, and BOS."""
    ends = {model.bos_token_id, getattr(model.tokenizer, "eos_token_id", None)}
    for config in (model.config, model.hf_model.generation_config):
        eos = getattr(config, "eos_token_id", None)
        ends.update(eos if isinstance(eos, list) else [eos])
    return {token for token in ends if token is not None}
