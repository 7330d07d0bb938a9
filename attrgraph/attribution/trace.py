"""Trace one prompt: run, split, choose features, compute edges, check, assemble the graph."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from attrgraph.attribution.assemble import assemble
from attrgraph.attribution.continuation import prepare_targets
from attrgraph.attribution.exactness import check_exactness
from attrgraph.attribution.provenance import provenance_of
from attrgraph.attribution.replacement import LocalReplacement, measure_deviation
from attrgraph.attribution.rows import SELECTION_GROWTH, SELECTION_ROUND, EdgeRows, compute_rows, input_sum_gap
from attrgraph.attribution.targets import LogitTargets, Targets
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import checked
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import SkipPositions
from attrgraph.progress import Progress, shown
from attrgraph.transcoders.naming import misfits, name_features

# alterations of a model that one note has
_MOST_NAMED = 3


@torch.no_grad()
@checked
def trace(
    model: LanguageModel,
    prompt: Prompt,
    *,
    targets: Targets = None,
    max_n_logits: int = DEFAULTS.max_n_logits,
    desired_logit_prob: float = DEFAULTS.desired_logit_prob,
    max_feature_nodes: int = DEFAULTS.max_feature_nodes,
    memory_budget: int | str | None = None,
    prepend: str = "auto",
    skip_positions: SkipPositions = "auto",
    allow_inexact: bool = False,
    online: bool = False,
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of a model's answer to one prompt.

    Args:
        model: a language model with transcoders; see `load_model`.
        prompt: text, token ids, or chat messages, of which a last one of the assistant is continued.
        targets: None for the most probable next tokens; one or a list of tokens by text or id, `LogitDifference`, `At`,
            `FeatureTarget`, `Direction`, tensors; or an answer's text, of several tokens. See `attribution.targets`.
        max_n_logits, desired_logit_prob, max_feature_nodes: see `TraceSettings`. Features that are not chosen count to
            the bias node.
        memory_budget: for edges; no graph depends on it: bytes or text such as "8G"; by default half of what is free.
        prepend: the token put in front of a prompt that does not begin with it: "auto", the tokenizer's BOS if it has
            one; "none"; "circuit-tracer", as that tool does, BOS or else the padding or end token; or a token's text.
        skip_positions: positions without features and errors: a list, "none", or "auto": BOS, special tokens in front,
            Gemma 3's chat prefix, attention sinks; see `models.special`. `metadata["skipped_positions"]` says which.
        allow_inexact: give a graph that is less exact than its precision allows, and mark it, instead of refusing it.
        online: ask Neuronpedia for names of features; see `name_features`.
        progress: called as `progress(phase, done, total)`.

    Returns:
        The unpruned graph. `metadata["checks"]` says how exact it is (see `exactness`), and how much the bias causes.

    Raises:
        PromptError, TargetError: the prompt or a target is not one that the model has.
        TranscoderError: the model was loaded without transcoders.
        ResultError: the graph is not exact, or a number is not finite.
        AttrGraphError: a setting is out of range, or the edges do not fit the memory budget.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in the state containing dallas the capital is")
        >>> graph.nodes.query("kind == 'logit'")["token"].iloc[0]
        'austin'
    """
    report, settings = shown(progress), TraceSettings(max_n_logits, desired_logit_prob, max_feature_nodes)
    report("run", 0, 1)
    how: Any = {"memory_budget": memory_budget, "prepend": prepend, "skip_positions": skip_positions}
    local, memory, logits = prepare_targets(model, prompt, targets, settings, **how)
    report("run", 1, 1)
    rows = compute_rows(local, logits, max_feature_nodes, report, memory_bytes=memory)
    gap = input_sum_gap(local, logits, rows)
    checks = check_exactness(measure_deviation(local), gap, model.precision, allow_inexact=allow_inexact)
    graph = assemble(model, local, logits, rows, checks)
    recorded = _metadata(model, prompt, local, logits, {**asdict(settings), "prepend": prepend})
    graph.metadata.update(recorded, selection=_selection(local, rows), scores=graph.scores()._asdict())  # no copy
    return name_features(graph, online=online)


def _selection(local: LocalReplacement, rows: EdgeRows) -> dict[str, Any]:
    return {"n_active": len(local.active), "n_selected": len(rows.selected), "unselected_share": rows.left_out}


def _metadata(
    model: LanguageModel, prompt: Prompt, local: LocalReplacement, logits: LogitTargets, settings: dict[str, Any]
) -> dict[str, Any]:
    """What was run, and how."""
    token_ids, transcoders = local.run.token_ids, local.transcoders
    about = provenance_of(model)
    notes = [
        *logits.notes,
        *_altered(about["model"].get("altered", [])),
        *misfits(transcoders.labels, transcoders.n_features),
    ]
    if local.run.n_pos - len(local.why_skipped) == 1:
        notes.append("one token has features: there are no others to tell an attention sink from")
    return {
        **about,
        "prompt": prompt if isinstance(prompt, str) else model.text_of(token_ids.tolist()[: logits.n_prompt]),
        **({"answer": logits.answer} if logits.answer else {}),
        "token_ids": token_ids.tolist(),
        **({"notes": notes} if notes else {}),
        "n_unknown_tokens": _count_unknown(model, token_ids),
        "settings": {
            **settings,
            "selection_round": SELECTION_ROUND,
            "selection_growth": SELECTION_GROWTH,
            "skipped_positions": sorted(local.why_skipped),
        },
        "skipped_positions": [{"pos": pos, "why": local.why_skipped[pos]} for pos in sorted(local.why_skipped)],
    }


def _altered(found: list[str]) -> list[str]:
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    what = f"the model runs otherwise than its configuration says: {'; '.join(found[:_MOST_NAMED])}{more}"
    return [f"{what}. The graph is of what ran"] if found else []


def _count_unknown(model: LanguageModel, token_ids: Tensor) -> int:
    unknown = None if model.tokenizer is None else model.tokenizer.unk_token_id
    return 0 if unknown is None or unknown == model.bos_token_id else int((token_ids == unknown).sum())
