"""What is drawn of a graph: boxes for nodes and supernodes, and the arrows between them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from attrgraph.errors import AttrGraphError, share
from attrgraph.influence.influence import node_influence
from attrgraph.schema import node_label
from attrgraph.viz import MOST_TOKENS_DRAWN
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

    source: int  # its number in the scene's boxes
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
    n_hidden: int = 0  # arrows that have less than the least share


def make_scene(graph: "Graph", *, groups: Groups | None = None, min_share: float = 0.0) -> Scene:
    """Boxes and arrows of a graph without its bias node.

    Members of a group are one box, placed where its most influential member is. With M[b, n] 1 if box b holds
    node n, its edges are sums: weight = M A M^T, and share[t, s] = |weight[t, s]| / sum over s' of (M |A| M^T)[t, s'].
    Edges within a group are in neither. A box's influence is that of its nodes over the drawn graph's edges.

    Args:
        graph: any graph.
        groups: names of supernodes, and their members' ids. Members that the graph does not have are only counted.
        min_share: arrows with less are left out.

    Raises:
        AttrGraphError: a group without a node of the graph, a node in two groups, a share that is not between 0 and 1,
            or a prompt that is too long to draw.
    """
    min_share = share("min_share", min_share)
    graph = graph.without_bias()
    if graph.weights.any():  # a part of a graph without answers keeps the influence that it has
        values = node_influence(graph.adjacency, graph.nodes["layer"].to_numpy(), graph.weights)
        graph = graph.replace(nodes=graph.nodes.assign(influence=values))
    members = {name: list(dict.fromkeys(ids)) for name, ids in (groups or {}).items()}
    group_of = _group_of(members, set(graph.nodes.index))
    # for each box, whether it is a group, and its name; numbered in the order of their first nodes
    nodes_of = dict[tuple[bool, str], list[int]]()
    for number, node in enumerate(map(str, graph.nodes.index)):
        nodes_of.setdefault((node in group_of, group_of.get(node, node)), []).append(number)
    rows = list(graph.nodes.itertuples())
    boxes = [
        _group_box(name, [rows[n] for n in nodes], len(members[name])) if is_group else box_of(rows[nodes[0]])
        for (is_group, name), nodes in nodes_of.items()
    ]
    arrows = _arrows(graph.adjacency.astype(np.float64), list(nodes_of.values()))
    shown = [arrow for arrow in arrows if arrow.share >= min_share]
    return Scene(boxes + bare_tokens(graph.prompt_tokens, boxes), shown, len(arrows) - len(shown))


def box_of(row: Any) -> Box:
    """The box of a node.

    Args:
        row: of a graph's table of nodes; a probability that is NaN is not shown.
    """
    kind, layer, pos, label = str(row.kind), int(row.layer), int(row.pos), shorten(visible(str(row.label)))
    key, token = visible(str(row.Index)), shorten(visible(str(row.token)))
    match kind:
        case "embedding":
            name, detail = token, str(pos)
        case "logit":
            name, detail = token, "" if np.isnan(row.probability) else f"p = {row.probability:.3f}"
        case "feature" | "attention feature":
            # the label of a feature that nobody has named says no more than the second line
            name = "" if label == node_label("feature", layer, row.feature, "") else label
            detail = f"{'A' if kind == 'attention feature' else 'L'}{layer}/{row.feature}"
        case "error" | "attention error":
            name, detail = kind, ""
        case _:
            name, detail = label, key
    return Box(key, kind, layer, pos, name, detail, float(row.influence))


def check_length(n_tokens: int) -> None:
    """Raise AttrGraphError for a prompt that is too long to draw."""
    if n_tokens > MOST_TOKENS_DRAWN:
        raise AttrGraphError(
            f"a prompt of {n_tokens} tokens is too long to draw (at most {MOST_TOKENS_DRAWN}); other formats hold it."
        )


def bare_tokens(tokens: Sequence[str], boxes: Sequence[Box]) -> list[Box]:
    """Boxes of the tokens, by position, that have none yet: every picture shows the whole prompt."""
    check_length(len(tokens))
    there = {box.pos for box in boxes if box.kind == "embedding"}
    return [
        Box(f"token {pos}", "token", -1, pos, shorten(visible(token)), str(pos), 0.0)
        for pos, token in enumerate(tokens)
        if pos not in there
    ]


def _group_of(groups: Mapping[str, list[str]], ids: set[str]) -> dict[str, str]:
    """The group of each node that has one."""
    out = dict[str, str]()
    for name, members in groups.items():
        for member in members:
            if member in out:
                raise AttrGraphError(f"node {member} is in two groups, {out[member]!r} and {name!r}; keep one.")
            out[member] = name
        if ids.isdisjoint(members):
            asked = ", ".join(members[:3]) or "none"
            raise AttrGraphError(
                f"group {name!r}: the graph has none of its nodes ({asked}); expected ids as in graph.nodes. "
                "Pruning may have dropped them."
            )
    return out


def _group_box(name: str, rows: Sequence[Any], n_asked: int) -> Box:
    best = max(rows, key=lambda row: row.influence)
    count = f"{len(rows)} nodes" if len(rows) == n_asked else f"{len(rows)} of {n_asked} nodes"
    total = sum(float(row.influence) for row in rows)
    text = visible(name)
    return Box(f"group {text}", "group", int(best.layer), int(best.pos), shorten(text), count, total)


def _arrows(adjacency: sparse.csr_array, nodes_of: Sequence[Sequence[int]]) -> list[Arrow]:
    """Arrows between boxes, each given by its nodes."""
    columns = [node for nodes in nodes_of for node in nodes]
    rows = np.repeat(np.arange(len(nodes_of)), [len(nodes) for nodes in nodes_of])
    merge = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(nodes_of), len(rows)))
    inputs = _outside(merge @ abs(adjacency) @ merge.T).sum(1)
    edges = _outside(merge @ adjacency @ merge.T).tocoo()
    shares = np.abs(edges.data) / inputs[edges.row]
    return [
        Arrow(int(edges.col[i]), int(edges.row[i]), float(edges.data[i]), float(shares[i]))
        for i in np.lexsort((edges.col, edges.row, shares))
    ]


def _outside(matrix: sparse.csr_array) -> sparse.csr_array:
    """The matrix without its diagonal and its zeros."""
    out = sparse.csr_array(matrix)
    out.setdiag(0)
    out.eliminate_zeros()
    return out
