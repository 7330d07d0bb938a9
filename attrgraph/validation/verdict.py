"""What was found, in words, with the limits of each level.

A line is one sentence that needs no statistics to understand; the numbers follow in brackets.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from attrgraph.schema import inexact_note
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
# above this share of random sets that change the answer, its change says little about the chosen set
_MOST_CONTROL_FLIPS = 0.25
# share of nodes' input from features that are not in the graph; below it, the verdict does not mention them
_LEAST_LEFT_OUT = 0.01
# Shares of the answer that come from the bias node: to be mentioned, and above which tokens and features do not explain
# it. A feature that needs two causes at once has a bias as large as one of them.
_MUCH_CONSTANT, _MOST_CONSTANT = 0.5, 0.9
_FEWEST = 10  # pairs from which a correlation is judged
_MOST_HOPS_HIDDEN = 0.5


def judge(
    facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], mode: str, ranking_mode: str
) -> list[Statement]:
    """The verdict, line by line.

    Args:
        facts, tables: see `Validation`.
        mode: of the experiments on sets of nodes.
        ranking_mode: of the single ablations against which features are ranked.
    """
    explained, ranking = _explained(facts), _ranking(tables["rankings"], ranking_mode)
    necessity = _necessity(tables["necessity"])
    lines = [explained]
    is_marked = facts["is_exact"] is False
    if is_marked:
        note = inexact_note({"checks": facts}).lower()
        lines.insert(0, Statement("weak", f"The graph is {note}. It is of a run that is not the model's own."))
    if "frozen_error" in facts:
        lines.append(_exactness(facts["frozen_error"], is_marked=is_marked))
    lines += [*_correlations(tables["agreement"]), ranking, necessity]
    own = tables["rankings"].set_index("ranking").loc["influence"].to_dict()
    lines += [_control(row, facts, own) for row in tables["control"].to_dict("records")]
    lines.append(_sufficiency(tables["sufficiency"], facts, mode))
    if "paths" in tables and len(tables["paths"]):
        lines.append(_paths(tables["paths"]))
    if "compared" in tables:
        lines.append(_compared(tables["compared"]))
    if "paraphrases" in tables:
        lines.append(_paraphrases(tables["paraphrases"]))
    short = _in_short(facts, tables["agreement"], explained, [ranking, necessity])
    return [short, *lines, _case_study(lines)]


def _in_short(
    facts: Mapping[str, Any], agreement: pd.DataFrame, explained: Statement, found: list[Statement]
) -> Statement:
    """What a reader who goes no further should know.

    Args:
        explained: how much of the answer is.
        found: whether the features that the graph ranks highest are those that matter.
    """
    if facts["is_exact"] is False:
        return Statement("weak", "Do not rely on this graph: it is of a run that is not the model's own.")
    if facts.get("frozen_error", 0.0) > MOST_FROZEN_ERROR:
        return Statement("weak", "Do not rely on this graph: its edges are not what the model computes.")
    worst = _worst([line.level for line in found])
    said = {
        "good": "The graph finds the parts that matter",
        "note": "Too little was tested to say whether the graph finds the parts that matter",
        "fair": "The graph finds some of the parts that matter",
        "weak": "The graph does not find the parts that matter most",
    }[worst]
    said += "" if explained.level != "weak" else ", and explains too little of the answer"
    free = agreement[(agreement["what"] == "nodes") & (agreement["mode"] == "free")].to_dict("records")
    if free and _level_of(free[0]) == "weak":
        said += "; do not trust the order of single effects when the whole model may respond"
    return Statement("weak" if explained.level == "weak" else worst, f"{said}.")


def _case_study(lines: list[Statement]) -> Statement:
    judged = [line.text for line in lines if line.level != "note"]
    n = sum("[" in text for text in judged)
    said = f"{len(judged)} lines are judged, {n} by a 95% interval, which one in twenty misses."
    return Statement("note", f"One prompt is a case study. {said}")


def _worst(levels: list[str]) -> str:
    return max(levels, key=["good", "note", "fair", "weak"].index)


def _level(value: float | None, good: float, fair: float) -> str:
    if value is None or value != value:
        return "weak"
    return "good" if value >= good else "fair" if value >= fair else "weak"


def _explained(facts: Mapping[str, Any]) -> Statement:
    level = _level(min(facts["replacement"], facts["completeness"]), GOOD_SCORE, FAIR_SCORE)
    n_others, left_out = facts["n_targets"] - 1, facts["unselected_share"] or 0.0
    others = f" and {n_others} less probable token{'s' * (n_others > 1)}" if n_others else ""
    missing, constant = "", facts["bias_share"] or 0.0
    if constant > _MUCH_CONSTANT:
        level = "weak" if constant > _MOST_CONSTANT else level
        missing = (
            f" These shares leave out the {constant:.0%} of the answer that come from the bias: constants, and what is "
            "skipped or not chosen."
        )
    if left_out >= _LEAST_LEFT_OUT:
        level = "weak" if left_out > 1 - FAIR_SCORE else "fair" if level == "good" else level
        missing += (
            f" Active features that the graph leaves out carry {left_out:.0%} of the input; predictions lack them."
        )
    part = {"good": "most", "fair": "a part", "weak": "too little"}[level]
    return Statement(
        level,
        f"The graph explains {part} of the answer: {facts['replacement']:.0%} of the influence on “{facts['answer']}”"
        f"{others} comes from the tokens of the prompt, the rest from errors of the transcoders; "
        f"{facts['completeness']:.0%} of what nodes read is explained.{missing}",
    )


def _exactness(error: float, *, is_marked: bool) -> Statement:
    held = "With everything else held fixed,"
    if is_marked and error <= MOST_FROZEN_ERROR:
        return Statement(
            "weak", f"{held} the edges predict changes of that run (relative error {error:.0e}), not the model's."
        )
    if error <= MOST_FROZEN_ERROR:
        return Statement("good", f"{held} the edges predict every change exactly (relative error {error:.0e}).")
    return Statement(
        "weak",
        f"{held} measured changes differ from predicted ones by {error:.0%}: the edges are wrong. The graph is of "
        "another model, or has been altered. Do not rely on it.",
    )


def _correlations(agreement: pd.DataFrame) -> list[Statement]:
    """How predictions of the answer's change hold up when more of the model responds."""
    responding = {
        "constrained": "When attention and norms may respond",
        "frozen-attention": "When features may respond",
        "free": "When the whole model may respond",
    }
    order = {
        "good": "the predicted order of effects is mostly right",
        "fair": "the predicted order of effects is roughly right",
        "weak": "the predicted order of effects is often wrong",
        "note": "there are too few effects to judge their predicted order",
    }
    lines = []
    for row in agreement[(agreement["what"] == "nodes") & (agreement["mode"] != "frozen")].to_dict("records"):
        level, slope, same = _level_of(row), _or_none(row["slope"]), _or_none(row["sign_agreement"])
        numbers = [f"mode {row['mode']}", f"{row['n']} nodes", f"Spearman {_with_interval(row, 'spearman')}"]
        numbers += [] if same is None else [f"same sign {same:.0%}"]
        numbers += [] if slope is None else [f"measured changes are {slope:.2f} of predicted ones"]
        lines.append(Statement(level, f"{responding[row['mode']]}, {order[level]} ({', '.join(numbers)})."))
    return lines


def _ranking(rankings: pd.DataFrame, mode: str) -> Statement:
    by_name = rankings.set_index("ranking")
    row = by_name.loc["influence"].to_dict()
    level = _level_of(row)
    said = {
        "good": "The features that the graph ranks highest are mostly those that matter most in the model",
        "fair": "The features that the graph ranks highest are roughly those that matter most in the model",
        "weak": "The features that the graph ranks highest are often not those that matter most in the model",
        "note": "There are too few features to judge whether the graph ranks highest what matters most in the model",
    }
    names = ("attribution patching", "direct edge", "activation", "random")
    others = {name: _or_none(by_name.loc[name, "spearman"]) for name in names}
    listed = ", ".join(f"{name} {_number(value)}" for name, value in others.items())
    best = max((name for name in names if others[name] is not None), key=lambda name: others[name] or 0.0, default="")
    own, better = _or_none(row["spearman"]), others.get(best)
    beaten = f". {best.capitalize()} ranks them better" if own is not None and (better or 0.0) > own else ""
    return Statement(
        level,
        f"{said[level]} (mode {mode}, {row['n']:.0f} features that can act, Spearman of influence and measured effect "
        f"{_with_interval(row, 'spearman')}; of other rankings: {listed}){beaten}.",
    )


def _necessity(necessity: pd.DataFrame) -> Statement:
    """In both modes of the table, whose levels are judged together."""
    rows = necessity[necessity["k"] == necessity.loc[necessity["k"] <= _N_ABLATED, "k"].max()].to_dict("records")
    levels, parts = list[str](), list[str]()
    for row in rows:
        flips = _or_none(row["control_flips"])
        held = " (direct effects only)" if row["mode"] == "constrained" else ""
        does = "changes" if row["flips"] else "does not change"
        part = f"mode {row['mode']}{held} {does} the answer, KL {row['kl']:.2g}"
        if flips is None:
            levels.append("note")
        else:
            levels.append("weak" if flips > _MOST_CONTROL_FLIPS else "good" if row["flips"] else "fair")
            part += f"; of random sets {flips:.0%} change it, KL {row['control_kl']:.2g}"
        parts.append(part)
    said = f"Taking out the graph's {_most_influential(int(rows[0]['k']))} in {'; in '.join(parts)}."
    if "note" not in levels:
        said += f" Random sets: {rows[0]['control_size']:.0f} features alike in layer, position and activation."
    return Statement(_worst(levels), said)


def _control(row: Mapping[str, Any], facts: Mapping[str, Any], ranking: Mapping[str, Any]) -> Statement:
    """Whether the graph explains more than that of a dictionary which means nothing, and ranks better.

    Args:
        row: of the table `control`.
        facts: of the graph.
        ranking: of its features by influence.
    """
    is_better = facts["replacement"] > row["replacement"] and facts["completeness"] > row["completeness"]
    least, theirs = _or_none(ranking["spearman_low"]), _or_none(row["spearman"])
    said = (
        f"A dictionary with its decoder rows exchanged among features explains {'less' if is_better else 'no less'} "
        f"({row['replacement']:.0%} from tokens, {row['completeness']:.0%} of what nodes read)"
    )
    if least is not None and theirs is not None and theirs >= least:
        said += (
            f", but ranks its own as well (Spearman {theirs:.2f}): that correlation says nothing of what features mean"
        )
    return Statement("good" if is_better else "weak", f"{said}.")


def _sufficiency(sufficiency: pd.DataFrame, facts: Mapping[str, Any], mode: str) -> Statement:
    enough = sufficiency[~sufficiency["flips"]]
    row = enough.iloc[0] if len(enough) else sufficiency.iloc[-1]
    alone = f"With only the {_most_influential(int(row['k']))} of {facts['n_active']} active ones, the model"
    if not len(enough):
        return Statement("note", f"{alone} does not keep its answer (mode {mode}).")
    flips = _or_none(row["control_flips"])
    controls = "" if flips is None else f"; {1 - flips:.0%} of {_random_sets(row)} keep it"
    return Statement("note", f"{alone} keeps its answer{controls} (mode {mode}).")


def _paths(paths: pd.DataFrame) -> Statement:
    n_off, n = int(paths["has_gone_off"].sum()), len(paths)
    return Statement(
        "note",
        f"On {n_off or 'none'} of the {n} strongest paths a feature switches off when the first node is taken out; "
        "edges cannot tell.",
    )


def _compared(compared: pd.DataFrame) -> Statement:
    ours, theirs = compared.to_dict("records")
    gap = theirs["mean_hops"] - ours["mean_hops"]
    said = (
        f"the answer takes {ours['mean_hops']:.2f} hops on average with these transcoders ({ours['kind']}), "
        f"{theirs['mean_hops']:.2f} with the others ({theirs['kind']})"
    )
    if gap > _MOST_HOPS_HIDDEN:
        why = " A cross-layer feature can write the result of two steps at once." if ours["kind"] == CROSS_LAYER else ""
        return Statement("fair", f"The graph may hide steps: {said}.{why}")
    if gap < -_MOST_HOPS_HIDDEN:
        return Statement("note", f"The graph shows more steps than that of the other transcoders: {said}.")
    agree = "show about as many steps" if gap == gap else "cannot be compared"
    return Statement("note", f"The two graphs {agree}: {said}.")


def _paraphrases(table: pd.DataFrame) -> Statement:
    same, shared = table["has_same_answer"].mean(), table["shared_top_features"].mean()
    return Statement(
        "note",
        f"The model gives the same answer to {same:.0%} of {len(table)} paraphrases; on average they share "
        f"{shared:.0%} of the top features.",
    )


def _level_of(row: Mapping[str, Any]) -> str:
    """Of a row with a rank correlation; a note where it has too few pairs."""
    return _level(_or_none(row["spearman"]), GOOD_CORRELATION, FAIR_CORRELATION) if row["n"] >= _FEWEST else "note"


def _most_influential(k: int) -> str:
    return "most influential feature" if k == 1 else f"{k} most influential features"


def _random_sets(row: "pd.Series[Any]") -> str:
    return f"random sets of {row['control_size']:.0f} features alike in layer, position and activation"


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (_or_none(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "undefined"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: Any) -> str:
    return "undefined" if _or_none(value) is None else f"{value:.2f}"


def _or_none(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
