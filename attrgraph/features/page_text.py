"""A feature's page as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrgraph.errors import as_whole
from attrgraph.viz.text import shorten, visible

_BLOCKS = " ▁▂▃▄▅▆▇█"
ALL_SHOWN = "Firings drawn from all strengths are shown already"
_N_EXAMPLES, _N_OF_FIFTH, _N_BARS, _N_IN_LABEL = 8, 1, 24, 3


def page_text(record: Mapping[str, Any], names: Mapping[str, str], card: Mapping[str, Any]) -> str:
    """Label, numbers, what it promotes, what it fires on, neighbours, examples with the firing tokens marked.

    Args:
        record: of the feature.
        names: labels of its neighbours.
        card: of the folder that it is in.
    """
    lines = [f"feature {record['layer']}/{record['index']}   {visible(record['label']) or 'no label'}"]
    lines += [*(f"  {line}" for line in label_lines(record)), ""]
    lines += [
        f"fires       {share(record['activation_frequency'])} of tokens "
        f"({record['n_firings']:,} of {record['n_tokens']:,})",
        f"strength    {record['act_mean']:.3g} on average, {record['act_max']:.3g} at most   "
        f"{_histogram(record)}".rstrip(),
        f"promotes    {_weighted(record['top_logits'], record['top_logit_values'])}",
        f"suppresses  {_weighted(record['bottom_logits'], record['bottom_logit_values'])}",
    ]
    kinds = {"token": "fires on", "previous": "after", "last 3": "at end of", "says": "model says", "next": "before"}
    kinds["position"] = "at"
    for kind, name in kinds.items():
        found = [
            f"{quoted(one['value'])} {one['share_of_firings']:.0%}"
            for one in record["tokens"][kind]
            if one["share_of_firings"] > 0.02
        ]
        if found:
            lines.append(f"{name:<11} {', '.join(found[:6])}")
    for key, name in (("together", "with"), ("inputs", "from"), ("outputs", "to")):
        if record[key]:
            found = [f"{neighbour(one, names)} {one['weight']:+.2g}" for one in record[key][:6]]
            lines.append(f"{name:<11} {', '.join(found)}")
    for place, (name, examples, _) in enumerate(new_examples(record)):
        lines += ["", name]
        lines += [f"  {_example(one)}" for one in examples[: _N_OF_FIFTH if place else _N_EXAMPLES]]
    return "\n".join([*lines, *(["", about(card)] if card else [])])


def new_examples(record: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]], int]]:
    """Of each group of examples its name, those that no group before it has, and how many there are besides."""
    found = []
    for group in record["examples_quantiles"]:
        new = [one for one in group["examples"] if not one["is_repeated_datapoint"]]
        if new:
            found.append((group["quantile_name"], new, len(group["examples"]) - len(new)))
    if len(found) == 1 < len(record["examples_quantiles"]):
        found.append((ALL_SHOWN, [], 0))
    return found


def about(card: Mapping[str, Any]) -> str:
    """What pages are of, as far as their card says."""
    parts = []
    for name in ("model", "transcoders"):
        if isinstance(one := card.get(name), Mapping):
            parts.append(f"{name} {visible(str(one.get('id')))} ({_short(one.get('digest'))})")
    n_tokens, n_documents = (as_whole(card.get(name)) or 0 for name in ("n_tokens", "n_documents"))
    return ", ".join([*parts, f"{n_tokens:,} tokens of {n_documents:,} documents ({_short(card.get('text'))})"])


def _short(digest: object) -> str:
    return visible(str(digest)).removeprefix("sha256:")[:8] if digest else "no digest"


def neighbour(one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A feature beside this one, with its label."""
    name = f"{one['layer']}/{one['feature']}"
    return f"{name} {shorten(visible(names.get(name, '')))}".rstrip()


def label_lines(record: Mapping[str, Any]) -> list[str]:
    """How far the label can be trusted."""
    if record["label_source"] == "given":
        found = record["label_found"]
        return ["label given by a person or a file" + (f"; by rule: {visible(found)}" if found else "")]
    # pages of earlier versions have no counts and say no fault
    fault = record.get("label_fault") or "no rule describes where it fires"
    if record["label_score"] is None:
        return ["not measured on this text" if record["label"] else f"no label: {fault}"]
    score = _measured(record["label_score"], record["label_interval"])
    controls = record["label_controls"]
    beside = [f"a random label {_measured(**controls['random_label'])}"]
    of_dictionary = controls["random_dictionary"]
    # what a control without any rule is given
    is_any = of_dictionary["interval"][1] > 0.5
    beside.append(f"random features {_measured(**of_dictionary)}" if is_any else "random features have no such rule")
    share, recall = (f"{record[f'label_{name}']:.0%}" for name in ("precision", "recall"))
    counted = " ({:,} of {:,})".format(*record["label_claims"]) if record.get("label_claims") else ""
    claim = (
        f"after {share} of its firings{counted}, one of them comes"
        if record["label_rule"]["kind"] == "promotes"
        else f"right {share} of the times it claims a firing{counted}; foresees {recall} of the activation"
    )
    lines = [f"score {score} on held-out text; {'; '.join(beside)}", claim]
    texts = record["label_rule"].get("texts", [])
    # a label names only the first
    lines += [f"all of its tokens: {', '.join(map(quoted, texts))}"] if len(texts) > _N_IN_LABEL else []
    if record["label"]:
        return lines
    return [f"no label: {visible(fault)}", *lines]


def _measured(score: float, interval: Sequence[float]) -> str:
    return f"{score:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _histogram(record: Mapping[str, Any]) -> str:
    """A row of blocks between the numbers at its ends, and how many firings the highest has."""
    heights, edges = record["histogram"], record["histogram_edges"]
    if not heights:
        return ""
    step = -(-len(heights) // _N_BARS)
    joined = [sum(heights[i : i + step]) for i in range(0, len(heights), step)]
    blocks = "".join(_BLOCKS[-(-8 * height // max(joined))] for height in joined)
    return f"{edges[0]:.3g} {blocks} {edges[-1]:.3g}  (highest: {max(joined):,} firings)"


def share(value: float) -> str:
    """A share in percent, with as many digits as say something."""
    return f"{value:.2%}" if value >= 0.001 or value == 0 else f"{100 * value:.2g}%"


def quoted(value: Any) -> str:
    """A token as text in quotes, a position as it is."""
    return str(value) if isinstance(value, int) else f'"{plainly(value)}"'


def plainly(text: str) -> str:
    """A token with its spaces, and everything that cannot be seen written out."""
    core = text.strip(" ")
    return text if not core else text.replace(core, visible(core), 1)


def _weighted(tokens: Sequence[str], values: Sequence[float]) -> str:
    return ", ".join(f"{quoted(token)} {value:+.2g}" for token, value in list(zip(tokens, values, strict=True))[:6])


def _example(one: Mapping[str, Any]) -> str:
    """The window with firing tokens in brackets, the one it is about in double ones."""
    parts = []
    for i, (token, act) in enumerate(zip(one["tokens"], one["tokens_acts_list"], strict=True)):
        text = plainly(token)
        core = text.strip(" ") or text
        if i == one["train_token_ind"]:
            text = text.replace(core, f"[[{core} {act:.2g}]]", 1)
        elif act:
            text = text.replace(core, f"[{core}]", 1)
        parts.append(text)
    return "".join(parts).strip()
