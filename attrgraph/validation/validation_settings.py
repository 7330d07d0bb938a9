"""The settings of a validation, with their defaults."""

from collections.abc import Sequence
from dataclasses import dataclass

from attrgraph.errors import InterventionError
from attrgraph.interventions.intervene import MODES


@dataclass(frozen=True)
class Settings:
    """How a graph is validated.

    Attributes:
        modes: in which single nodes are taken out; see `intervene`. Features are ranked by effects in the last of them.
        mode: of experiments on sets of nodes: necessity (which is measured in mode free too), sufficiency, doses. In
            mode constrained all MLP outputs are held, here as for single nodes.
        n_nodes: how many single nodes are taken out: the most influential half, and random others, unless all fit.
        n_controls: random sets of features with the same layers and similar activations that each chosen set is
            compared with.
        n_paths: how many of the strongest paths are followed.
        n_resamples: of the bootstrap.
        seed: of the bootstrap, the sample of nodes and the random sets.

    Raises:
        InterventionError: a mode that does not exist, or no modes.
    """

    modes: Sequence[str] = ("frozen", "constrained", "frozen-attention", "free")
    mode: str = "constrained"
    n_nodes: int = 256
    n_controls: int = 20
    n_paths: int = 10
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", tuple(self.modes))
        for mode in (*self.modes, self.mode):
            if mode not in MODES:
                raise InterventionError(f"mode is {mode!r}; expected one of {', '.join(MODES)}.")
        if not self.modes:
            raise InterventionError(f"modes is empty; expected some of {', '.join(MODES)}.")
