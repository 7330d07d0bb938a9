"""Why a head attends where it does: one score, split into pairs of a source at the query and one at the key.

The score of a head before the softmax is a product of the two streams that enter its layer, at the query's and at the
key's position. With everything below held as it was (attention patterns, norm scales, and the scales of the norms on
the way to query and key) each of the streams is a sum over sources: features, errors, token embeddings, and the bias,
which is everything constant. So

    score[query, key] = sum over sources s, t of  q_s . k_t

where `q_s` and `k_t`, vectors of the head's size, are what the sources bring to the query and to the key. They come
from the same sweep as edges: the rows of the projections are read vectors of the stream that enters the layer.

Source: Kamath et al. 2025, "Tracing Attention Computation Through Feature Interactions",
transformer-circuits.pub/2025/attention-qk/index.html
"""

from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.attribution.exactness import LIMITS
from attrgraph.attribution.prepare import keeps_patterns
from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.attribution.source_table import SOURCE_KINDS, source_table
from attrgraph.attribution.sweep import EdgeSweep, ReadVectors
from attrgraph.errors import AttrGraphError, ResultError, UnsupportedModelError, as_whole, checked
from attrgraph.memory import budget_bytes
from attrgraph.models.attention_scores import HeadScores, recorded_attention
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions, counted, find_special, mask_of
from attrgraph.transcoders import ActiveFeatures, Transcoders

# contributions of pairs that exist at a time: chosen, not tuned
PAIRS_AT_ONCE = 2**22
# roundings that a score may have met on its way, in the model as here: query, key and product, each a sum
_ROUNDINGS = 16


@dataclass(frozen=True, eq=False)
class AttentionExplanation:
    """One head's score of a key for a query, as a sum over pairs of sources.

    Attributes:
        layer, head, query, key: which score; query and key are positions.
        score: as the model computes it from its own streams, scaled, before mask and softmax.
        weight: the attention weight that came of it: what the softmax over all keys gave this one.
        deviation: how far the sum over all pairs is from `score`.
        pattern_deviation: largest difference of the softmax of all scores of this query, computed as `score` is, from
            the weights that the model itself used.
        sources: one row a source, index `node_id`, the last of them the bias. Columns: `kind` (feature, error,
            embedding, bias), `layer`, `pos`, `feature`, `token`, `activation`, `label`, as in a graph's nodes.
        query_vectors: what each source brings to the query, times the scale of scores.
        key_vectors: what each source brings to the key.
    """

    layer: int
    head: int
    query: int
    key: int
    score: float
    weight: float
    deviation: float
    pattern_deviation: float
    sources: pd.DataFrame
    query_vectors: Float[Tensor, "n_sources d_head"]
    key_vectors: Float[Tensor, "n_sources d_head"]

    def __repr__(self) -> str:
        where = f"layer {self.layer}, head {self.head}, {self.query} -> {self.key}"
        return f"AttentionExplanation({where}; score {self.score:.4f}, {len(self.sources)} sources)"

    def pairs(self, n: int = 20) -> pd.DataFrame:
        """The pairs that contribute most, the strongest first, whatever their sign.

        Columns: `query_source`, `query_token`, `query_pos`, `query_label`, the same for the key, and `contribution`.
        Pairs that contribute nothing are left out.

        Raises:
            AttrGraphError: n is negative.
        """
        if n < 0:
            raise AttrGraphError(f"n is {n}; expected how many pairs to give, 0 or more.")
        n_sources, values, places = len(self.sources), list[Tensor](), list[Tensor]()
        step = max(1, PAIRS_AT_ONCE // n_sources)
        for start in range(0, n_sources, step):
            block = (self.query_vectors[start : start + step] @ self.key_vectors.T).flatten()
            best = block.abs().topk(min(n, len(block))).indices
            values.append(block[best])
            places.append(best + start * n_sources)  # query source * n_sources + key source
        value, place = torch.cat(values), torch.cat(places)
        kept = value.abs().topk(min(n, len(value))).indices
        kept = kept[value[kept] != 0]
        value, place = value[kept], place[kept]
        at_query, at_key = np.divmod(place.cpu().numpy(), n_sources)
        sources = self.sources.rename_axis("source").reset_index()[["source", "token", "pos", "label"]]
        sides = [sources.iloc[at_query].add_prefix("query_"), sources.iloc[at_key].add_prefix("key_")]
        pairs = pd.concat([side.reset_index(drop=True) for side in sides], axis=1)
        pairs = pairs.assign(contribution=value.cpu().double().numpy()).sort_values(["query_source", "key_source"])
        return pairs.sort_values("contribution", key=abs, ascending=False, kind="stable", ignore_index=True)

    def by_kind(self) -> pd.DataFrame:
        """Contributions by kind of source at the query (rows) and at the key (columns); they sum to the score."""
        sums = [self._sums_by_kind(vectors) for vectors in (self.query_vectors, self.key_vectors)]
        names = [pd.Index(SOURCE_KINDS, name=f"{side}_kind") for side in ("query", "key")]
        return pd.DataFrame((sums[0] @ sums[1].T).cpu().numpy(), index=names[0], columns=names[1])

    def by_query_source(self) -> pd.DataFrame:
        """`sources` with the `contribution` of each at the query with all at the key, the strongest first."""
        return self._marginal(self.query_vectors, self.key_vectors)

    def by_key_source(self) -> pd.DataFrame:
        """`sources` with the `contribution` of each at the key with all at the query, the strongest first."""
        return self._marginal(self.key_vectors, self.query_vectors)

    def _sums_by_kind(self, vectors: Tensor) -> Float[Tensor, "4 d_head"]:
        codes = torch.tensor([SOURCE_KINDS.index(kind) for kind in self.sources["kind"]], device=vectors.device)
        sums = vectors.new_zeros(len(SOURCE_KINDS), vectors.shape[1], dtype=torch.float64)
        return sums.index_add_(0, codes, vectors.double())

    def _marginal(self, vectors: Tensor, others: Tensor) -> pd.DataFrame:
        contribution = (vectors.double() @ others.double().sum(0)).cpu().numpy()
        order = np.argsort(-np.abs(contribution), kind="stable")
        return self.sources.assign(contribution=contribution).iloc[order]


@torch.no_grad()
@checked
def explain_attention(
    model: LanguageModel,
    prompt: Prompt,
    layer: int,
    head: int,
    query: int,
    key: int,
    **options: Unpack[PromptOptions],
) -> AttentionExplanation:
    """Which pairs of features, errors and tokens make a head attend from one position to another.

    score[query, key] = sum over sources s, t of  q_s . k_t

    Args:
        model: a language model with transcoders.
        prompt: as for `trace`.
        layer, head: which attention head; heads that share a key head each have their own queries.
        query, key: positions in the prompt, from the end if negative; the key at or before the query.
        options: prepend and skip_positions, as for `trace`.

    Raises:
        PromptError: the prompt is not one for this model, or a position is not in it.
        AttrGraphError: a layer, a head, or a pair of positions that the model computes no score for.
        UnsupportedModelError: the model soft-caps its scores, which are then no sum over pairs.
        TranscoderError: the model has no transcoders.
        ResultError: the scores computed here do not give the model's own attention weights, or pairs do not sum up.

    Source: Kamath et al. 2025, "Tracing Attention Computation Through Feature Interactions",
    transformer-circuits.pub/2025/attention-qk/index.html

    Example:
        >>> import attrgraph as ag
        >>> prompt = "in the state containing dallas the capital is"
        >>> found = ag.explain_attention(ag.load_model("demo"), prompt, layer=2, head=0, query=8, key=5)
        >>> found.deviation < 1e-5
        True
    """
    transcoders = model.need_transcoders()
    token_ids = model.tokenize(prompt, prepend=options.get("prepend", "auto"))
    query, key = (counted(pos, len(token_ids), name) for name, pos in (("query", query), ("key", key)))
    _check(model, layer, head, query, key)
    memory = budget_bytes(None, model.device)
    with recorded_attention(model, layer) as seen:
        run = model.run(token_ids, keep_patterns=keeps_patterns(model, len(token_ids), memory))
    assert seen.stream is not None  # the run has called every layer
    scores = HeadScores.of(model, layer, head, seen.rotary)
    weights = run.blocks[layer].attention.pattern[head, query].to(seen.stream.device)
    first = _first_key(model, layer, query)
    own_scores, pattern_deviation = _own_scores(model, scores, seen.stream, weights, first, query)
    local = _below(run, transcoders, layer, mask_of(find_special(model, run, **options), run))
    edges = EdgeSweep(local, memory_bytes=memory).edges(_reads(scores, seen.stream, layer, query, key))
    sources = source_table(model, local)
    columns = np.flatnonzero(sources["pos"] <= query)
    at_query, at_key = edges[:, torch.from_numpy(columns).to(edges.device)].T.tensor_split(2, dim=1)
    at_query = scores.scale * at_query
    score = float(own_scores[key])
    checks = _deviation(model, layer, at_query, at_key, score), pattern_deviation
    vectors = at_query.contiguous(), at_key.contiguous()
    where, weight = (layer, head, query, key), float(weights[key])
    return AttentionExplanation(*where, score, weight, *checks, sources.iloc[columns], *vectors)


def _check(model: LanguageModel, layer: int, head: int, query: int, key: int) -> None:
    """Raise unless the model computes this score, and computes it as a product."""
    n_heads = int(model.config.num_attention_heads)
    for name, value, n in (("layer", layer, model.n_layers), ("head", head, n_heads)):
        if (whole := as_whole(value)) is None or not 0 <= whole < n:
            raise AttrGraphError(f"{name} is {value!r}; expected 0 to {n - 1}.")
    if key > query:
        raise AttrGraphError(f"key {key} comes after query {query}; attention looks back only, so there is no score.")
    first = _first_key(model, layer, query)
    if key < first:
        raise AttrGraphError(
            f"layer {layer} has a sliding window of {query - first + 1} positions: query {query} sees keys {first} to "
            f"{query}, not {key}."
        )
    cap = model.family.score_cap(model.config)
    if cap is not None:
        raise UnsupportedModelError(
            f"the model soft-caps its attention scores at {cap} (attn_logit_softcapping): a capped score is not a "
            "sum over pairs of sources, so it cannot be split."
        )


def _first_key(model: LanguageModel, layer: int, query: int) -> int:
    """The first position that a query of the layer sees."""
    window = model.family.window(model.attention_module(layer), model.config)
    return 0 if window is None else max(0, query - window + 1)


def _own_scores(
    model: LanguageModel, scores: HeadScores, stream: Tensor, weights: Tensor, first: int, query: int
) -> tuple[Float[Tensor, " n_keys"], float]:
    """Scores of the query from the model's own stream, and how far their softmax is from the model's own weights."""
    row = scores.row(query, stream)
    softmax = row[first:].double().softmax(0)
    deviation = float((softmax - weights[first : query + 1].double()).abs().max())
    # a score is rounded to the model's precision, relative to its size, and a weight moves by no more than its score;
    # the model's softmax is float32 whatever its type
    eps = max(torch.finfo(model.precision).eps, torch.finfo(torch.float32).eps)
    if not deviation <= _ROUNDINGS * eps * (1 + float(row[first:].abs().max())):
        raise ResultError(
            f"the scores computed for query {query} give attention weights that differ from the model's own by "
            f"{deviation:.2g}; something changes the layer's forward pass (a hook), or transformers computes attention "
            "in a way that is not known here."
        )
    return row, deviation


def _deviation(model: LanguageModel, layer: int, at_query: Tensor, at_key: Tensor, score: float) -> float:
    """How far the sum over all pairs is from the score."""
    query, key = (side.double().sum(0) for side in (at_query, at_key))
    deviation, allowed = abs(float(query @ key) - score), LIMITS[model.precision] * float(query.norm() * key.norm())
    if not deviation <= allowed:
        raise ResultError(
            f"the sum over pairs is {deviation:.2g} from the score, where rounding explains {allowed:.2g}. Something "
            f"changes the model's forward pass below layer {layer} (a hook, quantisation), or weights are extreme."
        )
    return deviation


def _below(
    run: FrozenRun, transcoders: Transcoders, layer: int, is_skipped: Bool[Tensor, " n_pos"]
) -> LocalReplacement:
    """The local replacement model cut off below a layer: it ends in that layer's attention norm."""
    cut = replace(run, blocks=run.blocks[:layer], final_norm=run.blocks[layer].attention_norm)
    # what cross-layer features write into the layer and above is beyond the end
    weights = [replace(w, W_dec=w.W_dec[:, : layer - i]) for i, w in enumerate(transcoders.layers[:layer])]
    dictionaries = Transcoders(weights, transcoders.config, source=transcoders.source, labels=transcoders.labels)
    if layer:
        # with whole rows of decoders, which are read without a copy
        return replace(build_replacement(cut, transcoders, is_skipped), transcoders=dictionaries)
    none = run.token_ids.new_zeros(0)
    no_features = ActiveFeatures(none, none, none, run.embedding.new_zeros(0))
    nothing = run.embedding.new_zeros(0, *run.embedding.shape)
    return LocalReplacement(cut, dictionaries, no_features, nothing, nothing, is_skipped)


def _reads(scores: HeadScores, stream: Tensor, layer: int, query: int, key: int) -> ReadVectors:
    """The dimensions of query and key as targets at the end of the cut-off model."""
    sides = scores.query.frozen_at(query, stream), scores.key.frozen_at(key, stream)
    pos = torch.tensor([query, key], device=stream.device).repeat_interleave(len(sides[0].matrix))
    vectors, constants = torch.cat([side.matrix for side in sides]), torch.cat([side.bias for side in sides])
    return ReadVectors(torch.full_like(pos, layer), pos, vectors, constants)
