"""What a graph predicts when some of its nodes change: the hypothesis that a validation puts to the test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse

from attrgraph.graph.graph import Graph


@dataclass(frozen=True)
class Predictions:
    """Predicted changes of what every node reads, a column an experiment. In units of activations and logits."""

    direct: Float[np.ndarray, "n_nodes n_experiments"]  # along edges from what is set, all else fixed
    total: Float[np.ndarray, "n_nodes n_experiments"]  # along all paths: features respond linearly to what they read

    def in_mode(self, mode: str) -> Float[np.ndarray, "n_nodes n_experiments"]:
        """What to compare with: in modes frozen and constrained no feature responds to another."""
        return self.direct if mode in ("frozen", "constrained") else self.total


def predict(
    graph: Graph, relative: Float[np.ndarray, "n_nodes n_experiments"], *, responds_from: int = 0
) -> Predictions:
    """Predict from the edges alone.

    direct = A r;  total_t = sum over s of A[t, s] r_s, where r_s is the relative change of source s: the given one of a
    node that is set, and total_s / activation_s of a feature that responds. One pass from the bottom layer up is exact.

    Args:
        graph: without a bias node.
        relative: by how much of itself each node is changed: scale - 1 of one that is set, else 0.
        responds_from: the lowest layer whose features respond in `total`.
    """
    adjacency = graph.adjacency.astype(np.float64)
    layers, activation = graph.nodes["layer"].to_numpy(), graph.nodes["activation"].to_numpy()
    is_feature = (graph.nodes["kind"] == "feature").to_numpy()
    changes, total = relative.astype(np.float64), np.zeros(relative.shape)
    for layer in np.unique(layers):
        here = np.flatnonzero(layers == layer)
        total[here] = sparse.csr_array(adjacency[here]) @ changes
        responds = here[is_feature[here] & (layer >= responds_from)]
        response = total[responds] / activation[responds, None]
        changes[responds] = np.where(relative[responds] != 0, relative[responds], response)
    return Predictions(adjacency @ relative, total)
