"""The table of patching: a row a node; of several pairs of prompts the means, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import InterventionError, PromptError, whole_number
from attrgraph.interventions.answer_metrics import Metric
from attrgraph.interventions.patch_choice import GRAPH_KINDS, NodeChoice, kinds_of
from attrgraph.interventions.patch_estimates import attributed, influences, integrated
from attrgraph.interventions.patch_pair import PatchedPair, Positions, run_pair
from attrgraph.interventions.patched_runs import measured, rows_at_once
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions
from attrgraph.progress import Progress, shown, silent

METHODS = ("exact", "attribution", "ig", "relp", "graph")
# of the bootstrap over pairs; and nodes whose resampled means exist at a time
_N_RESAMPLES, _AT_ONCE = 1000, 2048
# two prompts, their metric, and their positions that correspond
Pair = tuple[tuple[Prompt, Prompt], Metric | None, Positions | None]


class PatchOptions(PromptOptions, total=False):
    """Further options of `patch`, besides prepend and skip_positions, which are as for `trace`."""

    refine: int  # of an estimate, measure so many nodes that it puts first
    n_steps: int | None  # of ig; by default as many as make its sums complete to 0.5%, at most 256
    memory_budget: int | str | None  # bytes, or text such as "8G", for a batch; by default half of what is free
    progress: Progress | None  # told how far the work is


@dataclass(frozen=True)
class Patching:
    """How pairs are patched.

    Raises:
        InterventionError: a method that there is not, or an option of another method.
    """

    nodes: list[NodeChoice]
    direction: str
    method: str
    options: PatchOptions

    def __post_init__(self) -> None:
        for name in self.options.keys() - PatchOptions.__annotations__:
            raise TypeError(f"patch() got an unexpected keyword argument {name!r}")
        method, n_steps = self.method, self.options.get("n_steps")
        if method not in METHODS:
            raise InterventionError(f"method is {method!r:.60}; expected one of {', '.join(METHODS)}.")
        if whole_number("refine", self.refine, least=0, error=InterventionError) and method == "exact":
            raise InterventionError("refine measures what an estimate puts first; method 'exact' measures all nodes.")
        if n_steps is not None:
            whole_number("n_steps", n_steps, least=1, error=InterventionError)
            if method != "ig":
                raise InterventionError(f"n_steps is of method 'ig'; the method is {method!r}.")
        for kind in self.kinds:
            if method == "graph" and kind not in GRAPH_KINDS:
                raise InterventionError(
                    f"graphs have no {kind!r}; name nodes of method 'graph': {', '.join(GRAPH_KINDS)}."
                )
            if method == "relp" and kind in ("q", "k"):
                raise InterventionError(f"relp holds attention patterns, so that {kind!r} has no effect; take another.")

    @property
    def kinds(self) -> list[str]:
        return kinds_of(self.nodes)

    @property
    def refine(self) -> int:
        return self.options.get("refine", 0)

    @property
    def memory_budget(self) -> int | str | None:
        return self.options.get("memory_budget")

    @property
    def prompt_options(self) -> PromptOptions:
        names = ("prepend", "skip_positions")
        found: Any = {name: self.options[name] for name in names if name in self.options}  # type: ignore[literal-required]
        return found  # type: ignore[no-any-return]

    def run(self, model: LanguageModel, pair: Pair) -> PatchedPair:
        """Run the prompts of a pair."""
        prompts, metric, positions = pair
        return run_pair(
            model,
            prompts,
            self.nodes,
            metric,
            direction=self.direction,
            positions=positions,
            memory_budget=self.memory_budget,
            options=self.prompt_options,
        )


def patched_pairs(model: LanguageModel, pairs: Sequence[Pair], how: Patching) -> pd.DataFrame:
    """See `patch`."""
    tell, several, tables, facts = shown(how.options.get("progress")), list[PatchedPair](), [], []
    for number, pair in enumerate(pairs):
        several.append(how.run(model, pair))
        _check_alike(several[0], several[-1], number)
        effects, about = _effects(model, several[-1], how, tell if len(pairs) == 1 else silent)
        tables.append(_table(several[-1], effects, of_one_prompt=len(pairs) == 1))
        facts.append(facts_of(model, several[-1]) | about)
        if len(pairs) > 1:
            tell("pairs", number + 1, len(pairs))
    unused = set.intersection(*(pair.unused for pair in several))
    if unused:
        raise InterventionError(
            f"nodes has {min(unused)!r:.60}, of which neither run has any; look at the prompt's nodes."
        )
    about = {}
    if how.refine:
        table, by_pair, about = _refined(model, several, tables, how)
    else:
        table, by_pair = _joined(tables, how.kinds)
        table = table.assign(method=pd.Series([how.method] * len(table), dtype="str"), is_exact=how.method == "exact")
    if len(several) > 1:
        low, high = _interval(by_pair)
        # in the place behind the effect
        for name, column in (("n_changed", (by_pair != 0).sum(0)), ("high", high), ("low", low)):
            table.insert(int(table.columns.get_indexer(["effect"])[0]) + 1, name, column)
    table.attrs = convention(how.method, how.direction) | _of_all(facts) | about
    return table


def _effects(
    model: LanguageModel, pair: PatchedPair, how: Patching, progress: Progress
) -> tuple[list[Tensor], dict[str, Any]]:
    """Effects by patches, and what was found about them."""
    if how.method == "exact":
        n_rows = rows_at_once(model, len(pair.base.token_ids), how.memory_budget)
        return measured(model, pair.base, pair.patches, pair.measure, n_rows=n_rows, progress=progress), {}
    if how.method in ("attribution", "relp"):
        return attributed(model, pair, by_relevance=how.method == "relp"), {}
    if how.method == "graph":
        return influences(model, pair, memory_budget=how.memory_budget, options=how.prompt_options), {}
    n_steps = how.options.get("n_steps")
    effects, cuts = integrated(model, pair, n_steps=n_steps, memory_budget=how.memory_budget, progress=progress)
    return effects, {"completeness": cuts, "completeness_gap": max((cut["gap"] for cut in cuts), default=0.0)}


def _check_alike(first: PatchedPair, pair: PatchedPair, number: int) -> None:
    """Raise PromptError unless positions of two pairs mean the same."""
    lengths = [len(each.clean.token_ids) for each in (first, pair)]
    if pair.positions is None and first.positions is None and lengths[0] != lengths[1]:
        raise PromptError(
            f"the first clean prompt has {lengths[0]} tokens, that of pair {number} (the first is 0) {lengths[1]}, so "
            'positions do not correspond. Give prompts of one length, or positions=[{"name": (clean, corrupt), ...}, '
            "...], of each pair."
        )
    names = [set(each.positions or ()) for each in (first, pair)]
    if names[0] != names[1]:
        differing = ", ".join(sorted(names[0] ^ names[1]))
        raise PromptError(f"positions of pair {number} (the first is 0) lack names, or have others: {differing}.")


def _table(pair: PatchedPair, effects: Sequence[Tensor], *, of_one_prompt: bool) -> pd.DataFrame:
    """A row a node of one pair, without what is the same in all rows."""
    names = None
    if pair.positions is not None and not of_one_prompt:
        names = {clean: name for name, (clean, _) in pair.positions.items()}

    def numbers(name: str) -> np.ndarray:
        parts = [np.zeros(0, np.int64)]
        for patches in pair.patches:
            given = getattr(patches, name)
            same = -1 if given is None else given
            parts.append(given.cpu().numpy() if isinstance(given, Tensor) else np.full(len(patches), same))
        return np.concatenate(parts)

    ids = [one for patches in pair.patches for one in patches.ids(names, of_one_prompt=of_one_prompt)]
    kinds = [patches.kind for patches in pair.patches for _ in range(len(patches))]
    columns = {name: numbers(name) for name in ("layer", "pos", "head", "feature")}
    if not of_one_prompt:  # whose token differs
        columns["feature"][np.array(kinds) == "embedding"] = -1
    text = {"node": pd.Series(ids, dtype="str"), "kind": pd.Series(kinds, dtype="str")}
    return pd.DataFrame({**text, **columns, "effect": _numpy(effects)})


def _numpy(effects: Sequence[Tensor]) -> Float[np.ndarray, " n_nodes"]:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(one.double().cpu() for one in effects)]).numpy()


def _joined(
    tables: Sequence[pd.DataFrame], kinds: Sequence[str]
) -> tuple[pd.DataFrame, Float[np.ndarray, "n_pairs n_nodes"]]:
    """Mean effects of all nodes, and those of each pair: 0 where a feature is active in neither run."""
    if len(tables) == 1:
        return tables[0], tables[0]["effect"].to_numpy()[None]
    rows = pd.concat(tables, ignore_index=True)
    rows["pair"] = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    # a name may be at another position in every pair
    by_name = rows.groupby(rows["node"].str.rpartition("@")[2], sort=False)
    rows["pos"] = rows["pos"].where(by_name["pos"].transform("nunique") == 1, -1)
    nodes = rows.drop_duplicates("node").drop(columns=["pair", "effect"])
    order = nodes.assign(kind=nodes["kind"].map(list(kinds).index))
    nodes = nodes.loc[order.sort_values(["kind", "layer", "pos", "head", "feature", "node"], kind="stable").index]
    nodes = nodes.reset_index(drop=True)
    by_pair = np.zeros((len(tables), len(nodes)))
    by_pair[rows["pair"], pd.Index(nodes["node"]).get_indexer(rows["node"])] = rows["effect"]
    return nodes.assign(effect=by_pair.mean(0)), by_pair


def _interval(by_pair: Float[np.ndarray, "n_pairs n_nodes"]) -> Float[np.ndarray, "2 n_nodes"]:
    """Of the means, 95%: percentiles of a bootstrap over pairs."""
    n_pairs, n_nodes = by_pair.shape
    drawn = np.random.default_rng(0).multinomial(n_pairs, [1 / n_pairs] * n_pairs, size=_N_RESAMPLES) / n_pairs
    parts = [
        np.percentile(drawn @ by_pair[:, start : start + _AT_ONCE], [2.5, 97.5], axis=0)
        for start in range(0, n_nodes, _AT_ONCE)
    ]
    return np.concatenate([np.zeros((2, 0)), *parts], axis=1)


def _refined(
    model: LanguageModel, pairs: Sequence[PatchedPair], tables: Sequence[pd.DataFrame], how: Patching
) -> tuple[pd.DataFrame, Float[np.ndarray, "n_pairs n_nodes"], dict[str, Any]]:
    """The tables' mean with the nodes of the largest estimates measured, and how well these were ranked."""
    estimates, _ = _joined(tables, how.kinds)
    estimate = estimates["effect"].to_numpy()
    best = np.argsort(-np.abs(estimate), kind="stable")[: how.refine]
    chosen, tell = set(estimates["node"].iloc[best]), shown(how.options.get("progress"))
    new = []
    for pair, table in zip(pairs, tables, strict=True):
        is_wanted = table["node"].isin(chosen).to_numpy()
        wanted = torch.tensor(is_wanted, device=pair.base.token_ids.device).split([len(one) for one in pair.patches])
        n_rows = rows_at_once(model, len(pair.base.token_ids), how.memory_budget)
        found = measured(model, pair.base, pair.patches, pair.measure, wanted=wanted, n_rows=n_rows, progress=tell)
        new.append(table.assign(effect=np.where(is_wanted, _numpy(found), table["effect"])))
    table, by_pair = _joined(new, how.kinds)
    is_exact, exact = table["node"].isin(chosen).to_numpy(), table["effect"].to_numpy()
    method = np.where(is_exact, "exact", how.method)
    ranks = [pd.Series(np.abs(values[best])).rank() for values in (estimate, exact)]
    spearman = float(ranks[0].corr(ranks[1])) if all(rank.nunique() > 1 for rank in ranks) else None
    is_signed = len(best) > 0 and how.method != "graph"
    same_sign = float((np.sign(estimate[best]) == np.sign(exact[best])).mean()) if is_signed else None
    about = {"n": len(best), "spearman": spearman, "same_sign": same_sign}
    return table.assign(method=method, is_exact=is_exact, estimate=estimate), by_pair, {"refined": about}


def facts_of(model: LanguageModel, pair: PatchedPair) -> dict[str, Any]:
    """What a table says of one pair."""
    return {
        "metric": pair.measure.name,
        "metric_clean": pair.metric_of(pair.clean),
        "metric_corrupt": pair.metric_of(pair.corrupt),
        "total_effect": pair.total_effect,
        "positions": pair.positions,
        "skipped_positions": pair.skipped,
        "clean_tokens": [model.token_text(i) for i in pair.clean.token_ids.tolist()],
        "corrupt_tokens": [model.token_text(i) for i in pair.corrupt.token_ids.tolist()],
    }


def _of_all(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one pair what is said of it; of several the means, and each."""
    if len(facts) == 1:
        return {"n_pairs": 1, **facts[0]}
    names = ("metric_clean", "metric_corrupt", "total_effect")
    means: dict[str, Any] = {name: float(np.mean([one[name] for one in facts])) for name in names}
    gaps = [one["completeness_gap"] for one in facts if "completeness_gap" in one]
    more = {"completeness_gap": max(gaps)} if gaps else {}
    interval = "95% of the mean effect, bootstrap over pairs"
    return {"n_pairs": len(facts), **means, **more, "interval": interval, "pairs": list(facts)}


def convention(method: str, direction: str) -> dict[str, Any]:
    """How effects are to be read."""
    put, into = ("clean", "corrupt") if direction == "denoise" else ("corrupt", "clean")
    gradient_at = {
        "attribution": f"{into} run",
        "ig": f"mean from the {into} run to the {put} run",
        "relp": f"{into} run, by the rules of relevance propagation",
    }
    effect = f"metric({into} run with the node as in the {put} run) - metric({into} run)"
    if method == "graph":
        effect = "influence in the clean prompt's graph: a share without sign, no change of the metric"
    return {
        "method": method,
        "direction": direction,
        "effect": effect,
        "gradient_at": gradient_at.get(method),
        "is_normalised": method == "graph",
    }
