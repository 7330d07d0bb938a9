"""The strongest paths of a graph, and whether the model's own features pass on what they predict."""

from itertools import pairwise
from typing import Any

import numpy as np

from attrgraph.graph.best_paths import best_paths
from attrgraph.influence.influence import row_shares
from attrgraph.interventions.intervene import effects_of
from attrgraph.interventions.intervention import Intervention, resolve
from attrgraph.validation.subject import Subject

Path = tuple[int, ...]  # rows, from the source to the answer


def strongest_paths(subject: Subject, n: int) -> list[tuple[float, Path]]:
    """The `n` paths through at least one feature to the answer that hold most of its input, and their shares.

    A path's share is the product of its edges' shares of their targets' input. Taken from the pruned graph; exact, by
    `best_paths`, as paths to a node with an edge to the answer, plus that edge: so every path has two edges or more.
    """
    pruned = subject.graph.prune()
    shares, layers = row_shares(pruned.adjacency), pruned.nodes["layer"].to_numpy()
    rows = [subject.rows[node] for node in pruned.nodes.index]
    answer = rows.index(subject.answer)
    found = best_paths(
        shares,
        layers,
        # paths start at nodes that can be changed
        starts=(pruned.nodes["kind"] != "logit").to_numpy(dtype=np.float64),
        ends=shares[[answer]].toarray()[0],
        passing=np.ones(len(rows)),
        k=n,
    )
    return [(share, tuple(rows[row] for row in (*path, answer))) for share, path in found]


def follow(subject: Subject, path: Path) -> dict[str, Any]:
    """Take a path's source out and pass on only what goes along the path: predicted and measured change of the answer.

    The prediction multiplies edges; the measurement sets one node after the other, all else frozen, each to what its
    activation function makes of what it then reads.
    """
    nodes, adjacency = subject.graph.nodes, subject.graph.adjacency
    predicted, relative = 0.0, -1.0
    setting = Intervention(nodes.index[path[0]], scale=0.0)
    is_cut = False  # whether a feature on the path has switched off
    measured = 0.0
    for source, target in pairwise(path):
        predicted = float(adjacency[target, source]) * relative
        changes = [resolve(subject.local, [setting])]
        how: dict[str, Any] = {"mode": "frozen", "allow_inexact": subject.is_marked}
        (effect,) = effects_of(subject.model, subject.local, changes, **how)
        if nodes["kind"].iloc[target] == "logit":
            change = effect.uncapped_change.double()
            measured = float(change[int(nodes["feature"].iloc[target])] - change.mean())
            break
        relative = predicted / float(nodes["activation"].iloc[target])
        layer, feature, pos = (int(nodes[name].iloc[target]) for name in ("layer", "feature", "pos"))
        table = effect.features.set_index(["layer", "feature", "pos"])
        reads = float(table.loc[(layer, feature, pos), "after"])
        after = _activation(subject, layer, feature, reads)
        is_cut |= after == 0
        setting = Intervention((layer, feature, pos), value=after)
    labels = [str(nodes["label"].iloc[row]) for row in path]
    return {"path": " → ".join(labels), "predicted": predicted, "measured": measured, "has_gone_off": is_cut}


def _activation(subject: Subject, layer: int, feature: int, reads: float) -> float:
    """A feature's activation from its pre-activation; with TopK, as long as it stays among the k."""
    threshold = subject.local.transcoders.layers[layer].threshold
    return reads if reads > (0.0 if threshold is None else float(threshold[feature])) else 0.0
