"""Tables that need no change of the model: errors, thresholds, other prompts, other transcoders."""

from collections.abc import Sequence
from typing import Any, Unpack

import pandas as pd

from attrgraph.attribution.trace import trace
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions, same_options
from attrgraph.transcoders import Transcoders

_NODE_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# features of a graph that are compared with those of another prompt's
_N_TOP = 20


def facts(graph: Graph, answer: int) -> dict[str, Any]:
    """Single numbers of a graph; `answer` is the row of the logit that experiments look at."""
    row, scores = graph.nodes.iloc[answer], graph.scores()
    return {
        "answer": row["token"],
        "probability": float(row["probability"]),
        **scores._asdict(),
        "mean_hops": graph.mean_hops(),
        "n_features": int((graph.nodes["kind"] == "feature").sum()),
        "n_targets": int((graph.nodes["kind"] == "logit").sum()),
        **{
            name: graph.metadata.get("checks", {}).get(name)
            for name in ("logit_deviation", "input_sum_gap", "bias_share", "is_exact")
        },
        "unselected_share": graph.metadata.get("selection", {}).get("unselected_share"),
    }


def error_share(graph: Graph) -> pd.DataFrame:
    """Influence of errors by layer, as a share of that of all errors and tokens."""
    nodes = graph.nodes
    ends = nodes[nodes["kind"].isin(("error", "embedding"))]
    by_layer = ends[ends["kind"] == "error"].groupby("layer")["influence"].sum() / ends["influence"].sum()
    return by_layer.rename("share").reset_index()


def stability(graph: Graph) -> pd.DataFrame:
    """The pruned graph at several node thresholds, and how many features it shares with the one at 0.8 (Jaccard)."""
    kept = {threshold: graph.prune(threshold) for threshold in _NODE_THRESHOLDS}
    features = {threshold: _feature_ids(pruned) for threshold, pruned in kept.items()}
    default = features[0.8]
    rows = []
    for threshold, pruned in kept.items():
        scores, either = pruned.scores(), features[threshold] | default
        rows.append(
            {
                "node_threshold": threshold,
                "n_features": len(features[threshold]),
                "n_edges": pruned.adjacency.nnz,
                **scores._asdict(),
                "shared_with_default": len(features[threshold] & default) / len(either) if either else 1.0,
            }
        )
    return pd.DataFrame(rows)


def paraphrases(
    model: LanguageModel,
    graph: Graph,
    prompts: Sequence[Prompt],
    *,
    memory_budget: int | str | None = None,
    **options: Unpack[PromptOptions],
) -> pd.DataFrame:
    """For each other prompt: its answer, and which share of the top features, wherever they are, is the same."""
    top, answer = _top(graph), _answer(graph)
    rows = []
    for prompt in prompts:
        other = trace(model, prompt, memory_budget=memory_budget, **options)
        theirs = _top(other)
        rows.append(
            {
                "prompt": " ".join(other.prompt_tokens),
                "answer": _answer(other),
                "has_same_answer": _answer(other) == answer,
                "shared_top_features": len(top & theirs) / max(1, min(len(top), len(theirs))),
            }
        )
    return pd.DataFrame(rows)


def compared(
    model: LanguageModel, graph: Graph, transcoders: Transcoders, *, memory_budget: int | str | None = None
) -> pd.DataFrame:
    """Scores and mean hops of the graph, and of the graph that other transcoders give of the same prompt and answers.

    A cross-layer transcoder can write the result of two steps at once: then its graph shows one hop where a per-layer
    one shows two.
    """
    other = LanguageModel(model.hf_model, model.tokenizer, transcoders=transcoders, source=model.source)
    answers = graph.nodes.loc[graph.nodes["kind"] == "logit", "feature"].tolist()
    how: dict[str, Any] = {"memory_budget": memory_budget, **same_options(graph.metadata)}
    theirs = trace(other, graph.metadata["token_ids"], targets=answers, **how)
    rows = []
    for each in (graph, theirs):
        scores, recorded = each.scores(), each.metadata["transcoders"]
        rows.append(
            {
                "transcoders": recorded["id"],
                "kind": recorded["kind"],
                "answer": _answer(each),
                **scores._asdict(),
                "mean_hops": each.mean_hops(),
                "n_features_pruned": len(_feature_ids(each.prune())),
            }
        )
    return pd.DataFrame(rows)


def _feature_ids(graph: Graph) -> set[str]:
    return set(graph.nodes.index[graph.nodes["kind"] == "feature"])


def _top(graph: Graph) -> set[tuple[int, int]]:
    features = graph.nodes[graph.nodes["kind"] == "feature"].nlargest(_N_TOP, "influence")
    return set(zip(features["layer"].tolist(), features["feature"].tolist(), strict=True))


def _answer(graph: Graph) -> str:
    logits = graph.nodes[graph.nodes["kind"] == "logit"]
    return str(logits.loc[logits["probability"].idxmax(), "token"])
