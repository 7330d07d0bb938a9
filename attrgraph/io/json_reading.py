"""From the JSON document of any tool to a Graph: what is wrong with it is repaired and said, or refused."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import GraphFileError
from attrgraph.influence.influence import with_influence
from attrgraph.io.check import check_document
from attrgraph.io.document import Document
from attrgraph.io.flavours import KINDS_BY_TYPE, flavour_of
from attrgraph.io.json_nodes import NodeTable, read_nodes
from attrgraph.io.json_values import integer, is_number
from attrgraph.io.own_metadata import check_depth, check_own_metadata
from attrgraph.io.params import own_labels, read_params, referred_ids
from attrgraph.io.problems import US, say_repaired
from attrgraph.schema import FEATURE_KINDS, KINDS, GraphParts, node_table

_TOP_KEYS = ("metadata", "qParams", "nodes", "links")
_LINK_KEYS = ("source", "target", "weight")
# of nodes that share an id, links may be the other one's: whether an edge leads down is known once they are told apart
_KNOWN_LATER = ("layer-order", "cycle")


def from_document(document: Document, where: str) -> GraphParts:
    """A graph from a parsed JSON document of any flavour.

    `influence` is recomputed from the document's edges; the document's own is kept as `cumulative_influence`. In the
    graph's `metadata`: `flavour` (see `attrgraph.io.flavours.flavour_of`), `problems` (see
    `attrgraph.io.check.check_document`), `repairs` (what was done about them, one sentence each), `qParams`
    with the graph's node ids, `file_metadata` (the document's own), and `extra`: unknown keys, of the
    document, of nodes by node id, and of links.

    Raises:
        GraphFileError: what the document lacks or contradicts.
    """
    problems = check_document(document)
    for problem in problems:
        if US in problem.breaks and problem.code not in _KNOWN_LATER:
            raise GraphFileError(
                f"{where}: not an attribution graph: {problem.message}; attrgraph check lists all that is wrong."
            )
    try:
        graph = _graph(document.content)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError) as e:
        raise GraphFileError(f"{where}: not an attribution graph ({type(e).__name__}: {e}).") from e
    graph.metadata["problems"] = [asdict(problem) for problem in problems]
    if document.n_broken:
        graph.metadata["repairs"].append(f"{document.n_broken} halves of surrogate pairs in texts replaced")
    return graph


def _graph(content: dict[str, Any]) -> GraphParts:
    metadata, raw_nodes = content["metadata"], content["nodes"]
    repairs: list[str] = []
    params = content.get("qParams")
    if not isinstance(params, dict):
        repairs.append("qParams added, which were missing")
        params = {}
    flavour = flavour_of(metadata, raw_nodes, referred_ids(params))
    table = read_nodes(raw_nodes, metadata, flavour, repairs)
    adjacency, extra_links = _edges(content["links"], table, repairs)
    by_id = table.names()
    by_js = _grouped(raw_nodes, by_id, lambda node: node.get("jsNodeId"))
    names = {**by_id, **by_js} if flavour == "anthropic" else {**by_js, **by_id}
    # circuit-tracer's viewer saves a feature's number in the file, and means it at every position
    names_of_labels = {**_grouped(raw_nodes, by_id, _feature_number), **names}
    nodes = _labelled(table.nodes, params, names_of_labels, repairs)

    order = np.lexsort((nodes["pos"], nodes["layer"], nodes["kind"].map(KINDS.index)))
    nodes, adjacency = nodes.iloc[order], sparse.csr_array(adjacency[order][:, order])
    stated, is_stated = nodes["cumulative_influence"], nodes.pop("is_stated").to_numpy()
    nodes = with_influence(nodes, adjacency)
    cumulative = np.where(is_stated, stated, nodes["cumulative_influence"])
    nodes = node_table(nodes.assign(cumulative_influence=cumulative))

    renamed = {raw_id: ids[0] for raw_id, ids in by_id.items() if len(ids) == 1 and ids[0] != raw_id}
    others = {name: value for name, value in content.items() if name not in _TOP_KEYS}
    extra = {
        "document": _renamed(others, renamed),
        "nodes": {name: _renamed(values, renamed) for name, values in table.extra.items()},
        "links": [[*ends, _renamed(values, renamed)] for *ends, values in extra_links],
    }
    graph_metadata = {
        **_our_metadata(metadata),
        "n_layers": table.n_layers,
        "flavour": flavour,
        "repairs": repairs,
        "qParams": read_params(params, names),
    }
    if any(extra.values()):
        graph_metadata["extra"] = extra
    check_depth(graph_metadata)
    return GraphParts(nodes, adjacency, metadata["prompt_tokens"], graph_metadata)


def _our_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What this package wrote, if it did; else the prompt, and the pruning if stated. The rest as it stands."""
    # the schema says how this file numbers features, which a graph does not
    elsewhere = ("attrgraph", "prompt_tokens", "schema_version")
    theirs = {name: value for name, value in metadata.items() if name not in elsewhere}
    ours = metadata.get("attrgraph")
    if ours is not None:
        if not isinstance(ours, dict):
            raise TypeError(f"metadata.attrgraph is a {type(ours).__name__}, expected an object")
        check_own_metadata(ours)
        return {**ours, "file_metadata": theirs}
    taken = {"prompt": str(metadata.get("prompt") or ""), "file_metadata": theirs}
    pruning = metadata.get("pruning_settings")
    names = ("node_threshold", "edge_threshold")
    if isinstance(pruning, dict) and all(is_number(pruning.get(name)) for name in names):
        taken["pruning"] = {name: float(pruning[name]) for name in names}
    return taken


def _edges(
    links: list[dict[str, Any]], table: NodeTable, repairs: list[str]
) -> tuple[sparse.csr_array, list[list[Any]]]:
    """The adjacency, and `[source, target, {key: value}]` for links with other keys."""
    names = table.nodes.index
    weights = np.array([link["weight"] for link in links], dtype=np.float32)
    ends = _ends(links, table, repairs)
    is_edge = ends[0] >= 0
    extra = [
        [str(names[source]), str(names[target]), {key: link[key] for key in link if key not in _LINK_KEYS}]
        for link, source, target in zip(links, *ends.tolist(), strict=True)
        if source >= 0 and len(link) > len(_LINK_KEYS)
    ]
    n_zero = int((is_edge & (weights == 0)).sum())
    if n_zero:
        repairs.append(f"{n_zero} links of weight 0 left out")
    is_edge &= weights != 0
    (sources, targets), weights = ends[:, is_edge], weights[is_edge]
    adjacency = sparse.csr_array((weights, (targets, sources)), shape=(len(names), len(names)))
    n_more = len(weights) - adjacency.nnz
    if n_more:
        repairs.append(f"{n_more} links between nodes that have one already added to it: direct effects add up")
    if not np.isfinite(adjacency.data).all():
        raise ValueError("the weights of links between the same two nodes add up to more than a float32 holds")
    n_sums = int((adjacency.data == 0).sum())
    if n_sums:
        repairs.append(f"{n_sums} edges left out whose links add up to 0")
        adjacency.eliminate_zeros()
    return adjacency, extra


def _ends(links: list[dict[str, Any]], table: NodeTable, repairs: list[str]) -> np.ndarray:
    """[2, n_links] rows of each link's source and target in the table of nodes; -1 for links from or to no node."""
    layers = table.nodes["layer"].tolist()
    reads = table.nodes["kind"].isin((*FEATURE_KINDS, "logit", "unknown")).tolist()
    ends = np.full((2, len(links)), -1, dtype=np.int64)
    dangling, shared = [], []
    n_seen: dict[tuple[str, str], int] = {}
    for i, link in enumerate(links):
        source, target = link["source"], link["target"]
        sources, targets = table.places.get(source, []), table.places.get(target, [])
        if len(sources) == len(targets) == 1:
            ends[:, i] = sources[0], targets[0]
            continue
        if not sources or not targets:
            dangling.append(f"{source} -> {target}")
            continue
        # of nodes that share an id, only some can be in this place
        readers = [place for place in targets if reads[place]] or targets
        pairs = [(s, t) for t in readers for s in sources if layers[s] < layers[t]]
        pairs = pairs or [(s, readers[0]) for s in sources]
        # the first such link is the first node's: tools write links in the order of their nodes
        turn = n_seen.get((source, target), 0)
        n_seen[source, target] = turn + 1
        ends[:, i] = pairs[min(turn, len(pairs) - 1)]
        shared.append(f"{source} -> {target}")
    say_repaired(repairs, dangling, "link", "left out that lead from or to no node")
    say_repaired(repairs, shared, "link", "of an id that stands for several nodes given to the first that fits")
    return ends


def _grouped(
    raw_nodes: list[dict[str, Any]], by_id: dict[str, list[str]], name_of: Callable[[dict[str, Any]], Any]
) -> dict[str, list[str]]:
    """The graph's node ids for each other name, if it is text, that the file has for its nodes."""
    out: dict[str, list[str]] = {}
    for node in raw_nodes:
        name = name_of(node)
        if isinstance(name, str):
            out.setdefault(name, []).extend(by_id[node["node_id"]])
    return out


def _feature_number(node: dict[str, Any]) -> str | None:
    """A feature's number as the file has it."""
    is_feature = KINDS_BY_TYPE.get(node["feature_type"]) in FEATURE_KINDS
    return str(node["feature"]) if is_feature and integer(node.get("feature")) is not None else None


def _labelled(
    nodes: pd.DataFrame, params: dict[str, Any], names: dict[str, list[str]], repairs: list[str]
) -> pd.DataFrame:
    """The nodes with the labels that a user gave in `qParams.clerps`, which no two viewers read alike."""
    if "clerps" not in params:
        return nodes
    given = own_labels(params["clerps"])
    if given is None:
        repairs.append("qParams.clerps left out, which is neither pairs nor a mapping")
        return nodes
    labels = {name: label for item, label in dict(given).items() for name in names.get(item, []) if label}
    lost = [item for item, _ in given if item not in names]
    say_repaired(repairs, list(labels), "label", "moved from qParams.clerps to the nodes")
    say_repaired(repairs, lost, "label", "in qParams.clerps left out that name no node")
    return nodes.assign(label=[labels.get(str(name), label) for name, label in nodes["label"].items()])


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The value with texts that are ids of the file's nodes replaced by the graph's."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {name: _renamed(item, names) for name, item in value.items()}
    return value
