"""From the JSON document of any tool to a Graph: what is wrong with it is repaired and said, or refused."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import GraphFileError
from attrgraph.influence.influence import with_influence
from attrgraph.io.check import check_content
from attrgraph.io.flavours import KINDS_BY_TYPE, flavour_of, integer
from attrgraph.io.json_nodes import NodeTable, read_nodes
from attrgraph.io.own_metadata import check_own_metadata
from attrgraph.io.params import counted, own_labels, read_params, referred_ids
from attrgraph.io.problems import US
from attrgraph.schema import FEATURE_KINDS, KINDS, GraphParts, node_table

if TYPE_CHECKING:
    pass

_TOP_KEYS = ("metadata", "qParams", "nodes", "links")
_LINK_KEYS = ("source", "target", "weight")
# found in graphs that are read all the same; without influence they have no use, and that says what is wrong
_REPAIRED = ("layer-order", "cycle", "probability")


def from_dict(document: Any, where: str) -> GraphParts:
    """A graph from a parsed JSON document of any flavour.

    `influence` is recomputed from the document's edges; the document's own is kept as `cumulative_influence`. In the
    graph's `metadata`: `flavour` (see `attrgraph.io.flavours.flavour_of`), `problems` (see
    `attrgraph.io.check.check_content`), `repairs` (what was done about them, one sentence each), `qParams`
    with the graph's node ids, `file_metadata` (the document's own), and `extra`: unknown keys, of the
    document, of nodes by node id, and of links.

    Raises:
        GraphFileError: what the document lacks or contradicts.
    """
    try:
        return _graph(document)
    except GraphFileError as e:
        raise GraphFileError(f"{where}: {e}") from e
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError) as e:
        raise GraphFileError(f"{where}: not an attribution graph ({type(e).__name__}: {e}).") from e


def _graph(document: Any) -> GraphParts:
    found = check_content(document)
    for problem in found:
        if US in problem.breaks and problem.code not in _REPAIRED:
            raise GraphFileError(
                f"not an attribution graph: {problem.message}; attrgraph check lists all that is wrong."
            )
    problems = [asdict(problem) for problem in found]
    metadata, raw_nodes, links = document["metadata"], document["nodes"], document["links"]
    tokens = metadata["prompt_tokens"]
    repairs: list[str] = []
    params = document.get("qParams")
    if not isinstance(params, dict):
        repairs.append("qParams added, which were missing")
        params = {}
    flavour = flavour_of(metadata, raw_nodes, referred_ids(params))
    table = read_nodes(raw_nodes, metadata, flavour, repairs)
    adjacency, extra_links = _edges(links, table, repairs)
    names = _references(raw_nodes, table, js_first=flavour == "anthropic")
    nodes = _labelled(table.nodes, params, names, _numbered(raw_nodes, table), repairs)

    order = np.lexsort((nodes["pos"], nodes["layer"], nodes["kind"].map(KINDS.index)))
    nodes, adjacency = nodes.iloc[order], sparse.csr_array(adjacency[order][:, order])
    stated, is_stated = nodes["cumulative_influence"], nodes.pop("is_stated").to_numpy()
    nodes = with_influence(nodes, adjacency)
    cumulative = np.where(is_stated, stated, nodes["cumulative_influence"])
    nodes = node_table(nodes.assign(cumulative_influence=cumulative))

    others = {name: value for name, value in document.items() if name not in _TOP_KEYS}
    extra = {
        "document": _renamed(others, table.renamed),
        "nodes": {name: _renamed(values, table.renamed) for name, values in table.extra.items()},
        "links": [[*ends, _renamed(values, table.renamed)] for *ends, values in extra_links],
    }
    return GraphParts(
        nodes,
        adjacency,
        tokens,
        {
            **_our_metadata(metadata),
            "n_layers": table.n_layers,
            "flavour": flavour,
            "problems": problems,
            "repairs": repairs,
            "qParams": read_params(params, names),
            **({"extra": extra} if any(extra.values()) else {}),
        },
    )


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
    if isinstance(pruning, dict) and all(type(pruning.get(name)) in (int, float) for name in names):
        taken["pruning"] = {name: float(pruning[name]) for name in names}
    return taken


def _edges(
    links: list[dict[str, Any]], table: NodeTable, repairs: list[str]
) -> tuple[sparse.csr_array, list[list[Any]]]:
    """The adjacency, and `[source, target, {key: value}]` for links with other keys."""
    n_nodes = len(table.nodes)
    names, layers = table.nodes.index, table.nodes["layer"].tolist()
    weights = np.array([link["weight"] for link in links], dtype=np.float32)
    ends = np.full((2, len(links)), -1, dtype=np.int64)
    dangling, shared, extra = [], [], []
    seen: dict[tuple[str, str], int] = {}
    for i, link in enumerate(links):
        source, target = link["source"], link["target"]
        sources, targets = table.places.get(source), table.places.get(target)
        if sources is None or targets is None:
            dangling.append(f"{source} -> {target}")
            continue
        turn = 0
        if len(sources) > 1 or len(targets) > 1:
            # the first such link is the first node's: tools write links in the order of their nodes
            turn = seen.get((source, target), 0)
            seen[source, target] = turn + 1
            shared.append(f"{source} -> {target}")
        # of nodes that share an id, only some can be in this place
        readers = [place for place in targets if table.reads[place]] or targets
        pairs = [(s, t) for t in readers for s in sources if layers[s] < layers[t]]
        pairs = pairs or [(s, readers[0]) for s in sources]
        ends[:, i] = pairs[min(turn, len(pairs) - 1)]
        if len(link) > len(_LINK_KEYS):
            others = {name: value for name, value in link.items() if name not in _LINK_KEYS}
            extra.append([str(names[ends[0, i]]), str(names[ends[1, i]]), others])
    if dangling:
        repairs.append(f"{counted(dangling, 'link')} left out that lead from or to no node")
    if shared:
        repairs.append(f"{counted(shared, 'link')} of an id that stands for several nodes given to the first that fits")
    present = (ends[0] >= 0) & (weights != 0)
    n_zero = int(((ends[0] >= 0) & (weights == 0)).sum())
    if n_zero:
        repairs.append(f"{n_zero} links of weight 0 left out")
    (sources_at, targets_at), values = ends[:, present], weights[present]
    adjacency = sparse.csr_array((values, (targets_at, sources_at)), shape=(n_nodes, n_nodes))
    if adjacency.nnz < len(values):
        n_more = len(values) - adjacency.nnz
        repairs.append(f"{n_more} links between nodes that have one already added to it: direct effects add up")
    if not np.isfinite(adjacency.data).all():
        raise ValueError("the weights of links between the same two nodes add up to more than a float32 holds")
    n_sums = int((adjacency.data == 0).sum())
    if n_sums:
        repairs.append(f"{n_sums} edges left out whose links add up to 0")
        adjacency.eliminate_zeros()
    return adjacency, extra


def _references(raw_nodes: list[dict[str, Any]], table: NodeTable, *, js_first: bool) -> dict[str, list[str]]:
    """The graph's node ids for each node_id and jsNodeId of the file; several nodes may share one."""
    by_id = {name: [str(table.nodes.index[place]) for place in places] for name, places in table.places.items()}
    by_js: dict[str, list[str]] = {}
    for node in raw_nodes:
        name = node.get("jsNodeId")
        if isinstance(name, str):
            by_js.setdefault(name, []).extend(by_id[node["node_id"]])
    return {**by_id, **by_js} if js_first else {**by_js, **by_id}


def _numbered(raw_nodes: list[dict[str, Any]], table: NodeTable) -> dict[str, list[str]]:
    """The graph's node ids for each feature's number as the file has it, in text."""
    out: dict[str, list[str]] = {}
    for node in raw_nodes:
        if KINDS_BY_TYPE.get(node["feature_type"]) in FEATURE_KINDS and integer(node.get("feature")) is not None:
            places = table.places[node["node_id"]]
            out.setdefault(str(node["feature"]), []).extend(str(table.nodes.index[place]) for place in places)
    return out


def _labelled(
    nodes: pd.DataFrame,
    params: dict[str, Any],
    names: dict[str, list[str]],
    numbered: dict[str, list[str]],
    repairs: list[str],
) -> pd.DataFrame:
    """The nodes with the labels that a user gave in `qParams.clerps`, which no two viewers read alike."""
    if "clerps" not in params:
        return nodes
    given = own_labels(params["clerps"])
    if given is None:
        repairs.append("qParams.clerps left out, which is neither pairs nor a mapping")
        return nodes
    # circuit-tracer's viewer saves a feature's number in the file, and means it at every position
    names = {**numbered, **names}
    labels = {name: label for item, label in dict(given).items() for name in names.get(item, []) if label}
    lost = [item for item, _ in given if item not in names]
    if labels:
        repairs.append(f"{counted(list(labels), 'label')} moved from qParams.clerps to the nodes")
    if lost:
        repairs.append(f"{counted(lost, 'label')} in qParams.clerps left out that name no node")
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
