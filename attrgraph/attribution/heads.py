"""An edge of a graph, split over attention heads: which heads carried the effect, layer by layer.

With attention patterns and norm scales frozen, an edge is a sum over linear paths. At any layer between source and
target a path either stays in the stream, or goes through exactly one of the layer's heads, or has not begun: a
cross-layer feature writes into several layers. So at every such layer

    A[target, source] = residual + sum over heads + later
    residual = x . g        head h = x . (head h)^T g'        later = sum over l' >= layer of  v[l'] . g[l']

where `x` is what the source has written into the stream that enters the layer, carried up from where it wrote it, `g`
the target's read vector carried down to the same place past everything but the layer's attention, `g'` the same at
what attention adds to the stream, and `v[l']` what the source writes into layer l'. A transcoder's linear skip is no
head: paths through it are in the stream, those through a head and then the skip are that head's.

The effects of one layer sum to the edge. Those of different layers do not add up: a path goes through all of them.

Source: Kamath et al. 2025, "Tracing Attention Computation Through Feature Interactions", section on head loadings,
transformer-circuits.pub/2025/attention-qk/index.html
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.provenance import origin_of
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.sweep import ReadVectors
from attrgraph.attribution.target_words import token_id_of
from attrgraph.attribution.targets import At, FeatureTarget, LogitDifference, choose_targets
from attrgraph.errors import AttrGraphError, ResultError, TargetError, checked
from attrgraph.graph.graph import Graph
from attrgraph.graph.origin import check_traced_model
from attrgraph.models.folded import AttentionAdjoint, SkipAdjoint
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.load_model import load_model
from attrgraph.models.special import same_options
from attrgraph.schema import canonical_id, feature_place

# How far the sum may be from the edge, as a share of what a dot product rounds by: the lengths of what is written times
# those of what is read. Another machine adds up in another order, which moves norm scales and patterns by some 1e-6 in
# float32 and by some 1e-2 in half precision; another model moves an edge by more than itself.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2


@torch.no_grad()
@checked
def head_loadings(graph: Graph, source: str, target: str, *, model: LanguageModel | None = None) -> pd.DataFrame:
    """How much of an edge went through which attention head, at every layer between its ends.

    A[target, source] = residual + sum over heads + later, at each layer

    Args:
        graph: traced by this package; pruned or not.
        source: node id of a feature, an error or an embedding.
        target: node id of a feature or a logit above it.
        model: the one that the graph was traced on; loaded again if it is not given.

    Returns:
        One row for each layer and way, ascending: `layer`; `via`: "residual" (in the stream past the layer's
        attention), "head", or "later" (written at this layer or above); `head`: its number, -1 for the others; and
        `effect`. The effects of a layer sum to the edge. There is no row if no attention lies between the two.

    Raises:
        AttrGraphError: a node that the graph does not have or that is no end of an edge, two nodes without an edge, or
            a graph that does not say what it was traced from.
        TargetError: a logit node whose read vector the graph does not tell: one traced for a direction.
        ModelLoadError, TranscoderError: the model cannot be loaded again, or it is not the graph's.
        ResultError: the effects do not sum to the graph's edge: the model or the run is not the graph's.

    Source: Kamath et al. 2025, "Tracing Attention Computation Through Feature Interactions",
    transformer-circuits.pub/2025/attention-qk/index.html

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in the state containing dallas the capital is")
        >>> logit = graph.nodes.query("kind == 'logit'").index[0]
        >>> loadings = ag.head_loadings(graph, "0_-1_5", logit)
        >>> sorted(set(loadings["via"]))
        ['head', 'later', 'residual']
    """
    source, target = canonical_id(source), canonical_id(target)
    edge = _edge(graph, source, target)
    model = load_model(**origin_of(graph)) if model is None else model
    check_traced_model(graph, model)
    local, _ = prepare(model, graph.metadata["token_ids"], **same_options(graph.metadata))
    written = _written(local, graph.nodes.loc[source], source)
    read = _read(model, local, graph.nodes.loc[target], target)
    rows, total, size = _split(local, int(graph.nodes.loc[source, "pos"]), written, read)
    is_half = torch.finfo(model.precision).bits < 32
    allowed = (_HALF_TOLERANCE if is_half else _TOLERANCE) * size
    if not all(abs(effect - edge) <= allowed for effect in (total, *rows.groupby("layer")["effect"].sum())):
        raise ResultError(
            f"the effects of {source} on {target} sum to {total:.6g}, the graph's edge is {edge:.6g}, and "
            f"rounding explains {allowed:.2g}; was the graph traced on this model, and are its edges as they were?"
        )
    return rows


def _edge(graph: Graph, source: str, target: str) -> float:
    """The edge's weight in the graph; raises for two nodes between which there can be none."""
    for name in (source, target):
        if name not in graph.nodes.index:
            raise AttrGraphError(f"the graph has no node {name!r}; node ids are the index of graph.nodes.")
    at, to = graph.nodes.loc[source], graph.nodes.loc[target]
    if at["kind"] not in ("feature", "error", "embedding"):
        raise AttrGraphError(f"source {source} has kind {at['kind']}; expected a feature, an error or an embedding.")
    if to["kind"] not in ("feature", "logit"):
        raise AttrGraphError(f"target {target} has kind {to['kind']}; expected a feature or a logit.")
    if at["layer"] >= to["layer"] or at["pos"] > to["pos"]:
        raise AttrGraphError(
            f"there is no edge from {source} (layer {at['layer']}, position {at['pos']}) to {target} (layer "
            f"{to['layer']}, position {to['pos']}): a source lies in a lower layer, at the same position or before."
        )
    missing = [key for key in ("token_ids", "settings") if key not in graph.metadata]
    if missing:
        raise AttrGraphError(
            f"the graph's metadata has no {' and no '.join(missing)}, so the run cannot be repeated; the graph was "
            "made by another tool. Trace the prompt with this package."
        )
    edge = float(graph.adjacency[graph.nodes.index.get_loc(target), graph.nodes.index.get_loc(source)])
    if edge == 0 and "pruning" in graph.metadata:
        raise AttrGraphError(
            f"the edge from {source} to {target} was pruned away, if there was one; take the unpruned graph."
        )
    return edge


def _written(local: LocalReplacement, node: Any, name: str) -> dict[int, Float[Tensor, " d_model"]]:
    """What a source writes into the stream at its position, by layer; an embedding at -1, below all layers."""
    layer, pos, run = int(node["layer"]), int(node["pos"]), local.run
    if node["kind"] == "embedding":
        return {-1: run.embedding[pos]}
    if node["kind"] == "error":
        return {layer: _to_stream(local, layer, pos, local.errors[layer, pos])}
    active, rows, feature = local.active, local.active.in_layer(layer), int(node["feature"])
    is_it = (active.pos[rows] == pos) & (active.feature[rows] == feature)
    if not bool(is_it.any()):
        raise ResultError(f"feature {name} is not active in this run; was the graph traced on this model?")
    activation, index = active.activation[rows][is_it][0], active.feature[rows][is_it]
    written = {}
    for into in range(layer, layer + local.transcoders.n_targets(layer)):
        row = local.transcoders.decoder_rows(layer, into, index, out=run.embedding.new_empty(1, run.embedding.shape[1]))
        written[into] = _to_stream(local, into, pos, activation * row[0])
    return written


def _to_stream(local: LocalReplacement, layer: int, pos: int, vector: Tensor) -> Tensor:
    norm = local.write_norm(layer)
    at = torch.tensor([pos], device=vector.device)
    return vector if norm is None else norm.linear(vector[None], at)[0]


def _read(model: LanguageModel, local: LocalReplacement, node: Any, name: str) -> ReadVectors:
    """The target's read vector at its layer, in front of the norm that it reads through."""
    if node["kind"] == "feature":
        device = local.run.embedding.device
        layer, pos, feature = (torch.tensor([int(node[name])], device=device) for name in ("layer", "pos", "feature"))
        rows = local.transcoders.encoder_rows(int(layer), feature, local.run.embedding)
        reads, norm = ReadVectors(layer, pos, *rows), local.read_norm(int(layer))
    else:
        reads = _logit_read(model, local, node, name)
        top = int(reads.layer)
        norm = local.run.final_norm if top == local.run.n_layers else local.read_norm(top)
    return reads if norm is None else replace(reads, vector=norm.transpose(reads.vector, reads.pos))


def _logit_read(model: LanguageModel, local: LocalReplacement, node: Any, name: str) -> ReadVectors:
    token, text, pos = int(node["feature"]), str(node["token"]), int(node["pos"])
    if token < model.d_vocab:
        return choose_targets(model, local.run, At(pos, token)).reads
    if int(node["layer"]) < local.run.n_layers and (place := feature_place(text)):
        return choose_targets(model, local.run, FeatureTarget(*place, pos)).reads
    for pair in _pairs_named(model, text) if int(node["layer"]) == local.run.n_layers else ():
        found = choose_targets(model, local.run, At(pos, pair))
        # files of other formats do not keep what a logit reads: there the edge alone says whether it is the right one
        value, stored = float(found.value[0]), float(node["activation"])
        if not stored or abs(value - stored) <= 1e-2 * max(1.0, abs(stored)):
            return found.reads
    raise TargetError(
        f"target {name} ({node['token']!r}) is no token of the vocabulary, nor a difference of two tokens that its "
        "name tells apart; a graph does not keep the vectors of directions, so its edges into them cannot be split."
    )


def _pairs_named(model: LanguageModel, text: str) -> Iterator[LogitDifference]:
    """Differences of two tokens whose name this is."""
    for separator in re.finditer(" - ", text):
        first, second = text[: separator.start()], text[separator.end() :]
        numbers = [re.fullmatch(r"<(\d+)>", part) for part in (first, second)]
        if model.tokenizer is None and all(numbers):
            yield LogitDifference(*(int(match[1]) for match in numbers if match))
        elif model.tokenizer is not None:
            try:
                yield LogitDifference(token_id_of(model, first), token_id_of(model, second))
            except TargetError:
                continue


def _split(
    local: LocalReplacement, pos: int, written: dict[int, Tensor], read: ReadVectors
) -> tuple[pd.DataFrame, float, float]:
    """Carry the read vector down, and at each layer multiply it with what the source has written so far.

    Returns:
        The effects, the edge, and the size of the terms of which the edge is the sum.
    """
    run, top, bottom = local.run, int(read.layer[0]), min(written)
    streams, rows = _streams(local, pos, written, top), []
    g = run.embedding.new_zeros(1, run.n_pos, run.embedding.shape[1])
    if top == run.n_layers:
        g[0, read.pos[0]] += read.vector[0]
    later = size = 0.0
    for layer in range(min(top, run.n_layers - 1), bottom - 1, -1):
        into = written.get(layer)
        if into is not None and layer < top:
            later += float(into.double() @ g[0, pos].double())
            size += float(into.norm() * g[0, pos].norm())
        if layer == bottom:
            break
        block = run.blocks[layer]
        # a parallel block adds what attention writes at the block's end, else before the transcoder's skip
        at_attention = g.clone() if block.is_parallel else g
        W_skip = local.transcoders.layers[layer].W_skip
        if W_skip is not None:
            SkipAdjoint.of(W_skip.to(g), local.read_norm(layer), local.write_norm(layer)).add_to(g)
        if layer == top:
            g[0, read.pos[0]] += read.vector[0]
        if block.is_parallel and layer == top:
            continue  # the target reads what attention reads
        attention, x = AttentionAdjoint.of(block), streams[layer]
        rows.append((layer, "residual", -1, float((x.double() * g[0]).sum())))
        rows += [(layer, "head", head, effect) for head, effect in enumerate(_by_head(attention, x, at_attention[0]))]
        rows.append((layer, "later", -1, later))
        attention.add_to(g, at_attention, n_spread=1, pos=read.pos)
    types = {"layer": "int64", "via": "str", "head": "int64", "effect": "float64"}
    table = pd.DataFrame(rows, columns=list(types)).astype(types)
    return table.sort_values("layer", kind="stable", ignore_index=True), later, size


def _streams(
    local: LocalReplacement, pos: int, written: dict[int, Tensor], top: int
) -> dict[int, Float[Tensor, "n_pos d_model"]]:
    """What a source has written into the stream that enters each block up to the target's, carried up."""
    streams, stream = dict[int, Tensor](), torch.zeros_like(local.run.embedding)
    for layer in range(min(written), min(top + 1, local.run.n_layers)):
        if layer >= 0:
            streams[layer] = stream
            stream = local.carry(layer, stream, lambda _, read: torch.zeros_like(read), is_linear=True)
        if layer in written:
            stream[pos] += written[layer]
    return streams


def _by_head(
    attention: AttentionAdjoint, x: Float[Tensor, "n_pos d_model"], g: Float[Tensor, "n_pos d_model"]
) -> list[float]:
    """x . (head)^T g for each head: over all queries and keys."""
    n_heads = len(attention.pattern)
    values = (x @ attention.W_in.T).unflatten(1, (attention.n_value_heads, -1)).transpose(0, 1)
    reads = (g @ attention.W_out).unflatten(1, (n_heads, -1)).transpose(0, 1)
    mixed = attention.pattern @ values.repeat_interleave(n_heads // attention.n_value_heads, dim=0)
    effects: list[float] = (mixed.double() * reads).sum((1, 2)).tolist()
    return effects
