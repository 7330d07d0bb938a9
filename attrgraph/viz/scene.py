"""What is drawn of a graph: boxes for nodes and supernodes, and the arrows between them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.influence.influence import node_influence
from attrgraph.schema import ERROR_KINDS
from attrgraph.viz.text import shorten, visible

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

Groups = Mapping[str, Iterable[str]]
# width in points of an arrow that is all of its target's input, and of the thinnest
_WIDEST, _THINNEST = 7.0, 0.5


@dataclass(frozen=True)
class Box:
    """A node, a supernode, or a token of the prompt that is no node."""

    key: str
    kind: str  # of the node; "group" or "token" for the others
    layer: int
    pos: int
    name: str  # may be empty
    detail: str  # the line below the name; may be empty
    influence: float


@dataclass(frozen=True)
class Arrow:
    """An edge, or the sum of edges between supernodes."""

    source: int  # place in the scene's boxes
    target: int
    weight: float
    share: float  # of what the target reads, 0 to 1

    @property
    def width(self) -> float:
        """In points."""
        return max(_THINNEST, _WIDEST * self.share)


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows but for its caption."""

    boxes: list[Box]
    arrows: list[Arrow]  # the least important first, so that the others are drawn over them
    n_hidden: int  # arrows that have less than the least share


def make_scene(graph: "Graph", *, groups: Groups | None = None, min_share: float = 0.0) -> Scene:
    """Boxes and arrows of a graph, its bias node left out.

    Members of a group are one box, which stands where its most influential member does. With M[b, n] 1 if box b holds
    node n, its edges are sums: weight = M A M^T, and share[t, s] = |weight[t, s]| / sum over s' of (M |A| M^T)[t, s'].
    Edges within a group are in neither. A box's influence is that of its nodes over the drawn graph's edges.

    Args:
        graph: any graph.
        groups: names of supernodes, and their members' ids. Members that the graph does not have are counted only.
        min_share: arrows with less are left out.

    Raises:
        AttrGraphError: a group without a node of the graph, a node in two groups, or a share that is not between 0 and
            1.
    """
    if not 0 <= min_share <= 1:
        raise AttrGraphError(f"min_share is {min_share}; expected a share of a node's input, between 0 and 1.")
    graph = _with_own_influence(graph.without_bias())
    members = {name: list(dict.fromkeys(ids)) for name, ids in (groups or {}).items()}
    box_of, names = _merge(graph, members)
    boxes = _boxes(graph, box_of, members, names)
    merge = sparse.csr_array(
        (np.ones(len(box_of)), (box_of, np.arange(len(box_of)))), shape=(len(boxes), len(box_of)), dtype=np.float64
    )
    weights = _outside(merge @ graph.adjacency.astype(np.float64) @ merge.T)
    inputs = np.asarray(_outside(merge @ abs(graph.adjacency).astype(np.float64) @ merge.T).sum(1))
    edges = weights.tocoo()
    present = np.flatnonzero(edges.data)
    shares = np.abs(edges.data[present]) / inputs[edges.row[present]]
    order = np.lexsort((edges.col[present], edges.row[present], shares))
    arrows = [
        Arrow(int(edges.col[i]), int(edges.row[i]), float(edges.data[i]), float(share))
        for i, share in zip(present[order], shares[order], strict=True)
    ]
    shown = [arrow for arrow in arrows if arrow.share >= min_share]
    return Scene(boxes + _bare_tokens(graph, boxes), shown, len(arrows) - len(shown))


def _with_own_influence(graph: "Graph") -> "Graph":
    """With the influence that nodes have in this very graph, whether it was pruned just now or comes from a file.

    A part of a graph without answers keeps what it has.
    """
    if not graph.weights.any():
        return graph
    values = node_influence(graph.adjacency, graph.nodes["layer"].to_numpy(), graph.weights)
    return graph.replace(nodes=graph.nodes.assign(influence=values))


def _merge(graph: "Graph", groups: dict[str, list[str]]) -> tuple[Int[np.ndarray, " n_nodes"], list[str]]:
    """For each node the number of its box, in order of the boxes' first nodes, and the names of groups by node."""
    ids = graph.nodes.index
    group_of = dict[str, str]()
    for name, members in groups.items():
        for member in members:
            if member in group_of:
                raise AttrGraphError(f"node {member} is in two groups, {group_of[member]!r} and {name!r}; keep one.")
            group_of[member] = name
        if not any(member in ids for member in members):
            asked = ", ".join(members[:3]) or "none"
            raise AttrGraphError(
                f"group {name!r}: the graph has none of its nodes ({asked}); expected ids as in graph.nodes. "
                "Pruning may have dropped them."
            )
    names = [group_of.get(str(node), "") for node in ids]
    numbers = dict[tuple[bool, str], int]()
    for node, name in zip(ids, names, strict=True):
        numbers.setdefault((bool(name), name or str(node)), len(numbers))
    box_of = [numbers[bool(name), name or str(node)] for node, name in zip(ids, names, strict=True)]
    return np.array(box_of, dtype=np.int64), names


def _boxes(
    graph: "Graph", box_of: Int[np.ndarray, " n_nodes"], groups: dict[str, list[str]], names: list[str]
) -> list[Box]:
    rows = list(graph.nodes.itertuples())
    members: list[list[int]] = [[] for _ in range(int(box_of.max(initial=-1)) + 1)]
    for node, box in enumerate(box_of):
        members[box].append(node)
    boxes = []
    for nodes in members:
        best = rows[max(nodes, key=lambda node: (rows[node].influence, -node))]
        group = names[nodes[0]]
        if not group:
            boxes.append(_box(best))
            continue
        n_asked = len(groups[group])
        count = f"{len(nodes)} nodes" if len(nodes) == n_asked else f"{len(nodes)} of {n_asked} nodes"
        total = sum(float(rows[node].influence) for node in nodes)
        name = shorten(visible(group))
        boxes.append(Box(f"group {visible(group)}", "group", int(best.layer), int(best.pos), name, count, total))
    return boxes


def _box(row: Any) -> Box:
    kind, layer, pos, feature = str(row.kind), int(row.layer), int(row.pos), int(row.feature)
    label = shorten(visible(str(row.label)))
    token = shorten(visible(str(row.token)))
    match kind:
        case "embedding":
            name, detail = token, str(pos)
        case "logit":
            name, detail = token, f"p = {row.probability:.3f}"
        case "feature" | "attention feature":
            name, detail = feature_text(kind, layer, feature, label)
        case "error" | "attention error":
            name, detail = kind, ""
        case _:
            name, detail = label, str(row.Index)
    return Box(visible(str(row.Index)), kind, layer, pos, name, detail, float(row.influence))


def feature_text(kind: str, layer: int, feature: int, label: str) -> tuple[str, str]:
    """The two lines of a feature's box."""
    # what traces call features that have no label says no more than the line below
    name = "" if label == f"L{layer} feature {feature}" else label
    return name, f"{'A' if kind == 'attention feature' else 'L'}{layer}/{feature}"


def _bare_tokens(graph: "Graph", boxes: list[Box]) -> list[Box]:
    """Tokens of the prompt whose embeddings are no boxes: the picture still says what stands where."""
    there = {box.pos for box in boxes if box.kind == "embedding"}
    return [
        Box(f"token {pos}", "token", -1, pos, shorten(visible(token)), str(pos), 0.0)
        for pos, token in enumerate(graph.prompt_tokens)
        if pos not in there
    ]


def _outside(matrix: Any) -> sparse.csr_array:
    """The matrix without its diagonal."""
    out = sparse.csr_array(matrix)
    out.setdiag(0)
    out.eliminate_zeros()
    return out


def is_error(box: Box) -> bool:
    """Whether the box stands for what transcoders leave unexplained."""
    return box.kind in ERROR_KINDS
