"""The attribution graph: a table of nodes and a sparse matrix of edges."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph import influence
from attrgraph.errors import AttrGraphError
from attrgraph.influence import Scores

if TYPE_CHECKING:
    import networkx as nx

    from attrgraph.models.language_model import LanguageModel
    from attrgraph.queries.select import Numbers, Texts
    from attrgraph.queries.selections import Nodes, Selection
    from attrgraph.supernodes.flows import Groups
    from attrgraph.supernodes.grouped import GroupedGraph

# files keep a kind as its place in this tuple; the last three are in other tools' graphs only
KINDS = ("feature", "error", "embedding", "logit", "bias", "attention feature", "attention error", "unknown")
BIAS_ID = "B"
# columns of the node table and their types; "str" is what pandas calls text
COLUMNS = {
    "kind": "str",
    "layer": "int64",
    "pos": "int64",
    "feature": "int64",
    "token": "str",
    "activation": "float64",
    "probability": "float64",
    "influence": "float64",
    "cumulative_influence": "float64",
    "label": "str",
}


@dataclass(frozen=True, eq=False)
class Graph:
    """What caused a model's answer, as a directed acyclic graph in layer order.

    Attributes:
        nodes: one row a node, index `node_id`. Columns: `kind` (feature, error, embedding, logit, bias), `layer` (-1
            for embeddings and bias, n_layers for logits), `pos` (-1 for bias), `feature` (index in its layer;
            vocabulary id for embeddings and logits; -1 otherwise), `token` (at the node's position, or the logit's
            own), `activation` (of a feature; what a logit reads; 0 otherwise), `probability` (of a logit's token; 0
            otherwise), `influence` on the weighted logits over all paths, `cumulative_influence` (share held by this
            node and all more influential ones), `label`.
        adjacency: float32 CSR `A[target, source]`, in the order of `nodes`: the direct effect of the source on what the
            target reads. With its bias edge a row sums to the target's activation.
        prompt_tokens: the prompt's tokens as text.
        metadata: where the graph comes from: versions, digests, dtype, settings, scores, checks.
    """

    nodes: pd.DataFrame
    adjacency: sparse.csr_array
    prompt_tokens: list[str]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.adjacency.data.all():  # a zero that is stored would count as an edge
            object.__setattr__(self, "adjacency", influence.without_zeros(self.adjacency))

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.nodes["kind"].value_counts(sort=False).items())
        return f"Graph({counts}; {self.adjacency.nnz} edges)"

    @property
    def n_layers(self) -> int:
        return int(self.metadata["n_layers"])

    @property
    def weights(self) -> np.ndarray:
        """[n_nodes] weight of each logit in influence: its probability; 0 for other nodes."""
        return np.where(self.nodes["kind"] == "logit", self.nodes["probability"], 0.0).astype(np.float64)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> "Graph":
        """Keep the most influential nodes and edges; see `attrgraph.influence.prune`. The bias node is left out.

        Nodes keep the `influence` they had. The thresholds are recorded in `metadata["pruning"]`, how many nodes and
        edges there were before in `metadata["pruned_from"]`.

        Raises:
            AttrGraphError: a threshold is not between 0 and 1.
        """
        for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
            if not 0 <= value <= 1:
                raise AttrGraphError(f"{name} is {value}; expected a number between 0 and 1.")
        graph = self.without_bias()
        kept = influence.prune(
            graph.adjacency,
            graph.nodes["layer"].to_numpy(),
            graph.nodes["kind"].to_numpy(),
            graph.weights,
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
        )
        pruning = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
        before: dict[str, Any] = {"nodes": len(graph.nodes), "edges": graph.adjacency.nnz}
        if "pruning" in self.metadata:
            before["pruning"] = self.metadata["pruning"]
        return Graph(
            graph.nodes[kept.nodes],
            sparse.csr_array(kept.adjacency[kept.nodes][:, kept.nodes]),
            self.prompt_tokens,
            {**self.metadata, "pruned_from": self.metadata.get("pruned_from", before), "pruning": pruning},
        )

    def scores(self, pinned: "Nodes | None" = None) -> Scores:
        """Replacement and completeness score of this graph as it is; see `attrgraph.influence.scores`.

        With `pinned`, of an explanation that keeps these features only, as Neuronpedia scores pinned nodes: every other
        feature counts as an error. What it leads to is added to the edges of the error node of its layer and position,
        with signs, and nothing leads to it. If the graph has no such error node, its edges are left out; pruned graphs
        lack some, and `without(nodes, "to_error").scores()` counts these too.

        Args:
            pinned: features, by id, or labels of supernodes in `metadata["qParams"]`, which stand for their members;
                pinning other nodes changes nothing. An empty list pins none, whereas Neuronpedia then shows the scores
                of the whole graph.

        Source: pinned nodes are scored as in apps/webapp of github.com/hijohnnylin/neuronpedia, score.worker.ts
        """
        from attrgraph.queries.without import scores

        return scores(self, pinned)

    def mean_hops(self) -> float:
        """Mean number of features on a path from tokens and errors to the answer; see `influence.mean_hops`.

        The bias node is left out. Two sets of transcoders can explain one answer equally well with different numbers
        of hops: features that write into several layers can do in one what the model does in two.

        Source: path lengths are compared in Ameisen et al. 2025, "Circuit Tracing", section "Attribution Graph
        Evaluation", transformer-circuits.pub/2025/attribution-graphs/methods.html; the warning is from "Cross-layer
        transcoders are incentivized to learn unfaithful circuits", 2026, openreview.net/forum?id=8sE1yCPnbR
        """
        graph = self.without_bias()
        return influence.mean_hops(
            graph.adjacency, graph.nodes["layer"].to_numpy(), graph.nodes["kind"].to_numpy(), graph.weights
        )

    def without_bias(self) -> "Graph":
        """The same graph without its bias node."""
        kept = (self.nodes["kind"] != "bias").to_numpy()
        if kept.all():
            return self
        adjacency = sparse.csr_array(self.adjacency[kept][:, kept])
        return Graph(self.nodes[kept], adjacency, self.prompt_tokens, self.metadata)

    def select(
        self,
        *,
        kind: "Texts | None" = None,
        layer: "Numbers | None" = None,
        pos: "Numbers | None" = None,
        token: "Texts | None" = None,
        label: "Texts | None" = None,
        feature: "Numbers | None" = None,
        activation: "Numbers | None" = None,
        influence: "Numbers | None" = None,
    ) -> "Selection":
        """The nodes whose columns meet every criterion that is given.

        Text must equal a string or match a compiled regular expression; a number must equal a number, or lie in a pair
        (low, high), ends included and None for open, or in a slice, end excluded; or either meets one of a list.

        Raises:
            AttrGraphError: a criterion that is none of these, or a kind that does not exist.

        Example:
            >>> import attrgraph as ag
            >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is")
            >>> len(graph.select(kind="feature", influence=(0.01, None)) & graph.select(pos=0))
            0
        """
        from attrgraph.queries.select import select

        numbers = {"layer": layer, "pos": pos, "feature": feature, "activation": activation, "influence": influence}
        return select(self, {"kind": kind, "token": token, "label": label, **numbers})

    def query(self, expression: str) -> "Selection":
        """The nodes for which an expression over the columns holds: "kind == 'feature' and influence > 0.01".

        As `pandas.DataFrame.query` has it, but no text can run code; see `attrgraph.queries.expressions` for what it
        may have, and AttrGraphError for what it may not.
        """
        from attrgraph.queries.expressions import query

        return query(self, expression)

    def predecessors(self, nodes: "Nodes") -> "Selection":
        """The nodes that lead to these by one edge, the bias node among them."""
        from attrgraph.queries.neighbors import predecessors

        return predecessors(self, nodes)

    def successors(self, nodes: "Nodes") -> "Selection":
        """The nodes that these lead to by one edge."""
        from attrgraph.queries.neighbors import successors

        return successors(self, nodes)

    def ancestors(self, nodes: "Nodes") -> "Selection":
        """The nodes that lead to these by one edge or more; one of these only if it leads to another."""
        from attrgraph.queries.neighbors import ancestors

        return ancestors(self, nodes)

    def descendants(self, nodes: "Nodes") -> "Selection":
        """The nodes that these lead to by one edge or more; one of these only if another leads to it."""
        from attrgraph.queries.neighbors import descendants

        return descendants(self, nodes)

    def neighborhood(self, nodes: "Nodes", hops: int = 1, *, min_share: float = 0.0) -> "Selection":
        """These nodes and all within so many edges, up or down, each with `min_share` of its target's |input| or more.

        |input| is the sum of |edges| into the target, the bias node left out, which is never a neighbor.
        """
        from attrgraph.queries.neighbors import neighborhood

        return neighborhood(self, nodes, hops, min_share)

    def influence(self, target: "Nodes | None" = None, *, signed: bool = False) -> "pd.Series[float]":
        """Every node's influence on targets over all paths, or its signed total effect on them.

        influence = w (B + B^2 + ...), with B = |A| without the bias node, each row divided by its sum: which share of
        the targets' input goes back to a node. It has no sign, and every node's |input| is the denominator.

        With `signed`: effect[s] = sum over paths s, m_1, ..., m_k, t of w[t] A[t, m_k] / a[m_k] ... A[m_1, s], where
        a is the activation: by how much the targets would change with the whole of s if features responded linearly to
        what they read. It is in the targets' units, and the bias node has one too.

        Args:
            target: whose w is 1; by default the logits, with their probabilities for w: then the influence of a graph
                as traced is its column `influence`, and the effect is on the mean logit.

        Raises:
            AttrGraphError: unknown nodes; with `signed`, features whose activation the file does not have.
        """
        from attrgraph.queries.effects import influence

        return influence(self, target, signed=signed)

    def effect(
        self, source: "Nodes", target: "Nodes", *, through: "Nodes | None" = None, avoid: "Nodes | None" = None
    ) -> float:
        """The exact signed effect of the source on the target over all paths between them, or over some of these.

        effect = sum over paths s, m_1, ..., m_k, t of A[t, m_k] / a[m_k] ... A[m_1, s], with a the activation: the
        change of what the target reads, in its units (of an activation or a logit), that comes with the whole of the
        source if features respond linearly. Paths have one edge or more. Time grows with edges, not with paths.

        Args:
            source, target: several nodes stand for the sum over all pairs.
            through: only paths that pass at least one of these, their first and last nodes included.
            avoid: only paths that pass none of these, their first and last nodes included.

        Raises:
            AttrGraphError: unknown nodes, or features whose activation the file does not have.
        """
        from attrgraph.queries.effects import effect

        return effect(self, source, target, through=through, avoid=avoid)

    def paths(
        self, source: "Nodes | None" = None, target: "Nodes | None" = None, *, k: int = 10, by: str = "share"
    ) -> pd.DataFrame:
        """The k strongest paths, exactly, however many there are; the bias node starts none.

        Args:
            source: where paths start; by default embeddings and errors.
            target: where they end, each counting 1; by default the logits, each counting its probability.
            k: so many paths, or as many as there are.
            by: `share`; `abs`, the size of the weight; `positive`, the weights furthest above 0, and `negative`, those
                furthest below, where only paths of that sign are listed.

        Returns:
            A row a path, the best first: `path` (ids, source first), `labels`, `weight` (its term of `effect`, times
            what its target counts; not a number if an activation on it is missing), `share` (product of its edges'
            shares of their targets' |input|, times what its target counts: its term of `influence`) and `coverage`
            (share of this path and those before it in that of all paths from the sources to the targets).

        Raises:
            AttrGraphError: unknown nodes or ranking; other than by share, features whose activation is missing.
        """
        from attrgraph.queries.paths import paths

        return paths(self, source, target, k=k, by=by)

    def flow(self, level: str = "layer") -> pd.DataFrame:
        """Which share of all influence goes from one group of nodes straight to another.

        share[g, h] = sum over t in g, s in h of (influence[t] + w[t]) B[t, s] / sum over all s of influence[s], with w
        and B as in `influence`. All shares sum to 1; those with one source group to its share of all influence.

        Args:
            level: nodes of one `layer`, `position` or `kind` are a group.

        Returns:
            Columns `target` and `source` (groups) and `share`, the largest first, without pairs that have none.
        """
        from attrgraph.queries.flow import flow

        return flow(self, level)

    def without(self, nodes: "Nodes", mode: str = "drop") -> "Graph":
        """The graph without some nodes, its influence computed anew; `metadata["without"]` names them.

        Args:
            mode: `drop` leaves out their edges too. `to_error`, for features, as if their transcoder did not have them:
                their edges to others are added to those of the error node of their layer and position, made if absent.
        """
        from attrgraph.queries.without import without

        return without(self, nodes, mode)

    def stats(self) -> dict[str, Any]:
        """The graph in numbers that JSON can hold, the bias node left out.

        `nodes` by kind, `edges`, `density` (edges between layers over pairs of a feature or logit and a node in a lower
        one), `layers`, `positions`, `depth` (edges of the longest path), `paths` (from embeddings and errors to logits:
        exact, often beyond 10^20), `positive_share` (of the sum of |edges|), `in_degree` of features and logits and
        `out_degree` of all but logits (min, median, mean, max), `scores`, `mean_hops`.
        """
        from attrgraph.queries.stats import stats

        return stats(self)

    def group(self, groups: "Groups", *, allow_cycles: bool = False) -> "GroupedGraph":
        """The graph between groups of nodes, with names for keys and lists of node ids; see `supernodes.GroupedGraph`.

        Raises:
            AttrGraphError: as `attrgraph.supernodes.group`.
        """
        from attrgraph.supernodes.grouped import group

        return group(self, groups, allow_cycles=allow_cycles)

    def auto_groups(
        self,
        by: str = "tokens",
        n: int | None = None,
        *,
        min_score: float | None = None,
        model: "LanguageModel | None" = None,
    ) -> dict[str, list[str]]:
        """Groups of features by `tokens`, `flow` or `vectors`; see `attrgraph.supernodes.auto_groups`."""
        from attrgraph.supernodes.automatic import auto_groups

        return auto_groups(self, by, n, min_score=min_score, model=model)

    def to_networkx(self) -> "nx.DiGraph[str]":
        """A networkx DiGraph with edges from source to target; every attribute is present and never null."""
        from attrgraph.graph_files.networkx_graph import to_networkx

        return to_networkx(self)

    def to_json(self, path: str | Path, profile: str = "neuronpedia", *, overwrite: bool = False) -> None:
        """Write the graph as other tools' viewers read it; see `attrgraph.formats.PROFILES`."""
        from attrgraph.graph_files.json_writing import write_json

        write_json(self, path, profile, overwrite=overwrite)

    def to_dot(self, *, groups: "Groups | None" = None, min_share: float = 0.0, caption: bool = True) -> str:
        """Graphviz DOT text of a picture; see `attrgraph.drawing.draw`. Deterministic; needs no program."""
        from attrgraph.drawing.draw import to_dot

        return to_dot(self, groups=groups, min_share=min_share, caption=caption)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the native `.safetensors` file, which keeps everything."""
        from attrgraph.graph_files.native import save_graph

        save_graph(self, path, overwrite=overwrite)


def with_influence(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> pd.DataFrame:
    """The node table with `influence` and `cumulative_influence` computed from the edges; the bias node has none."""
    kept = (nodes["kind"] != "bias").to_numpy()
    weights = np.where(nodes["kind"] == "logit", nodes["probability"], 0.0).astype(np.float64)
    values = np.zeros(len(nodes))
    inner = sparse.csr_array(adjacency[kept][:, kept])
    values[kept] = influence.node_influence(inner, nodes["layer"].to_numpy()[kept], weights[kept])
    cumulative = np.ones(len(nodes))
    cumulative[kept] = influence.cumulative_share(values[kept])
    return node_table(nodes.assign(influence=values, cumulative_influence=cumulative))


def node_table(nodes: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order and of their types."""
    return nodes[list(COLUMNS)].astype(COLUMNS)
