"""How much of a behaviour the most important heads and MLPs do alone, and how good a ranking of them is.

    f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty))

m is the mean metric over prompts, C_k the model in which all but the first share k of a ranking are replaced, and empty
the one in which all of them are. Where values are taken from another run, that is this run, embeddings included, which
otherwise belong to every circuit. Areas are by the trapezoid rule over k, or over log k and divided by its range:

    CPR = area of f, as large as possible          CMD = area of |1 - f|, as small as possible

Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark", arxiv.org/abs/2504.13151
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from attrgraph.circuits.circuit_runs import CircuitRuns
from attrgraph.circuits.rankings import (
    Order,
    kinds_ranked,
    matched,
    order_of,
    scores_of_method,
    scores_of_table,
    sets_of,
)
from attrgraph.circuits.replacing import Metric
from attrgraph.errors import AttrGraphError, ResultError, checked, is_real, whole_number
from attrgraph.evaluation.statistics import interval, resample
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress, shown
from attrgraph.prompts.prompt_pairs import PromptPair

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_AREAS = ("cpr", "cmd", "cpr_log", "cmd_log")
_N_RESAMPLES = 1000
# of the metric: a smaller difference between the whole model and none of it is rounding
_LEAST_DIFFERENCE = 1e-6


@dataclass(frozen=True)
class Faithfulness:
    """What circuits of growing size do; see the module."""

    # k, n (components kept), faithfulness, low, high (95% over prompts), accuracy (share of prompts answered right)
    curve: pd.DataFrame
    cpr: float
    cmd: float
    cpr_log: float
    cmd_log: float
    # ranking, and of each area the mean and 95%: over prompts, or of random rankings over draws
    baselines: pd.DataFrame
    curves: pd.DataFrame  # the curve's columns for the ranking and the baselines that are not random
    nodes: list[str]  # in the order of the ranking
    n_pairs: int
    full: float  # mean metric of the whole model
    empty: float  # and of what is left if all is replaced
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"Faithfulness({self.settings['ranking']}: CPR {self.cpr:.3f}, CMD {self.cmd:.3f}; {self.n_pairs} pairs)"

    def circuit(self, n: int) -> list[str]:
        """The first `n` nodes, as `check_circuit` takes them."""
        return self.nodes[:n]


@checked
def faithfulness(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    ranking: "pd.DataFrame | str" = "attribution",
    metric: Metric = "logit-difference",
    ablation: str = "counterfactual",
    absolute: bool = False,
    shares: Sequence[float] = SHARES,
    baselines: Sequence[str] = ("activation", "direct", "attribution"),
    n_random: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Faithfulness:
    """How much of a behaviour the first components of a ranking do alone, for circuits of growing size.

    Args:
        model: a language model; transcoders are not needed.
        pairs: of `prompts_of`, or your own.
        ranking: a table of `patch` with heads, MLPs or both: the rest stays as it is. Effects are summed over
            positions, and larger ones come first. Or a method: exact, attribution, direct (through the stream alone) or
            activation; see `rankings`.
        metric: logit-difference, probability, or a function of logits and pairs; see `replacing.measured`.
        ablation: counterfactual, resample, mean or zero; see `CircuitRuns`.
        absolute: rank by size, without sign, as is best for CMD; with sign is best for CPR.
        shares: of the components, rounded down to whole ones.
        baselines: methods to compare with.
        n_random: random rankings, and as many that keep the ranking's layers.
        seed: of what is drawn.
        progress: is told of rankings.

    Raises:
        InterventionError: a ranking, a metric or an ablation that there is not.
        PromptError: no pairs, or too few of one length for mean and resample.
        ResultError: the metric is the same with everything replaced.
    """
    at, n_random = _checked_shares(shares), whole_number("n_random", n_random, least=0)
    runs = CircuitRuns(model, pairs, kinds=kinds_ranked(ranking), metric=metric, ablation=ablation, seed=seed)
    is_table = isinstance(ranking, pd.DataFrame)
    scores = scores_of_table(ranking, runs.parts) if is_table else scores_of_method(ranking, runs)
    sweep, order = _Sweep(runs, at, absolute=absolute), order_of(scores, absolute=absolute)
    curve, areas = sweep.curve(order)
    compared, curves = _baselines(sweep, order, baselines, n_random, np.random.default_rng(seed), shown(progress))
    name = "table" if is_table else ranking
    return Faithfulness(
        curve=curve,
        **dict(zip(_AREAS, areas[0].tolist(), strict=True)),
        baselines=compared,
        curves=pd.concat([curve.assign(ranking=name), *curves], ignore_index=True),
        nodes=[runs.parts[i].name for i in order],
        n_pairs=len(runs.pairs),
        full=float(sweep.full.mean()),
        empty=float(sweep.empty.mean()),
        settings={"ranking": name, "metric": metric, "ablation": ablation, "absolute": absolute, "seed": seed},
    )


def _baselines(
    sweep: "_Sweep", order: Order, methods: Sequence[str], n_random: int, rng: np.random.Generator, tell: Progress
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Areas of other rankings, and the curves of those that are not random."""
    rows, curves, done, n = list[dict[str, Any]](), list[pd.DataFrame](), 0, len(methods) + 2 * n_random
    for method in methods:
        tell("faithfulness", done, n)
        curve, areas = sweep.curve(order_of(scores_of_method(method, sweep.runs), absolute=sweep.absolute))
        rows.append({"ranking": method, **_summary(areas[0], areas[1:])})
        curves.append(curve.assign(ranking=method))
        done += 1
    for kind in ("random", "matched random") if n_random else ():
        draws = list[np.ndarray]()
        for _ in range(n_random):
            tell("faithfulness", done, n)
            is_free = kind == "random"
            draws.append(sweep.areas(rng.permutation(order) if is_free else matched(order, sweep.runs.parts, rng)))
            done += 1
        rows.append({"ranking": kind, **_summary(np.mean(draws, axis=0), np.array(draws))})
    tell("faithfulness", n, n)
    return pd.DataFrame(rows), curves


def _checked_shares(shares: Sequence[float]) -> Float[np.ndarray, " n_shares"]:
    at = list(shares)
    if len(at) < 2 or not all(is_real(k) and 0 <= k <= 1 for k in at) or any(a >= b for a, b in pairwise(at)):
        raise AttrGraphError(f"shares are {at!r:.80}; expected at least two growing numbers from 0 to 1.")
    return np.array(at, dtype=float)


class _Sweep:
    """Circuits of several sizes of any order."""

    def __init__(self, runs: CircuitRuns, shares: Float[np.ndarray, " n_shares"], *, absolute: bool) -> None:
        self.runs, self.shares, self.absolute = runs, shares, absolute
        # what is a whole number but for rounding counts as one
        self.sizes = [int(k * runs.n_parts + 1e-9) for k in shares]
        self.different = sorted(set(self.sizes) - {0, runs.n_parts})
        self.ends = runs.measure(sets_of(np.arange(runs.n_parts), [0, runs.n_parts]))
        self.empty, self.full = self.ends.metric
        if abs(self.full.mean() - self.empty.mean()) <= _LEAST_DIFFERENCE * max(1.0, abs(self.full.mean())):
            raise ResultError(
                f"the metric is {self.full.mean():.6g} in the whole model and with all components replaced; are the "
                "answers those of these prompts?"
            )

    def _measure(self, order: Order) -> tuple[np.ndarray, np.ndarray]:
        """[n_shares, n_pairs]: metric, and whether the answer is right."""
        found = self.runs.measure(sets_of(order, self.different))
        metric = dict(zip([0, *self.different, self.runs.n_parts], [self.empty, *found.metric, self.full], strict=True))
        right = [self.ends.is_right[0], *found.is_right, self.ends.is_right[1]]
        is_right = dict(zip(metric, right, strict=True))
        return np.stack([metric[n] for n in self.sizes]), np.stack([is_right[n] for n in self.sizes])

    def areas(self, order: Order) -> Float[np.ndarray, " 4"]:
        return areas_of(self.shares, self._faithful(self._measure(order)[0].mean(1)))

    def _faithful(self, metric: np.ndarray, full: Any = None, empty: Any = None) -> np.ndarray:
        full, empty = self.full.mean() if full is None else full, self.empty.mean() if empty is None else empty
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((metric - empty) / (full - empty))

    def curve(self, order: Order) -> tuple[pd.DataFrame, Float[np.ndarray, "n 4"]]:
        """f at every share with intervals, and the areas, first of all prompts, then of resamples of them."""
        metric, is_right = self._measure(order)
        found = self._faithful(metric.mean(1))
        columns = {"metric": metric.T, "full": self.full, "empty": self.empty}
        drawn = resample(columns, n_resamples=_N_RESAMPLES, seed=0)
        each = self._faithful(
            drawn["metric"], drawn["full"][:, None], drawn["empty"][:, None]
        )  # [n_resamples, n_shares]
        ends = [interval(each[:, i]) or (np.nan, np.nan) for i in range(len(self.shares))]
        table = pd.DataFrame(
            {
                "k": self.shares,
                "n": self.sizes,
                "faithfulness": found,
                "low": [low for low, _ in ends],
                "high": [high for _, high in ends],
                "accuracy": is_right.mean(1),
            }
        )
        return table, np.stack([areas_of(self.shares, f) for f in (found, *each)])


def areas_of(shares: Float[np.ndarray, " n_shares"], f: Float[np.ndarray, " n_shares"]) -> Float[np.ndarray, " 4"]:
    """CPR and CMD over k, and over log k, which leaves out k = 0 and is divided by its range."""
    positive = shares > 0
    logs = np.log(shares[positive])
    log_range = logs[-1] - logs[0] if len(logs) > 1 else np.nan
    of_k = [np.trapezoid(y, shares) for y in (f, np.abs(1 - f))]
    of_log = [np.trapezoid(y[positive], logs) / log_range for y in (f, np.abs(1 - f))]
    return np.array([*of_k, *of_log])


def _summary(found: Float[np.ndarray, " 4"], drawn: Float[np.ndarray, "n 4"]) -> dict[str, float]:
    row = dict[str, float]()
    for i, name in enumerate(_AREAS):
        low, high = interval(drawn[:, i]) or (np.nan, np.nan)
        row |= {name: float(found[i]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
