"""What was found, in words. The limits are stated here and nowhere else."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from attrgraph.transcoders.config import CROSS_LAYER
from attrgraph.validation.result import Statement

# Frozen predictions differ from measurements by rounding only: 1e-5 and less in float32; half precision rounds the
# model's activations, not the engine's arithmetic.
MOST_FROZEN_ERROR = 1e-3
# Ameisen et al. report replacement scores around .6 and completeness around .8 for prompts that their graphs explain
# well, and rank correlations of .72 between influence and ablation effects.
GOOD_SCORE, FAIR_SCORE = 0.8, 0.5
GOOD_CORRELATION, FAIR_CORRELATION = 0.7, 0.4
_N_ABLATED = 20
# where random sets change the answer more often, its change says little about the chosen set
_MOST_CONTROL_FLIPS = 0.25
# of nodes' input, held by features that are not in the graph
_LEAST_LEFT_OUT = 0.01
_FEWEST = 10  # features, of which a correlation is judged
_MOST_HOPS_HIDDEN = 0.5


def judge(
    facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], mode: str, ranking_mode: str
) -> list[Statement]:
    """The verdict, line by line; modes of experiments on sets, and of the one by which features are ranked."""
    lines = [_explained(facts)]
    if "frozen_error" in facts:
        lines.append(_exactness(facts["frozen_error"]))
    lines += _correlations(tables["agreement"])
    lines += [_ranking(tables["rankings"], ranking_mode), _necessity(tables["necessity"], mode)]
    lines.append(_sufficiency(tables["sufficiency"], facts, mode))
    if "paths" in tables and len(tables["paths"]):
        lines.append(_paths(tables["paths"]))
    if "compared" in tables:
        lines.append(_compared(tables["compared"]))
    if "paraphrases" in tables:
        lines.append(_paraphrases(tables["paraphrases"]))
    return lines


def _level(value: float | None, good: float, fair: float) -> str:
    if value is None or value != value:
        return "weak"
    return "good" if value >= good else "fair" if value >= fair else "weak"


def _explained(facts: Mapping[str, Any]) -> Statement:
    level = _level(min(facts["replacement"], facts["completeness"]), GOOD_SCORE, FAIR_SCORE)
    n_others, left_out = facts["n_targets"] - 1, facts["unselected_share"] or 0.0
    others = f" and {n_others} less probable tokens" if n_others else ""
    said = (
        f"Of what influences “{facts['answer']}”{others} in the graph, {facts['replacement']:.0%} goes back to tokens, "
        f"the rest to errors; {facts['completeness']:.0%} of nodes' input is explained."
    )
    if left_out >= _LEAST_LEFT_OUT:
        level = "weak" if left_out > 1 - FAIR_SCORE else "fair" if level == "good" else level
        said += f" Features that the graph leaves out hold {left_out:.0%} of the input; predictions lack them."
    return Statement(level, said)


def _exactness(error: float) -> Statement:
    if error <= MOST_FROZEN_ERROR:
        return Statement("good", f"Its edges are exact: with all else frozen, changes are as predicted to {error:.0e}.")
    return Statement(
        "weak",
        f"Its edges are wrong: with all else frozen, measured changes differ from predicted ones by {error:.0%}. "
        "The graph is not of this model, or has been altered. Do not rely on it.",
    )


def _correlations(agreement: pd.DataFrame) -> list[Statement]:
    """How predictions of the answer's change hold up when more of the model responds."""
    lines = []
    responding = {
        "constrained": "With attention and norms live",
        "frozen-attention": "With features responding",
        "free": "With everything live",
    }
    for row in agreement[(agreement["what"] == "nodes") & (agreement["mode"] != "frozen")].to_dict("records"):
        value, slope_value = _or_none(row["spearman"]), _or_none(row["slope"])
        said = "have no rank correlation" if value is None else f"rank-correlate {_with_interval(row, 'spearman')}"
        same = _or_none(row["sign_agreement"])
        sign = "" if same is None else f", with the same sign for {same:.0%}"
        slope = "" if slope_value is None else f" (measured changes are {slope_value:.2f} of predicted ones)"
        level = _level(value, GOOD_CORRELATION, FAIR_CORRELATION)
        lines.append(
            Statement(
                level if row["n"] >= _FEWEST else "note",
                f"{responding[row['mode']]} (mode {row['mode']}), predicted and measured effects of {row['n']} nodes "
                f"on the answer {said}{sign}{slope}.",
            )
        )
    return lines


def _ranking(rankings: pd.DataFrame, mode: str) -> Statement:
    by_name = rankings.set_index("ranking")
    row = by_name.loc["influence"].to_dict()
    others = ", ".join(
        f"{name} {_number(by_name.loc[name, 'spearman'])}" for name in ("direct edge", "activation", "random")
    )
    level = _level(_or_none(row["spearman"]), GOOD_CORRELATION, FAIR_CORRELATION)
    return Statement(
        level if row["n"] >= _FEWEST else "note",
        f"Influence ranks {row['n']:.0f} features as taking them out does: {_with_interval(row, 'spearman')} in mode "
        f"{mode} ({others}).",
    )


def _necessity(necessity: pd.DataFrame, mode: str) -> Statement:
    row = necessity[necessity["k"] <= _N_ABLATED].iloc[-1]
    does, flips = "changes" if row["flips"] else "does not change", _or_none(row["control_flips"])
    if flips is None:
        return Statement("note", f"Taking out its top {row['k']} features {does} the answer (mode {mode}).")
    level = "weak" if flips > _MOST_CONTROL_FLIPS else "good" if row["flips"] else "fair"
    return Statement(
        level,
        f"Taking out its top {row['k']} features {does} the answer (mode {mode}); {flips:.0%} of random sets of "
        f"{row['control_size']:.0f}, matched on layer and activation, do.",
    )


def _sufficiency(sufficiency: pd.DataFrame, facts: Mapping[str, Any], mode: str) -> Statement:
    enough = sufficiency[~sufficiency["flips"]]
    row = enough.iloc[0] if len(enough) else sufficiency.iloc[-1]
    said = f"Its top {row['k']} of {facts['n_active']} active features alone"
    if not len(enough):
        return Statement("note", f"{said} do not keep the answer (mode {mode}).")
    flips = _or_none(row["control_flips"])
    controls = "" if flips is None else f"; {1 - flips:.0%} of random sets of {row['control_size']:.0f} do"
    return Statement("note", f"{said} keep the answer (mode {mode}){controls}.")


def _paths(paths: pd.DataFrame) -> Statement:
    n_off, n = int(paths["has_gone_off"].sum()), len(paths)
    happens = f"On {n_off} of the {n} strongest paths a feature goes off"
    if not n_off:
        happens = f"On none of the {n} strongest paths does a feature go off"
    return Statement("note", f"{happens} when the path's source is taken out, which edges cannot foresee.")


def _compared(compared: pd.DataFrame) -> Statement:
    ours, theirs = compared.to_dict("records")
    gap = theirs["mean_hops"] - ours["mean_hops"]
    said = (
        f"other transcoders ({theirs['kind']}) explain the answer in {theirs['mean_hops']:.2f} hops, these "
        f"({ours['kind']}) in {ours['mean_hops']:.2f}"
    )
    if gap > _MOST_HOPS_HIDDEN:
        why = " A cross-layer feature can write the result of two steps at once." if ours["kind"] == CROSS_LAYER else ""
        return Statement("fair", f"Steps may be hidden: {said}.{why}")
    if gap < -_MOST_HOPS_HIDDEN:
        return Statement("note", f"It shows more steps than the other graph: {said}.")
    return Statement("note", f"Hops {'agree' if gap == gap else 'cannot be compared'}: {said}.")


def _paraphrases(table: pd.DataFrame) -> Statement:
    same, shared = table["has_same_answer"].mean(), table["shared_top_features"].mean()
    return Statement(
        "note",
        f"Of {len(table)} paraphrases {same:.0%} give the same answer; they share {shared:.0%} of the top features.",
    )


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (_or_none(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "undefined"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: Any) -> str:
    return "undefined" if _or_none(value) is None else f"{value:.2f}"


def _or_none(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
