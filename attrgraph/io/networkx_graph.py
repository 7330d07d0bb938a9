"""A graph as a networkx DiGraph."""

from typing import TYPE_CHECKING

from scipy import sparse

from attrgraph.schema import BIAS_ID, inexact_note

if TYPE_CHECKING:
    import networkx as nx

    from attrgraph.graph.graph import Graph


def without_own_bias(graph: "Graph") -> "Graph":
    """Without the node for all that is constant; other tools' bias nodes stand for single biases."""
    kept = graph.nodes.index != BIAS_ID
    adjacency = sparse.csr_array(graph.adjacency[kept][:, kept])
    # scores are of a graph without it
    return graph.replace(nodes=graph.nodes[kept], adjacency=adjacency).replace(metadata=graph.metadata)


def to_networkx(graph: "Graph") -> "nx.DiGraph[str]":
    """Edges run from source to target and have `weight`; nodes have every column of the node table, none of it null.

    This package's bias node is left out, as in JSON files and tables; bias nodes of other tools stay. Graph attributes
    are the prompt, the number of layers, and for a graph that is not exact a note, so that GraphML, GEXF and GML can be
    written from it.
    """
    import networkx as nx

    graph = without_own_bias(graph)
    prompt = str(graph.metadata.get("prompt") or "".join(graph.prompt_tokens))
    out: nx.DiGraph[str] = nx.DiGraph(prompt=prompt, n_layers=graph.n_layers)
    if note := inexact_note(graph.metadata):
        out.graph["note"] = note
    columns = graph.nodes.columns
    for node_id, values in zip(graph.nodes.index, graph.nodes.itertuples(index=False), strict=True):
        out.add_node(str(node_id), **dict(zip(columns, values, strict=True)))
    edges = graph.adjacency.tocoo()
    ids = graph.nodes.index.to_numpy()
    out.add_weighted_edges_from(
        (str(source), str(target), float(weight))
        for source, target, weight in zip(ids[edges.col], ids[edges.row], edges.data, strict=True)
    )
    return out
