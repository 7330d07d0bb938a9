"""Trace one prompt: run, take apart, choose features, compute edges, check, assemble the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrgraph.attribution.assemble import assemble
from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.provenance import provenance_of
from attrgraph.attribution.replacement import LocalReplacement, measure_deviation
from attrgraph.attribution.rows import SELECTION_GROWTH, SELECTION_ROUND, compute_rows, input_sum_gap
from attrgraph.attribution.targets import Targets, choose_targets
from attrgraph.errors import AttrGraphError, ResultError
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.progress import Progress


@torch.no_grad()
def trace(
    model: LanguageModel,
    prompt: Prompt,
    *,
    targets: Targets = None,
    max_n_logits: int = 10,
    desired_logit_prob: float = 0.95,
    max_feature_nodes: int = 7500,
    memory_budget: int | str | None = None,
    skip_positions: str | Sequence[int] | None = "bos",
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of a model's answer to one prompt.

    Args:
        model: a language model with transcoders; see `load_model`.
        prompt: text, token ids, or chat messages. If the tokenizer has a BOS token and the prompt does not begin with
            it, it is put in front: the graph's first token shows it.
        targets: what to explain: None for the most probable next tokens; tokens by text or id; a `LogitDifference`;
            or directions [n, d_model] read after the final norm.
        max_n_logits, desired_logit_prob: with no targets, the fewest tokens that hold this probability, at most so
            many.
        max_feature_nodes: with more active features, the most influential ones are chosen, best first; what the others
            write is then counted to the bias node.
        memory_budget: bytes, or text such as "8G", that edges and what computes them may take; by default half of what
            is free. The graph does not depend on it.
        skip_positions: positions without features and errors: "bos" for a first token that is BOS, None, or a list.
        progress: called as `progress(phase, done, total)`.

    Returns:
        The unpruned graph. `metadata["checks"]` says how exact it is.

    Raises:
        PromptError, TargetError: the prompt or a target is not one that the model has.
        TranscoderError: the model was loaded without transcoders.
        ResultError: a number is not finite.
        AttrGraphError: a setting is out of range, or the edges do not fit the memory budget.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in the state containing dallas the capital is")
        >>> graph.nodes.query("kind == 'logit'")["token"].iloc[0]
        'austin'
    """
    report = progress or (lambda phase, done, total: None)
    check_settings(max_n_logits, desired_logit_prob, max_feature_nodes)
    report("run", 0, 1)
    local, memory = prepare(model, prompt, skip_positions=skip_positions, memory_budget=memory_budget)
    logits = choose_targets(model, local.run, targets, max_n_logits=max_n_logits, desired_logit_prob=desired_logit_prob)
    report("run", 1, 1)
    rows = compute_rows(local, logits, max_feature_nodes, report, memory_bytes=memory)
    checks = {"logit_deviation": measure_deviation(local), "input_sum_gap": input_sum_gap(local, logits, rows)}
    if not all(np.isfinite(value) for value in checks.values()):
        raise ResultError(f"the graph's numbers are not finite ({checks}); the weights hold extreme values.")
    graph = assemble(model, local, logits, rows)
    settings = {
        "max_n_logits": max_n_logits,
        "desired_logit_prob": desired_logit_prob,
        "max_feature_nodes": max_feature_nodes,
    }
    graph.metadata.update(
        _run_metadata(model, prompt, graph, local.run.token_ids),
        settings=settings | _selection_settings(local),
        selection={"n_active": len(local.active), "n_selected": len(rows.selected), "unselected_share": rows.left_out},
        scores=graph.scores()._asdict(),
        checks=checks,
    )
    return graph


def check_settings(max_n_logits: int, desired_logit_prob: float, max_feature_nodes: int) -> None:
    """Raise AttrGraphError for a number out of range."""
    if max_feature_nodes < 0 or max_n_logits < 1:
        raise AttrGraphError("max_feature_nodes must be at least 0, max_n_logits at least 1.")
    if not 0 <= desired_logit_prob <= 1:
        raise AttrGraphError(f"desired_logit_prob is {desired_logit_prob}; expected a number between 0 and 1.")


def _run_metadata(model: LanguageModel, prompt: Prompt, graph: Graph, token_ids: Tensor) -> dict[str, Any]:
    """What was run: the model, its transcoders and versions, and the prompt as the model saw it."""
    text = prompt if isinstance(prompt, str) else "".join(graph.prompt_tokens)
    return {
        **provenance_of(model),
        "prompt": text,
        "token_ids": token_ids.tolist(),
        "n_unknown_tokens": _count_unknown(model, token_ids),
    }


def _selection_settings(local: LocalReplacement) -> dict[str, Any]:
    return {
        "selection_round": SELECTION_ROUND,
        "selection_growth": SELECTION_GROWTH,
        "skipped_positions": local.is_skipped.nonzero().flatten().tolist(),
    }


def _count_unknown(model: LanguageModel, token_ids: Tensor) -> int:
    unknown = None if model.tokenizer is None else model.tokenizer.unk_token_id
    return 0 if unknown is None or unknown == model.bos_token_id else int((token_ids == unknown).sum())
