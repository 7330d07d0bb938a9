"""The attribution graph: a table of nodes and a sparse matrix of edges."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import AttrGraphError, share
from attrgraph.graph import effects, expressions, flow, neighbors, paths, select, stats, without
from attrgraph.graph.explore import explore, in_notebook
from attrgraph.graph.groups import automatic, grouped
from attrgraph.graph.parts import before_pruning, part_of, recomputed, with_scores
from attrgraph.influence import pruning, scores
from attrgraph.influence.influence import logit_weights, without_zeros
from attrgraph.io import json_writing, native, networkx_graph
from attrgraph.io.params import pinned_ids
from attrgraph.schema import inexact_note
from attrgraph.viz import draw

# metadata that follow from a part of a graph: of a graph with another part they would be wrong
_FOLLOWING = {
    "nodes": ("scores",),
    "adjacency": ("scores",),
    "prompt_tokens": ("prompt", "token_ids", "n_unknown_tokens", "skipped_positions", "answer"),
}


def _copied(value: Any) -> Any:
    """A copy of metadata down to every list, several times as fast as `deepcopy`: those of a union are long."""
    if type(value) is dict:
        return {name: _copied(each) for name, each in value.items()}
    if type(value) is list:
        return [each if type(each) in (str, int, float) else _copied(each) for each in value]
    return deepcopy(value)


@dataclass(frozen=True, eq=False)
class Graph:
    """What caused a model's answer, as a directed acyclic graph in layer order.

    Attributes:
        nodes: one row a node, index `node_id`. Columns: `kind` (feature, error, embedding, logit, bias), `layer` (-1
            for embeddings and bias; where a logit is read: n_layers for tokens), `pos` (-1 for bias), `feature` (index
            in its layer; vocabulary id for embeddings and logits, above all ids for a target that is no token; -1
            otherwise), `token` (at the node's position, or the logit's own), `activation` (of a feature; what a logit
            reads; 0 otherwise), `probability` (of a logit's token, 1 for one that is no token; 0 otherwise),
            `bias_share` (the bias node's part of the sum of |edges| into the node; in a part of a graph as in the
            whole, after `without` anew, NaN in graphs of other tools), `influence` on the weighted logits over all
            paths, `cumulative_influence` (share held by this node and all more influential ones), `label`.
        adjacency: float32 CSR `A[target, source]`, in the order of `nodes`: the direct effect of the source on what the
            target reads. With its bias edge a row sums to the target's activation.
        prompt_tokens: the prompt's tokens as text.
        metadata: where the graph comes from: versions, digests, dtype, settings, scores, checks. `checks` has
            `bias_share` too: the bias node's part of all that the answer comes from, over all paths; in a part, of the
            whole's answer.
    """

    nodes: pd.DataFrame
    adjacency: sparse.csr_array
    prompt_tokens: list[str]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.adjacency.data.all():  # a zero that is stored would count as an edge
            object.__setattr__(self, "adjacency", without_zeros(self.adjacency))

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.nodes["kind"].value_counts(sort=False).items())
        parts = [counts, f"{self.adjacency.nnz} edges", inexact_note(self.metadata)]
        return f"Graph({'; '.join(filter(None, parts))})"

    @property
    def n_layers(self) -> int:
        return int(self.metadata["n_layers"])

    @property
    def weights(self) -> np.ndarray:
        """[n_nodes] weight of each logit in influence: its probability; 0 for other nodes."""
        return logit_weights(self.nodes)

    @property
    def pinned(self) -> list[str]:
        """Nodes that were pinned in the explorer or another viewer, as the graph's file has them."""
        params = self.metadata.get("qParams") or {}
        return [name for name in pinned_ids(params.get("pinnedIds")) if name in self.nodes.index]

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> "Graph":
        """Keep the most influential nodes and edges; see `influence.pruning`. The bias node is left out.

        Nodes keep the `influence` they had. The thresholds are recorded in `metadata["pruning"]`, how many nodes and
        edges there were before in `metadata["pruned_from"]`.

        Raises:
            AttrGraphError: a threshold is not between 0 and 1.
        """
        given = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
        thresholds = {name: share(name, value) for name, value in given.items()}
        graph = self.without_bias()
        kept = pruning.prune(graph.nodes, graph.adjacency, **thresholds)
        metadata = {**self.metadata, "pruned_from": before_pruning(self), "pruning": thresholds}
        return with_scores(part_of(graph, kept.nodes, adjacency=kept.adjacency, metadata=metadata))

    def mean_hops(self) -> float:
        """Mean number of features on a path from tokens and errors to the answer; see `influence.scores`.

        The bias node is left out. Two sets of transcoders can explain one answer equally well with different numbers
        of hops: features that write into several layers can do in one what the model does in two.

        Source: path lengths are compared in Ameisen et al. 2025, "Circuit Tracing", section "Attribution Graph
        Evaluation", transformer-circuits.pub/2025/attribution-graphs/methods.html; the warning is from "Cross-layer
        transcoders are incentivized to learn unfaithful circuits", 2026, openreview.net/forum?id=8sE1yCPnbR
        """
        graph = self.without_bias()
        return scores.mean_hops(graph.nodes, graph.adjacency)

    def without_bias(self) -> "Graph":
        """The same graph without its bias node, of which scores do not depend."""
        part = part_of(self, (self.nodes["kind"] != "bias").to_numpy(), metadata={})
        return replace(part, metadata=_copied(self.metadata))

    def replace(self, **parts: Any) -> "Graph":
        """The same graph with other `nodes`, `adjacency`, `prompt_tokens` or `metadata`.

        All are copied: what is changed in the new graph changes in no other. What metadata say of nodes, edges or
        prompt is left out if these are others: their scores, the prompt's text. With other edges alone, influence and
        bias shares are computed anew.

        Raises:
            AttrGraphError: edges of another number of nodes.
        """
        tokens = list(parts.get("prompt_tokens", self.prompt_tokens))
        changed = [name for name in parts if name != "prompt_tokens" or tokens != self.prompt_tokens]
        stale = {name for part in changed for name in _FOLLOWING.get(part, ())}
        kept = {name: value for name, value in parts.get("metadata", self.metadata).items() if name not in stale}
        tables = {"nodes": parts.get("nodes", self.nodes).copy()}
        tables["adjacency"] = sparse.csr_array(parts.get("adjacency", self.adjacency), copy=True)
        n_nodes, shape = len(tables["nodes"]), tables["adjacency"].shape
        if shape != (n_nodes, n_nodes):
            raise AttrGraphError(f"adjacency has the shape {shape}; expected ({n_nodes}, {n_nodes}), [target, source].")
        graph = replace(self, **{**parts, **tables, "prompt_tokens": tokens, "metadata": _copied(kept)})
        has_other_edges = parts.get("adjacency", self.adjacency) is not self.adjacency
        return recomputed(graph) if has_other_edges and "nodes" not in parts else graph

    # questions to the graph
    scores = without.scores
    select = select.select
    query = expressions.query
    predecessors = neighbors.predecessors
    successors = neighbors.successors
    ancestors = neighbors.ancestors
    descendants = neighbors.descendants
    neighborhood = neighbors.neighborhood
    influence = effects.influence
    effect = effects.effect
    paths = paths.paths
    flow = flow.flow
    stats = stats.stats
    without = without.without
    # groups of nodes
    group = grouped.group
    auto_groups = automatic.auto_groups
    # files and pictures
    save = native.save_graph
    to_json = json_writing.write_json
    to_networkx = networkx_graph.to_networkx
    to_dot = draw.to_dot
    explore = explore
    _repr_html_ = in_notebook
