"""How well predicted changes agree with measured ones, with bootstrap confidence intervals."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.stats import rankdata

from attrgraph.evaluation.statistics import interval, resample
from attrgraph.graph.comparison.union import wilson_interval

# of the sum of squares: eps of float64 times the length of sums, 1e4 and more
_LEAST_VARIANCE = 1e-12
MEASURES = ("pearson", "spearman", "slope", "sign_agreement", "cosine", "normalised_error")


def agreement(
    predicted: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    group: Num[np.ndarray, " n"],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, int | float | None]:
    """Six measures of agreement, each with a 95% interval (`_low`, `_high`; None where it is undefined).

    pearson and spearman correlations; slope of measured on predicted through the origin, sum(xy) / sum(xx), below 1
    where predictions are too large; of the pairs that predict a change, the share with the same sign; cosine;
    normalised error sum((y - x)^2) / sum(y^2), 0 for perfect predictions and 1 for predicting that nothing changes.

    Args:
        predicted, measured: pairs.
        group: pairs of one group (of one experiment) are drawn together; their ranks are those of the whole sample.
        n_resamples, seed: of the bootstrap.
    """
    if not len(predicted):
        return {"n": 0} | dict.fromkeys((f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")), None)
    columns = _columns(predicted, measured)
    _, place = np.unique(group, return_inverse=True)
    by_group = {name: np.bincount(place, column) for name, column in columns.items()}
    found = _measures({name: column.sum(keepdims=True) for name, column in by_group.items()})
    drawn = _measures(resample(by_group, n_resamples=n_resamples, seed=seed))
    result: dict[str, int | float | None] = {"n": len(predicted)}
    for name in MEASURES:
        low, high = _bounds(drawn[name], len(by_group["n"]))
        value = float(found[name][0])
        result |= {name: value if np.isfinite(value) else None, f"{name}_low": low, f"{name}_high": high}
    return result


def rank_correlation(
    scores: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"], *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, int | float | None]:
    """Spearman's correlation of one ranking with another, with its interval."""
    found = agreement(scores, measured, np.arange(len(scores)), n_resamples=n_resamples, seed=seed)
    return {name: found[name] for name in ("n", "spearman", "spearman_low", "spearman_high")}


def share(is_so: Bool[np.ndarray, " n"]) -> dict[str, int | float | None]:
    """The share of cases in which something is so, with Wilson's 95% interval, which holds for 0 and 1 too.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not len(is_so):
        return {"n": 0, "share": None, "share_low": None, "share_high": None}
    low, high = (float(bound) for bound in wilson_interval(is_so.sum(), len(is_so)))
    return {"n": len(is_so), "share": float(np.mean(is_so)), "share_low": low, "share_high": high}


def _bounds(drawn: np.ndarray, n_groups: int) -> tuple[float | None, float | None]:
    """The interval; none if there is one group only, or if the measure is undefined in every resample."""
    defined = drawn[np.isfinite(drawn)]
    return (interval(defined) if n_groups > 1 and len(defined) else None) or (None, None)


def _columns(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """By pair: what is summed for the measures; products are named by their factors, ranks are X and Y."""
    one = {"x": x, "y": y, "X": rankdata(x), "Y": rankdata(y)}
    products = {a + b: one[a] * one[b] for a, b in ("xx", "yy", "xy", "XX", "YY", "XY")}
    is_signed = x != 0
    signs = {"signed": is_signed * 1.0, "same": (is_signed & (np.sign(x) == np.sign(y))) * 1.0}
    return {"n": np.ones(len(x)), "difference": (x - y) ** 2, **one, **products, **signs}


def _measures(s: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "pearson": _correlation(s, "x", "y"),
            "spearman": _correlation(s, "X", "Y"),
            "slope": s["xy"] / s["xx"],
            "sign_agreement": s["same"] / s["signed"],
            "cosine": s["xy"] / np.sqrt(s["xx"] * s["yy"]),
            "normalised_error": s["difference"] / s["yy"],
        }


def _correlation(s: Mapping[str, np.ndarray], x: str, y: str) -> np.ndarray:
    n, xx, yy = s["n"], s[x + x], s[y + y]
    var_x, var_y = n * xx - s[x] * s[x], n * yy - s[y] * s[y]
    # what is left of a vanishing variance is rounding
    is_constant = (var_x <= _LEAST_VARIANCE * n * xx) | (var_y <= _LEAST_VARIANCE * n * yy)
    return np.where(is_constant, np.nan, (n * s[x + y] - s[x] * s[y]) / np.sqrt(np.abs(var_x * var_y)))
