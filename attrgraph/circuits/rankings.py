"""Orders of heads and MLPs, the most important first: of a table, by a method, or by chance."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from attrgraph.circuits.circuit_runs import CircuitRuns
from attrgraph.circuits.replacing import PART_KINDS, Part
from attrgraph.errors import InterventionError

METHODS = ("exact", "attribution", "direct", "activation")
_NEEDED = ("kind", "layer", "head", "effect")

Order = Int[np.ndarray, " n_parts"]


def kinds_ranked(ranking: "pd.DataFrame | str") -> list[str]:
    """Which kinds of components a table ranks; of a method, all.

    Raises:
        InterventionError: not a table of `patch`, or one without heads and MLPs.
    """
    if isinstance(ranking, str):
        return list(PART_KINDS)
    missing = [name for name in _NEEDED if name not in ranking.columns]
    if missing:
        raise InterventionError(f"the ranking has no column {missing[0]!r}; expected a table as patch gives it.")
    kinds = [kind for kind in PART_KINDS if (ranking["kind"] == kind).any()]
    if not kinds:
        raise InterventionError(
            "the ranking has neither heads nor MLPs; give a table of patch(..., nodes=('head', 'mlp'))."
        )
    return kinds


def scores_of_table(table: pd.DataFrame, parts: Sequence[Part]) -> Float[np.ndarray, " n_parts"]:
    """Effects summed over positions; of what was taken out of the clean run (direction noise), turned round.

    Components that the table lacks have NaN and come last.
    """
    rows = table[table["kind"].isin({part.kind for part in parts})]
    heads = rows["head"].where(rows["kind"] == "head", -1).astype(int)
    effect = rows["effect"].astype(float).groupby([rows["kind"], rows["layer"].astype(int), heads]).sum()
    sign = -1.0 if table.attrs.get("direction") == "noise" else 1.0
    found = effect.to_dict()
    asked = [(part.kind, part.layer, -1 if part.head is None else part.head) for part in parts]
    if not set(found) <= set(asked):
        raise InterventionError(f"the ranking has {sorted(set(found) - set(asked))[0]}, which the model does not have.")
    return np.array([sign * found.get(at, np.nan) for at in asked])


def scores_of_method(method: str, runs: CircuitRuns) -> Float[np.ndarray, " n_parts"]:
    """How important each component is; larger comes first.

    exact: by how much the metric falls if it alone is replaced; attribution and direct: see `CircuitRuns.attribution`;
    activation: how long what it writes is.

    Raises:
        InterventionError: an unknown method.
    """
    if method == "exact":
        kept = ~np.eye(runs.n_parts, dtype=bool)
        means = runs.measure(np.concatenate([np.ones((1, runs.n_parts), dtype=bool), kept])).metric.mean(1)
        return np.asarray(means[0] - means[1:])
    if method in ("attribution", "direct"):
        return np.asarray(runs.attribution(is_direct=method == "direct").mean(0))
    if method == "activation":
        return runs.sizes()
    raise InterventionError(f"ranking {method!r:.60} is not known; expected a table of patch, or {', '.join(METHODS)}.")


def order_of(scores: Float[np.ndarray, " n_parts"], *, absolute: bool) -> Order:
    """The largest first, with or without signs; of equal ones the lower layer; those without a score last."""
    values = np.abs(scores) if absolute else scores
    return np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")


def matched(order: Order, parts: Sequence[Part], rng: np.random.Generator) -> Order:
    """A random order that at every place has a head of the same layer, or an MLP, as the given one."""
    groups = [(parts[i].kind, parts[i].layer if parts[i].kind == "head" else 0) for i in order]
    found = order.copy()
    for group in dict.fromkeys(groups):
        places = [i for i, other in enumerate(groups) if other == group]
        found[places] = order[rng.permutation(places)]
    return found


def sets_of(order: Order, sizes: Sequence[int]) -> np.ndarray:
    """[n_sizes, n_parts]: the first ones of an order."""
    kept = np.zeros((len(sizes), len(order)), dtype=bool)
    for row, size in zip(kept, sizes, strict=True):
        row[order[:size]] = True
    return kept
