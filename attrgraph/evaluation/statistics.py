"""From sums over documents to measures, and to their confidence intervals without a second pass over the text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

# Sums of MLP outputs are kept for every block of documents; above this size several documents share a block.
MOST_BYTES_OF_SUMS = 2**28
# log10 of the share of tokens on which a feature is active; the lowest bin also holds anything rarer
DENSITY_EDGES = np.linspace(-8.0, 0.0, 17)
_INTERVAL = (2.5, 97.5)  # percentiles
# Of the sum of squares: where the deviation from the mean is smaller, it is rounding of float32 outputs, no variance.
_LEAST_VARIANCE = 1e-12
# elements of the matrix that says how often each resample holds each block
_MOST_WEIGHTS = 2**24


# By name, sums over the measured tokens of each part of a text, in float64; `measure` says which. The underscore: in
# one call there may be sums of rows and of blocks.
Sums = dict[str, Num[np.ndarray, "_n_parts ..."]]


def add_to_blocks(sums: Sums, block_of_row: Int[np.ndarray, " n_rows"], of_rows: Sums, *, n_blocks: int) -> None:
    """Add the sums of rows to those of the blocks that the rows are in, in place; names that are new begin at 0."""
    for name, values in of_rows.items():
        if name not in sums:
            sums[name] = np.zeros((n_blocks, *values.shape[1:]))
        for block, of_row in zip(block_of_row, values, strict=True):  # np.add.at is far slower on wide arrays
            sums[name][block] += of_row


def with_deviation(sums: Sums) -> Sums:
    """The sums with `deviation`, the squared deviation of the MLP outputs from their mean, in place of `total`.

    The mean is that of all parts, in every resample too: it moves by one part in n_tokens of the variance, the errors
    by far more.
    """
    rest = {name: values for name, values in sums.items() if name != "total"}
    mean = sums["total"].sum(0) / sums["n_tokens"].sum()  # [n_layers, d_model]
    around = np.einsum("nld,ld->nl", sums["total"], mean)
    rest["deviation"] = sums["total_squared"] - 2 * around + sums["n_tokens"][:, None] * (mean**2).sum(-1)
    return rest


def blocks_of_documents(n_documents: int, n_layers: int, d_model: int) -> Int[np.ndarray, " n_documents"]:
    """The block of each document: its own, or one that it shares with its neighbours where sums would not fit."""
    n_blocks = min(n_documents, max(2, MOST_BYTES_OF_SUMS // (8 * n_layers * d_model)))
    return np.arange(n_documents) * n_blocks // n_documents


def measures(
    sums: Mapping[str, Num[np.ndarray, "n_texts ..."]],
) -> dict[str, Float[np.ndarray, "n_texts ..."]]:
    """Measures from sums with `deviation`, for many texts at once: a text and resamples of it.

    A measure whose denominator vanishes is not finite: NMSE of outputs that do not vary, cross-entropy without targets.
    """
    n_tokens, n_targets = sums["n_tokens"], sums["n_targets"]
    varies = sums["deviation"] > _LEAST_VARIANCE * sums["total_squared"]
    with np.errstate(divide="ignore", invalid="ignore"):
        nmse = np.where(varies, sums["squared_error"] / sums["deviation"], np.nan)
        l0 = sums["n_active"] / n_tokens[:, None]
        ce_model, ce, ce_zero = (sums[name] / n_targets for name in ("ce_model", "ce_replacement", "ce_zero"))
        return {
            "nmse_by_layer": nmse,
            "l0_by_layer": l0,
            "nmse": nmse.mean(-1),
            "l0": l0.sum(-1),
            "top1_agreement": sums["n_agreeing"] / n_tokens,
            "kl": sums["divergence"] / n_tokens,
            "ce": ce,
            "ce_model": ce_model,
            "ce_zero_ablation": ce_zero,
            "ce_recovered": (ce_zero - ce) / (ce_zero - ce_model),
        }


def resample(
    columns: Mapping[str, Num[np.ndarray, "n ..."]], *, n_resamples: int, seed: int
) -> dict[str, Float[np.ndarray, "n_resamples ..."]]:
    """Sums of `columns` over parts drawn with replacement, as many as there are."""
    n = len(next(iter(columns.values())))
    generator = np.random.default_rng(seed)
    n_at_once = max(1, _MOST_WEIGHTS // n)
    sums: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for start in range(0, n_resamples, n_at_once):
        size = min(n_at_once, n_resamples - start)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        for name, column in columns.items():
            sums[name].append(counts @ column)
    return {name: np.concatenate(parts) for name, parts in sums.items()}


def interval(resampled: Float[np.ndarray, " n_resamples"]) -> tuple[float, float] | None:
    """The bootstrap's 95% percentile interval; None if a resample left the measure undefined.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if not bool(np.isfinite(resampled).all()):
        return None
    low, high = np.percentile(resampled, _INTERVAL)
    return float(low), float(high)


@dataclass(frozen=True)
class Density:
    """How many features are active how often."""

    n_never: int
    counts: Int[np.ndarray, " n_bins"]  # by log10 of the share of tokens, between `DENSITY_EDGES`

    @staticmethod
    def of(n_firings: Int[np.ndarray, " n_features"], n_tokens: int) -> "Density":
        """From the number of tokens on which each feature was active."""
        n_fired = n_firings[n_firings > 0]
        log_share = np.log10(n_fired / n_tokens).clip(DENSITY_EDGES[0])
        counts, _ = np.histogram(log_share, DENSITY_EDGES)
        return Density(int((n_firings == 0).sum()), counts)
