"""Trace one prompt: run, split, choose features, compute edges, check, assemble the graph."""

from collections.abc import Sequence
from dataclasses import asdict
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
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import ResultError
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.progress import Progress, silent


@torch.no_grad()
def trace(
    model: LanguageModel,
    prompt: Prompt,
    *,
    targets: Targets = None,
    max_n_logits: int = DEFAULTS.max_n_logits,
    desired_logit_prob: float = DEFAULTS.desired_logit_prob,
    max_feature_nodes: int = DEFAULTS.max_feature_nodes,
    memory_budget: int | str | None = None,
    skip_positions: str | Sequence[int] | None = "bos",
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of a model's answer to one prompt.

    Args:
        model: a language model with transcoders; see `load_model`.
        prompt: text, token ids, or chat messages. A BOS token that the tokenizer has and the prompt lacks is put in
            front: it is the graph's first token.
        targets: what to explain: None for the most probable next tokens; tokens by text or id; a `LogitDifference`;
            or directions [n, d_model] read after the final norm.
        max_n_logits, desired_logit_prob, max_feature_nodes: see `TraceSettings`. Features that are not chosen count to
            the bias node.
        memory_budget: bytes, or text such as "8G", for edges and what computes them; by default half of what is free.
            The graph does not depend on it.
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
    report, settings = progress or silent, TraceSettings(max_n_logits, desired_logit_prob, max_feature_nodes)
    report("run", 0, 1)
    local, memory = prepare(model, prompt, skip_positions=skip_positions, memory_budget=memory_budget)
    logits = choose_targets(model, local.run, targets, settings)
    report("run", 1, 1)
    rows = compute_rows(local, logits, max_feature_nodes, report, memory_bytes=memory)
    checks = {"logit_deviation": measure_deviation(local), "input_sum_gap": input_sum_gap(local, logits, rows)}
    if not all(np.isfinite(value) for value in checks.values()):
        raise ResultError(f"the graph's numbers are not finite ({checks}); the weights hold extreme values.")
    graph = assemble(model, local, logits, rows)
    graph.metadata.update(_metadata(model, prompt, graph, local, settings))
    graph.metadata.update(
        selection={"n_active": len(local.active), "n_selected": len(rows.selected), "unselected_share": rows.left_out},
        scores=graph.scores()._asdict(),
        checks=checks,
    )
    return graph


def _metadata(
    model: LanguageModel, prompt: Prompt, graph: Graph, local: LocalReplacement, settings: TraceSettings
) -> dict[str, Any]:
    """What was run, and how."""
    token_ids = local.run.token_ids
    return {
        **provenance_of(model),
        "prompt": prompt if isinstance(prompt, str) else "".join(graph.prompt_tokens),
        "token_ids": token_ids.tolist(),
        "n_unknown_tokens": _count_unknown(model, token_ids),
        "settings": {
            **asdict(settings),
            "selection_round": SELECTION_ROUND,
            "selection_growth": SELECTION_GROWTH,
            "skipped_positions": local.is_skipped.nonzero().flatten().tolist(),
        },
    }


def _count_unknown(model: LanguageModel, token_ids: Tensor) -> int:
    unknown = None if model.tokenizer is None else model.tokenizer.unk_token_id
    return 0 if unknown is None or unknown == model.bos_token_id else int((token_ids == unknown).sum())
