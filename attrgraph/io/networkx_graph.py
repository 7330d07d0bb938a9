"""A graph as a networkx DiGraph."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

    from attrgraph.graph.graph import Graph


def to_networkx(graph: "Graph") -> "nx.DiGraph[str]":
    """Edges run from source to target and have `weight`; nodes have every column of the node table, none of it null.

    Graph attributes are the prompt and the number of layers, so that GraphML, GEXF and GML can be written from it.
    """
    import networkx as nx

    prompt = str(graph.metadata.get("prompt") or "".join(graph.prompt_tokens))
    out: nx.DiGraph[str] = nx.DiGraph(prompt=prompt, n_layers=graph.n_layers)
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
