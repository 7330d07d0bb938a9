"""What transcoders are worth on a text.

Measured at every token but BOS, or where the tokenizer has none the first of each row, and but attention sinks;
see `attrgraph.models.special`. Reconstructions (`nmse`, `l0`, dead features, densities) read the true model's
activations. Answers (`kl`, `top1_agreement`, cross-entropies) are those of the model with the MLPs of all these tokens
replaced at once, attention and norms live, so that errors add up from layer to layer. Graph scores are of attribution
graphs, which hold errors as nodes.

Intervals are a bootstrap over documents, because tokens of one document are alike: documents are drawn with
replacement, and the measure is computed from sums over them. The mean that NMSE takes deviations from stays that of
the whole text. Where the sums of all documents would take more than 256 MiB, neighbouring documents are drawn
together. With one document there is nothing to draw, and no interval.

Source: what is measured follows Ameisen et al. 2025, "Circuit Tracing", section "Cross-Layer Transcoder Evaluation",
transformer-circuits.pub/2025/attribution-graphs/methods.html; the share of cross-entropy recovered Bricken et al. 2023,
"Towards Monosemanticity", transformer-circuits.pub/2023/monosemantic-features
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from attrgraph.attribution.provenance import library_versions
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import AttrGraphError, checked
from attrgraph.evaluation.graphs import N_PROMPT_TOKENS, graph_scores
from attrgraph.evaluation.measure import Measured, check_rows, measure
from attrgraph.evaluation.report import MEASURES, Evaluation, GraphScores, Interval, LayerEvaluation
from attrgraph.evaluation.stand_ins import StandIn, TranscoderStandIn
from attrgraph.evaluation.statistics import Density, interval, measures, resample, with_deviation
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions, plain_positions, why_left_out
from attrgraph.progress import Progress, shown
from attrgraph.transcoders import Transcoders

_WITH_INTERVAL = ("nmse", "l0", "top1_agreement", "kl", "ce_recovered")
_GRAPH_INTERVALS = ("graph_replacement", "graph_completeness")


@checked
def evaluate(
    model: LanguageModel,
    transcoders: Transcoders | StandIn,
    rows: TokenRows,
    *,
    n_graphs: int = 10,
    n_resamples: int = 1000,
    seed: int = 0,
    batch_tokens: int = 4096,
    skip_positions: SkipPositions = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """How well transcoders stand in for a model's MLPs on a text; see the module for what is measured.

    Args:
        model: the model; transcoders that it already has are not used.
        transcoders: what to evaluate: transcoders, or `neuron_baseline(...)`.
        rows: the text, see `attrgraph.data.corpus.read_corpus`. Two rows never see each other.
        n_graphs, n_resamples, seed: prompts to trace for graph scores; of the bootstrap.
        batch_tokens: tokens that the model runs on at once, fewer with a vocabulary above 32,768.
        skip_positions: tokens not measured: "auto" (see the module), "none", or positions of each row.
        progress: called as `progress(phase, done, total)`.

    Raises:
        PromptError, TranscoderError, ResultError: what does not fit the model, too few tokens, a number not finite.

    Example:
        >>> import attrgraph as ag
        >>> from attrgraph.data.corpus import TokenRows
        >>> model = ag.load_model("demo")
        >>> row = model.tokenize("in the state containing dallas the capital is austin")
        >>> ag.evaluate(model, model.transcoders, TokenRows([row], [0], {}), n_graphs=0).n_tokens
        9
    """
    if n_graphs < 0 or n_resamples < 1 or batch_tokens < 1:
        raise AttrGraphError("n_graphs must be at least 0, n_resamples and batch_tokens at least 1.")
    check_rows(model, rows)
    stand_in = TranscoderStandIn(model, transcoders) if isinstance(transcoders, Transcoders) else transcoders
    which: dict[str, Any] = {"skip_positions": skip_positions, "progress": shown(progress)}
    measured = measure(model, stand_in, rows, batch_tokens=batch_tokens, **which)
    of = transcoders if isinstance(transcoders, Transcoders) else None  # neurons have no graphs
    scores = np.zeros((0, 2)) if of is None else graph_scores(model, of, rows, n_graphs=n_graphs, **which)
    columns = with_deviation(measured.sums)
    found = _of_text(columns)
    numbers: dict[str, Any] = {name: float(found[name]) for name in MEASURES if name in found}
    numbers |= {name: getattr(measured, name) for name in ("n_tokens", "n_skipped", "n_sinks", "n_documents")}
    return Evaluation(
        **numbers,
        dead_fraction=float(np.mean(np.concatenate(measured.n_firings) == 0)),
        per_layer=_by_layer(found, measured),
        intervals=_intervals(columns, scores, n_resamples=n_resamples, seed=seed),
        graphs=_mean_scores(scores),
        model=_model_source(model),
        transcoders=stand_in.source,
        text=rows.sources,
        settings={"n_resamples": n_resamples, "seed": seed, "skip_positions": plain_positions(skip_positions)}
        | {"n_blocks_of_documents": len(columns["n_tokens"]), "n_prompt_tokens": N_PROMPT_TOKENS}
        | {"skipped": why_left_out(model, skip_positions)},
        versions=library_versions(),
    )


def _of_text(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The measures of all parts together."""
    of_text = measures({name: column.sum(0, keepdims=True) for name, column in columns.items()})
    return {name: values[0] for name, values in of_text.items()}


def _model_source(model: LanguageModel) -> dict[str, Any]:
    dtype = str(model.dtype).removeprefix("torch.")
    return {**model.source, "family": model.family.name, "dtype": dtype, "device": model.device.type}


def _mean_scores(scores: Float[np.ndarray, "n_graphs 2"]) -> GraphScores:
    replacement, completeness = scores.mean(0) if len(scores) else (np.nan, np.nan)
    return GraphScores(float(replacement), float(completeness), len(scores))


def _by_layer(found: dict[str, np.ndarray], measured: Measured) -> tuple[LayerEvaluation, ...]:
    return tuple(
        LayerEvaluation(
            layer=layer,
            nmse=float(found["nmse_by_layer"][layer]),
            l0=float(found["l0_by_layer"][layer]),
            dead_fraction=float(np.mean(n_firings == 0)),
            density=Density.of(n_firings, measured.n_tokens),
        )
        for layer, n_firings in enumerate(measured.n_firings)
    )


def _intervals(
    columns: dict[str, np.ndarray], scores: Float[np.ndarray, "n_graphs 2"], *, n_resamples: int, seed: int
) -> dict[str, Interval]:
    intervals: dict[str, Interval] = dict.fromkeys((*_WITH_INTERVAL, *_GRAPH_INTERVALS))
    if len(columns["n_tokens"]) > 1:
        resampled = measures(resample(columns, n_resamples=n_resamples, seed=seed))
        intervals |= {name: interval(resampled[name]) for name in _WITH_INTERVAL}
    if len(scores) > 1:
        means = resample({"scores": scores}, n_resamples=n_resamples, seed=seed)["scores"] / len(scores)
        intervals |= {name: interval(means[:, i]) for i, name in enumerate(_GRAPH_INTERVALS)}
    return intervals
