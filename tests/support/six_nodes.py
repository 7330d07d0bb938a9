"""A graph small enough to be worked out by hand, random ones, and what both are made of."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

import attrgraph as ag
from attrgraph.influence.influence import with_influence
from attrgraph.schema import node_table

# one row a node: kind, layer, pos, feature, activation, probability
Row = tuple[str, int, int, int, float, float]
# what `graph_of` takes; random graphs are made from it in the test, since shape checks draw random numbers of their own
Parts = tuple[list[Row], np.ndarray, list[str], int]


def graph_of(rows: list[Row], adjacency: np.ndarray, tokens: list[str], n_layers: int = 2) -> ag.Graph:
    """A graph from kind, layer, position, feature, activation and probability of each node."""
    names = {"embedding": "E_{2}_{1}", "error": "{0}_-1_{1}", "feature": "{0}_{2}_{1}", "logit": "{0}_{2}_{1}"}
    nodes = pd.DataFrame(rows, columns=["kind", "layer", "pos", "feature", "activation", "probability"])
    words = [f"word{row[3]}" if row[0] == "logit" else tokens[row[2]] for row in rows]
    nodes["token"], nodes["label"] = words, [f"{row[0]} {row[3]}" for row in rows]
    nodes["influence"], nodes["cumulative_influence"] = 0.0, 0.0
    ids = [names[kind].format(layer + (kind == "logit"), pos, feature) for kind, layer, pos, feature, _, _ in rows]
    nodes.index = pd.Index(ids, name="node_id", dtype="str")
    edges = sparse.csr_array(adjacency.astype(np.float32))
    return ag.Graph(node_table(with_influence(nodes, edges)), edges, tokens, {"n_layers": n_layers})


def six_nodes() -> ag.Graph:
    """Two tokens e and f; a and b of layer 0 read them, c of layer 1 reads a and b, the answer t reads b and c.

    Shares: a reads e; b reads e and f, 1/4 and 3/4; c reads a and b, 1/2 (negative) and 1/2; t reads c and b, 4/5 and
    1/5. With weight 1 on t: influence c 4/5, a 2/5, b 1/5 + 2/5, e 2/5 + 3/20, f 9/20.
    """
    rows: list[Row] = [
        ("feature", 0, 0, 1, 2.0, 0.0),  # a
        ("feature", 0, 1, 2, 4.0, 0.0),  # b
        ("feature", 1, 1, 3, 1.0, 0.0),  # c
        ("embedding", -1, 0, 7, 0.0, 0.0),  # e
        ("embedding", -1, 1, 8, 0.0, 0.0),  # f
        ("logit", 2, 1, 9, 5.0, 1.0),  # t
    ]
    edges = np.zeros((6, 6))
    edges[0, 3] = 2
    edges[1, [3, 4]] = 1, 3
    edges[2, [0, 1]] = -2, 2
    edges[5, [2, 1]] = 4, 1
    return graph_of(rows, edges, ["one", "two"])


A, B, C, E, F, T = "0_1_0", "0_2_1", "1_3_1", "E_7_0", "E_8_1", "3_9_1"


@st.composite
def random_parts(draw: st.DrawFn) -> Parts:
    """Some features, errors, tokens and logits in three layers, with edges of both signs."""
    n_features, n_logits, n_pos = draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = rng.dirichlet(np.ones(n_logits + 1))[:n_logits]
    rows: list[Row] = [
        ("feature", int(rng.integers(3)), int(rng.integers(n_pos)), i, float(rng.random() + 0.1), 0.0)
        for i in range(n_features)
    ]
    rows += [("error", layer, n_pos - 1, -1, 0.0, 0.0) for layer in range(3)]
    rows += [("embedding", -1, pos, int(rng.integers(5)), 0.0, 0.0) for pos in range(n_pos)]
    rows += [("logit", 3, n_pos - 1, i, float(rng.random()), float(probabilities[i])) for i in range(n_logits)]
    layers = np.array([row[1] for row in rows])
    reads = np.array([row[0] in ("feature", "logit") for row in rows])
    edges = rng.normal(size=(len(rows), len(rows))) * (layers[:, None] > layers[None]) * reads[:, None]
    edges *= rng.random(edges.shape) < 0.6
    return rows, edges, [f"t{i}" for i in range(n_pos)], 3


@st.composite
def random_groups(draw: st.DrawFn, graph: ag.Graph) -> dict[str, list[str]]:
    """Disjoint groups of some nodes; logits are in none."""
    nodes = graph.nodes.index[graph.nodes["kind"] != "logit"]
    numbers = draw(st.lists(st.integers(0, 3), min_size=len(nodes), max_size=len(nodes)))
    groups: dict[str, list[str]] = {}
    for node, number in zip(nodes, numbers, strict=True):
        if number:
            groups.setdefault(f"group {number}", []).append(str(node))
    return groups
