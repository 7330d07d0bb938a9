"""Groups found in the graph: features of one position, with like sources and readers, or with like weights."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import norm

from attrgraph.errors import AttrGraphError, checked, share, whole_number
from attrgraph.graph.groups.flows import Flows, flows_of
from attrgraph.graph.groups.grouping_score import score_of
from attrgraph.graph.groups.saved_groups import unused_name
from attrgraph.graph.origin import check_traced_model
from attrgraph.influence.influence import scale_rows
from attrgraph.schema import FEATURE_KINDS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph
    from attrgraph.models.language_model import LanguageModel

METHODS = ("tokens", "flow", "vectors")
# of the flow, what groups keep by default: chosen, not tuned
_MIN_SCORE = 0.9
# numbers of clusters that are tried for a score: coarse ones all, finer ones in steps of some ten percent
_N_TRIED = 64
# Of the groups in cycles, one in this many is halved before cycles are searched again: one at a time took 47 s on a
# random graph of 1500 features and 90 000 edges, this 6 s on the same two cores; graphs of the demo divide as well
# either way
_AT_ONCE = 8
# of a score, which is 1 but for this where nothing is lost
_ROUNDING = 1e-12
# digits of distances: what is the same but for rounding merges in the order of nodes
_DIGITS = 9
# the cluster of each feature, by a size: a number of bands or of clusters
_Cut = Callable[[int], Int[np.ndarray, " n_features"]]


@checked
def auto_groups(
    graph: "Graph",
    by: str = "tokens",
    n: int | None = None,
    *,
    min_score: float | None = None,
    model: "LanguageModel | None" = None,
) -> dict[str, list[str]]:
    """Groups of features for `group`: disjoint, without cycles, the same for the same graph.

    Args:
        graph: best pruned; other nodes than features stay single.
        by: `tokens`: features at one position and in neighbouring layers, all layers divided into equally many.
            `flow`: features with like sources and readers, by the mean of two cosines: of their inputs as signed shares
            of |input|, and of the flows to what reads them. `vectors`: features with like weights, by the mean of the
            cosines of their encoders and of what they write into all layers together; one feature at several positions
            is most like itself. Both by average linkage.
        n: at most this many groups, single features counted as groups.
        min_score: instead of `n`: the fewest groups with this `grouping_score`; by default 0.9.
        model: for `vectors`: the one that the graph was traced on, with its transcoders.

    Groups that influence would flow through in a cycle are halved by layers, the tallest first, until none is left.

    Returns:
        Groups of two features or more, in the order of the graph's nodes, named by the label of the most influential
        member.

    Raises:
        AttrGraphError: an unknown method, a number out of range, fewer groups asked for than can be.
        TranscoderError, ModelLoadError: the model is not the graph's.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in the state containing dallas the capital is").prune()
        >>> len(graph.auto_groups("tokens", n=4)) <= 4
        True
    """
    _check(by, n, min_score, has_model=model is not None)
    inner = graph.without_bias()
    flows = flows_of(inner)
    kinds = ("feature",) if by == "vectors" else FEATURE_KINDS  # others have no weights in the model's transcoders
    features = np.flatnonzero(np.isin(inner.nodes["kind"].to_numpy(), kinds))
    if len(features) < 2 or (n is not None and n >= len(features)):
        return {}
    if by == "tokens":
        cut, n_sizes = _by_tokens(inner, features)
    else:
        alike = _like_flow(flows, features) if by == "flow" else _like_weights(inner, features, model)
        cut, n_sizes = _by_linkage(alike)

    def groupings(sizes: list[int]) -> Iterator[Int[np.ndarray, " n_nodes"]]:
        return (without_cycles(flows, _all_nodes(cut(size), features, len(inner.nodes))) for size in sizes)

    if n is not None:  # each cluster is a group, except with bands
        chosen = _at_most(n, groupings(_steps(n_sizes if by == "tokens" else n)[::-1]), features)
    else:
        wanted = (_MIN_SCORE if min_score is None else min_score) - _ROUNDING
        tried = (grouping for grouping in groupings(_steps(n_sizes)) if score_of(flows, grouping) >= wanted)
        chosen = next(tried, np.arange(len(inner.nodes)))
    return _named(inner, chosen, flows)


def _check(by: str, n: int | None, min_score: float | None, *, has_model: bool) -> None:
    if by not in METHODS:
        raise AttrGraphError(f"by={by!r}; expected one of {', '.join(METHODS)}.")
    if n is not None and min_score is not None:
        raise AttrGraphError("n and min_score are both given; expected one of them.")
    if n is not None:
        whole_number("n", n, least=1)
    if min_score is not None:
        share("min_score", min_score)
    if (by == "vectors") != has_model:
        raise AttrGraphError('by="vectors" needs model=..., the model that was traced; the other methods take none.')


def _by_tokens(graph: "Graph", features: Int[np.ndarray, " n_features"]) -> tuple[_Cut, int]:
    """Clusters for each number of bands into which all layers are divided, and the largest number."""
    layers: np.ndarray = graph.nodes["layer"].to_numpy()[features]
    positions: np.ndarray = graph.nodes["pos"].to_numpy()[features]
    n_layers = max(graph.n_layers, int(layers.max()) + 1)

    def cut(n_bands: int) -> Int[np.ndarray, " n_features"]:
        cells = np.stack([positions, layers * n_bands // n_layers], 1)
        return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)

    return cut, n_layers


def _by_linkage(similarity: Float[np.ndarray, "n_features n_features"]) -> tuple[_Cut, int]:
    """Clusters for each number of them, by average linkage, and the largest number."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = (1 - similarity).clip(0, 2).round(_DIGITS)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average")

    def cut(n_clusters: int) -> Int[np.ndarray, " n_features"]:
        return np.asarray(fcluster(tree, n_clusters, "maxclust"), dtype=np.int64) - 1

    return cut, len(similarity)


def _like_flow(flows: Flows, features: Int[np.ndarray, " n_features"]) -> Float[np.ndarray, "n_features n_features"]:
    signs = flows.signed.copy()
    signs.data = np.sign(signs.data)
    inputs = (flows.shares * signs)[features]
    readers = flows.signed.T.tocsr()[features]
    return _mean_cosines(inputs, readers)


def _like_weights(
    graph: "Graph", features: Int[np.ndarray, " n_features"], model: "LanguageModel | None"
) -> Float[np.ndarray, "n_features n_features"]:
    assert model is not None  # asked before
    check_traced_model(graph, model)
    assert model.transcoders is not None  # check_traced_model has refused before
    encoders, decoders = [], []
    for layer, feature in graph.nodes[["layer", "feature"]].to_numpy()[features]:
        weights = model.transcoders.layers[layer]
        encoders.append(weights.W_enc[feature].detach().double().cpu().numpy())
        decoders.append(weights.W_dec[feature].detach().double().sum(0).cpu().numpy())
    return _mean_cosines(np.stack(encoders), np.stack(decoders))


def _mean_cosines(*parts: np.ndarray | sparse.csr_array) -> Float[np.ndarray, "n_rows n_rows"]:
    """Of every two rows, over the parts; a row of zeros has cosine 0."""
    n_rows = parts[0].shape[0]
    mean = np.zeros((n_rows, n_rows))
    for part in parts:
        vectors = sparse.csr_array(part)
        lengths = norm(vectors, axis=1)
        unit = scale_rows(vectors, np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0))
        mean += (unit @ unit.T).toarray() / len(parts)
    return mean


def _all_nodes(
    clusters: Int[np.ndarray, " n_features"], features: Int[np.ndarray, " n_features"], n_nodes: int
) -> Int[np.ndarray, " n_nodes"]:
    """The clusters as groups of all nodes, the other nodes single."""
    group_of = np.arange(n_nodes) + len(features)
    group_of[features] = clusters
    return np.unique(group_of, return_inverse=True)[1]


def without_cycles(flows: Flows, group_of: Int[np.ndarray, " n_nodes"]) -> Int[np.ndarray, " n_nodes"]:
    """Halve groups by levels until no influence flows in a cycle: of those tied by cycles, some with most levels.

    It ends: an edge leads to a higher level, so that groups of one level each are in no cycle.
    """
    edges = flows.flow.tocoo()
    rows, columns = edges.row[edges.data > 0], edges.col[edges.data > 0]
    group_of = group_of.copy()
    while True:
        n_groups = int(group_of.max()) + 1
        ends = np.ones(len(rows)), (group_of[rows], group_of[columns])
        between = sparse.csr_array(ends, shape=(n_groups, n_groups))
        n_parts, part_of = connected_components(between, directed=True, connection="strong")
        if n_parts == n_groups:
            return group_of
        of_levels = np.unique(np.stack([group_of, flows.levels], 1), axis=0)[:, 0]
        n_levels = np.bincount(of_levels, minlength=n_groups)
        n_new = n_groups
        for part in np.flatnonzero(np.bincount(part_of) > 1):
            tied = np.flatnonzero((part_of == part) & (n_levels > 1))
            tallest = tied[np.argsort(-n_levels[tied], kind="stable")][: -(-len(tied) // _AT_ONCE)]
            for group in tallest:
                members = np.flatnonzero(group_of == group)
                levels = np.unique(flows.levels[members])
                group_of[members[flows.levels[members] >= levels[len(levels) // 2]]] = n_new
                n_new += 1


def _steps(largest: int) -> list[int]:
    """The sizes from 1 to the largest that are tried."""
    if largest <= _N_TRIED:
        return list(range(1, largest + 1))
    return [int(size) for size in np.unique(np.geomspace(1, largest, _N_TRIED).round())]


def _at_most(
    n: int, groupings: Iterator[Int[np.ndarray, " n_nodes"]], features: Int[np.ndarray, " n_features"]
) -> Int[np.ndarray, " n_nodes"]:
    """The first grouping with so few groups of features."""
    fewest = len(features)
    for grouping in groupings:
        count = len(np.unique(grouping[features]))
        if count <= n:
            return grouping
        fewest = min(fewest, count)
    raise AttrGraphError(
        f"n is {n}, but at least {fewest} groups are needed: one for each position, or more to avoid cycles."
    )


def _named(graph: "Graph", group_of: Int[np.ndarray, " n_nodes"], flows: Flows) -> dict[str, list[str]]:
    """Groups of two nodes or more, by the order of their first nodes."""
    ids, labels = graph.nodes.index.to_numpy(), graph.nodes["label"].to_numpy()
    groups: dict[str, list[str]] = {}
    for group in dict.fromkeys(group_of.tolist()):
        members = np.flatnonzero(group_of == group)
        if len(members) > 1:
            best = members[flows.influence[members].argmax()]
            name = unused_name(str(labels[best]), {*groups, *ids})
            groups[name] = [str(node) for node in ids[members]]
    return groups
