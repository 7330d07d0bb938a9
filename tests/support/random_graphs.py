"""Random small graphs in layer order, and all of their paths one by one."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import networkx as nx
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

from attrgraph.graph.graph import Graph
from attrgraph.influence.influence import with_influence
from attrgraph.schema import node_table

N_POS = 2


class Case(NamedTuple):
    """Of what size a random graph is to be."""

    n_features: int
    n_logits: int
    n_layers: int
    density: float
    seed: int

    def build(self) -> Graph:
        """Features with activations of either sign, errors (some absent), two embeddings, logits and a bias node.

        To be called in the test: while hypothesis draws, no code may run that looks at random parts of its arguments,
        as checks of shapes at run time do.
        """
        rng, n_layers = np.random.default_rng(self.seed), self.n_layers
        places = [(layer, pos) for layer in range(n_layers) for pos in range(N_POS) if rng.random() < 0.6]
        rows = [("feature", int(rng.integers(n_layers)), int(rng.integers(N_POS)), i) for i in range(self.n_features)]
        rows += [("error", layer, pos, -1) for layer, pos in places]
        rows += [("embedding", -1, pos, 5 + pos) for pos in range(N_POS)]
        rows += [("logit", n_layers, N_POS - 1, i) for i in range(self.n_logits)]
        return make_graph([*rows, ("bias", -1, -1, -1)], n_layers, rng, self.density)


def cases() -> st.SearchStrategy[Case]:
    """Random small graphs, to be built."""
    sizes = st.integers(0, 7), st.integers(1, 3), st.integers(1, 4)
    return st.builds(Case, *sizes, st.sampled_from([0.3, 0.8]), st.integers(0, 2**32 - 1))


def make_graph(rows: list[tuple[str, int, int, int]], n_layers: int, rng: np.random.Generator, density: float) -> Graph:
    """A graph of these nodes (kind, layer, position, feature) with random edges, activations and probabilities."""
    nodes = pd.DataFrame(rows, columns=["kind", "layer", "pos", "feature"])
    is_feature, is_logit = (nodes["kind"] == "feature").to_numpy(), (nodes["kind"] == "logit").to_numpy()
    activation = (0.2 + rng.random(len(nodes))) * rng.choice([1.0, 1.0, -1.0], size=len(nodes))
    nodes["activation"] = np.where(is_feature, activation, 0.0)
    nodes["probability"] = np.where(is_logit, rng.random(len(nodes)) / is_logit.sum(), 0.0)
    nodes = nodes.assign(token="t", influence=0.0, cumulative_influence=1.0)
    nodes["label"] = [f"{kind} {i}" for i, kind in enumerate(nodes["kind"])]
    nodes.index = pd.Index([_id(row, n_layers) for row in rows], name="node_id", dtype="str")
    layer = nodes["layer"].to_numpy()
    may = (layer[:, None] > layer[None]) & (is_feature | is_logit)[:, None] & ~is_logit[None]
    adjacency = rng.normal(size=may.shape) * may * (rng.random(may.shape) < density)
    edges = sparse.csr_array(adjacency.astype(np.float32))
    return Graph(with_influence(node_table(nodes), edges), edges, ["t"] * N_POS, {"n_layers": n_layers})


def _id(row: tuple[str, int, int, int], n_layers: int) -> str:
    kind, layer, pos, feature = row
    first = {"embedding": "E", "logit": str(n_layers + 1)}.get(kind, str(layer))
    return "B" if kind == "bias" else f"{first}_{feature}_{pos}"


def network_of(graph: Graph) -> "nx.DiGraph[str]":
    """Every node and every edge, the bias node's too, which `Graph.to_networkx` leaves out."""
    ids, edges = graph.nodes.index.tolist(), graph.adjacency.tocoo()
    network: nx.DiGraph[str] = nx.DiGraph()
    for name, row in graph.nodes.iterrows():
        network.add_node(str(name), **row)
    for target, source, weight in zip(edges.row, edges.col, edges.data, strict=True):
        network.add_edge(ids[source], ids[target], weight=float(weight))
    return network


def all_paths(graph: Graph, sources: Iterable[str], targets: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Every path of one edge or more from any source to any target."""
    links = network_of(graph)
    for source in sources:
        others = [target for target in targets if target != source]
        for target in others:
            yield from (tuple(path) for path in nx.all_simple_paths(links, source, target))


def dense(graph: Graph) -> np.ndarray:
    """A[target, source] in float64."""
    return np.asarray(graph.adjacency.toarray(), dtype=np.float64)


def dense_shares(graph: Graph) -> np.ndarray:
    """|A| without the bias node, every row divided by its sum."""
    size = np.abs(dense(graph)) * (graph.nodes["kind"] != "bias").to_numpy()[None]
    sums = size.sum(1, keepdims=True)
    return np.divide(size, sums, out=np.zeros_like(size), where=sums > 0)
