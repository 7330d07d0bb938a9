"""Is a circuit needed, is it enough, and does what was left out of it really not matter?

- without circuit: it is replaced. If it is needed, answers break;
- without matched: the same number of other components of the same kind, from the same layers or the nearest ones;
- circuit alone: all the rest is replaced. If it is enough, answers stay;
- worst removal: the part of the rest whose replacement does most harm, found step by step: each time, the component
  is added to it that lowers the metric most, among the 8 that a gradient says are worst. A circuit that leaves
  nothing out loses nothing by it. There may be worse ones that the search does not find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from attrgraph.circuits.circuit_runs import CircuitRuns
from attrgraph.circuits.replacing import Metric, Part, part_called
from attrgraph.errors import InterventionError, ResultError, checked, whole_number
from attrgraph.evaluation.statistics import interval, resample
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress, shown
from attrgraph.prompts.prompt_pairs import PromptPair

_N_RESAMPLES = 1000
# In the search for the worst removal: of the components that a gradient says are worst, how many are tried.
_N_TRIED = 8


@dataclass(frozen=True)
class CircuitCheck:
    """What is left of the answers that the model gets right, with parts of it replaced."""

    # A row a test: test, n (components replaced), faithfulness, broken (share of right answers that are no longer
    # right), and 95% of both: over prompts, of matched components over draws
    table: pd.DataFrame
    circuit: list[str]
    worst: list[str]  # of the components outside, those whose removal together does most harm; as far as was searched
    n_right: int  # pairs that the model gets right, which the shares are of
    n_pairs: int
    settings: dict[str, Any]

    def __repr__(self) -> str:
        rows = self.table.set_index("test")
        kept, needed = rows.loc["circuit alone"], rows.loc["without circuit"]
        return (
            f"CircuitCheck({len(self.circuit)} components: faithfulness alone {kept['faithfulness']:.3f}, without them "
            f"{needed['broken']:.0%} of {self.n_right} right answers break)"
        )


@checked
def check_circuit(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    circuit: Sequence[str],
    *,
    metric: Metric = "logit-difference",
    ablation: str = "counterfactual",
    n_matched: int = 20,
    most_removed: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CircuitCheck:
    """Test a circuit by replacing it, all the rest, others like it, and the worst part of the rest; see the module.

    Take other pairs than those by which the circuit was found, such as those of another seed.

    Args:
        model: a language model; transcoders are not needed.
        pairs: of `prompts_of`, or your own.
        circuit: names of heads and MLPs, such as "head:2.0" and "mlp:1". If it has heads only, MLPs stay as they are in
            all tests, and likewise heads if it has MLPs only.
        metric, ablation: as for `faithfulness`.
        n_matched: how many sets are drawn.
        most_removed: how many components the search replaces at most; None for as many as there are.
        seed: of what is drawn.
        progress: is told of tests.

    Raises:
        InterventionError: a component that the model does not have, or none.
        ResultError: the model gets none of the answers right, or the metric does not depend on components.
        PromptError: as for `faithfulness`.
    """
    n_matched = whole_number("n_matched", n_matched, least=1, error=InterventionError)
    kinds = [kind for kind in ("head", "mlp") if any(str(name).startswith(f"{kind}:") for name in circuit)]
    runs = CircuitRuns(model, pairs, kinds=kinds or ["head"], metric=metric, ablation=ablation, seed=seed)
    inside = _places(circuit, runs.parts)
    tell, rng = shown(progress), np.random.default_rng(seed)
    tell("check", 0, 3)
    others = [_matched(inside, runs.parts, rng) for _ in range(n_matched)]
    kept = np.stack([np.zeros_like(inside), ~np.zeros_like(inside), inside, ~inside, *(~other for other in others)])
    tests = _Tests(runs, kept)
    tell("check", 1, 3)
    removed = worst_removal(runs, inside, len(inside) if most_removed is None else most_removed)
    tell("check", 2, 3)
    worst = _Tests(runs, np.stack([kept[0], kept[1], ~removed]))
    rows = [
        tests.row("without circuit", 3, int(inside.sum())),
        tests.row_of_draws("without matched", range(4, len(kept)), int(others[0].sum())),
        tests.row("circuit alone", 2, int((~inside).sum())),
        worst.row("worst removal", 2, int(removed.sum())),
    ]
    tell("check", 3, 3)
    return CircuitCheck(
        table=pd.DataFrame(rows),
        circuit=[runs.parts[i].name for i in np.flatnonzero(inside)],
        worst=[runs.parts[i].name for i in np.flatnonzero(removed)],
        n_right=int(tests.was_right.sum()),
        n_pairs=len(runs.pairs),
        settings={"ablation": ablation, "kinds": kinds, "n_matched": n_matched, "seed": seed},
    )


def _places(circuit: Sequence[str], parts: Sequence[Part]) -> Bool[np.ndarray, " n_parts"]:
    """Which components are named."""
    inside = np.zeros(len(parts), dtype=bool)
    inside[[part_called(name, parts) for name in circuit]] = True
    if not inside.any():
        raise InterventionError("the circuit has no components; name some, such as head:2.0 and mlp:1.")
    return inside


class _Tests:
    """Sets of components that are kept; the first is none of them, the second all."""

    def __init__(self, runs: CircuitRuns, kept: Bool[np.ndarray, "n_sets n_parts"]) -> None:
        self.answers = runs.measure(kept)
        self.empty, self.full = self.answers.metric[:2]
        self.was_right = self.answers.is_right[1]
        if not self.was_right.any():
            raise ResultError("the model gets none of the answers right, so that none can break; give other pairs.")
        if self.full.mean() == self.empty.mean():
            raise ResultError(
                "the metric is the same with all components replaced; are the answers those of the pairs?"
            )

    def _faithful(self, index: int) -> float:
        gap = self.full.mean() - self.empty.mean()
        return float((self.answers.metric[index].mean() - self.empty.mean()) / gap)

    def _broken(self, index: int) -> Float[np.ndarray, " n_pairs"]:
        return np.asarray(self.was_right & ~self.answers.is_right[index], dtype=float)

    def row(self, test: str, index: int, n: int) -> dict[str, Any]:
        """With intervals over prompts."""
        columns = {
            "set": self.answers.metric[index],
            "full": self.full,
            "empty": self.empty,
            "broken": self._broken(index),
            "right": self.was_right.astype(float),
        }
        drawn = resample(columns, n_resamples=_N_RESAMPLES, seed=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            f = (drawn["set"] - drawn["empty"]) / (drawn["full"] - drawn["empty"])
            broken = drawn["broken"] / drawn["right"]
        share = float(columns["broken"].sum() / self.was_right.sum())
        return _row(test, n, self._faithful(index), interval(f), share, interval(broken))

    def row_of_draws(self, test: str, indexes: range, n: int) -> dict[str, Any]:
        """The mean over several sets, with intervals over them."""
        f = np.array([self._faithful(i) for i in indexes])
        broken = np.array([self._broken(i).sum() / self.was_right.sum() for i in indexes])
        return _row(test, n, float(f.mean()), interval(f), float(broken.mean()), interval(broken))


def _row(test: str, n: int, f: float, of_f: Any, broken: float, of_broken: Any) -> dict[str, Any]:
    (low, high), (broken_low, broken_high) = (ends or (np.nan, np.nan) for ends in (of_f, of_broken))
    row: dict[str, Any] = {"test": test, "n": n, "faithfulness": f, "low": low, "high": high}
    return row | {"broken": broken, "broken_low": broken_low, "broken_high": broken_high}


def _matched(
    inside: Bool[np.ndarray, " n_parts"], parts: Sequence[Part], rng: np.random.Generator
) -> Bool[np.ndarray, " n_parts"]:
    """As many components outside, each of the kind and, as far as there are such, of the layer of one inside."""
    found = np.zeros_like(inside)
    for i in rng.permutation(np.flatnonzero(inside)).tolist():
        left = [j for j in np.flatnonzero(~inside & ~found).tolist() if parts[j].kind == parts[i].kind]
        if left:
            distance = np.array([abs(parts[j].layer - parts[i].layer) for j in left])
            found[rng.choice(np.array(left)[distance == distance.min()])] = True
    return found


def worst_removal(runs: CircuitRuns, inside: Bool[np.ndarray, " n_parts"], most: int) -> Bool[np.ndarray, " n_parts"]:
    """The components outside whose removal together lowers the metric most, as far as steps of one find them.

    The whole rest is tried too.
    """
    kept, lowest = np.ones_like(inside), float("inf")
    path = [kept]
    for _ in range(min(most, int((~inside).sum()))):
        harm = np.where(kept & ~inside, runs.harm(kept), -np.inf)
        tried = [i for i in np.argsort(-harm, kind="stable")[:_N_TRIED] if np.isfinite(harm[i])]
        sets = np.stack([kept & (np.arange(len(kept)) != i) for i in tried])
        metric = runs.measure(sets).metric.mean(1)
        best = int(metric.argmin())
        if metric[best] >= lowest:
            break
        kept, lowest = sets[best], float(metric[best])
        path.append(kept)
    candidates = np.stack(path if most < int((~inside).sum()) else [*path, inside])
    metric = runs.measure(candidates).metric.mean(1)
    return np.asarray(~candidates[int(metric.argmin())])
