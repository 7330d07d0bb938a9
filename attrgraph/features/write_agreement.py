"""Whether a feature writes what the MLPs write where it fires; one whose decoder belongs to another does not."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

# directions of the stream that are kept at most; share of the mean variance that is added to each: chosen, not tuned
N_DIRECTIONS, _RIDGE, _ROUNDING = 128, 0.1, 1e-5
# a label needs to agree more than this share of other features' decoder rows: of a decoder whose rows have changed
# places about a fifth does, of the demo's labelled features nine tenths
LEAST_AGREEMENT = 0.8


class Agreement:
    """Of the features of one layer, what the MLPs that they write into wrote where they fire.

    Of streams with more than 128 dimensions, 128 random directions stand for all.

    Args:
        n_features: of the layer.
        d_model: of the stream.
    """

    def __init__(self, n_features: int, d_model: int) -> None:
        n = min(d_model, N_DIRECTIONS)
        generator = torch.Generator().manual_seed(0)
        self._to = None if n == d_model else torch.randn(d_model, n, generator=generator) / n**0.5
        self._n_tokens, self._origin = 0, np.zeros(n, dtype=np.float32)
        self._sum, self._squares = np.zeros(n), np.zeros((n, n))  # of what was written, from the origin
        self._fired = np.zeros((n_features, n), dtype=np.float32)  # the same, weighted by activations
        self._activation = np.zeros(n_features)

    def add(
        self,
        wrote: Float[Tensor, "n_tokens d_model"],
        token: Int[np.ndarray, " n"],
        feature: Int[np.ndarray, " n"],
        value: Float[np.ndarray, " n"],
    ) -> None:
        """What MLPs wrote at the tokens of a batch, summed over a feature's target layers, and the firings there."""
        if not len(wrote):
            return
        kept = self._kept(wrote.float().cpu())
        if not self._n_tokens:
            self._origin = kept.mean(0).numpy()  # so that sums in float32 stay small
        kept -= torch.from_numpy(self._origin)
        self._n_tokens += len(kept)
        self._sum += kept.sum(0).numpy()
        self._squares += (kept.T @ kept).numpy()
        firings = sparse.csr_array((value, (feature, token)), shape=(len(self._fired), len(kept)))
        self._fired += firings @ kept.numpy()
        self._activation += np.bincount(feature, value, minlength=len(self._fired))

    def of(
        self, at: slice, own: Float[np.ndarray, "n d_model"], others: Float[np.ndarray, "n_others d_model"]
    ) -> Float[np.ndarray, " n"]:
        """The share of other decoder rows whose product with what was written is smaller than that of a feature's own.

        Of the features `at`, whose rows `own` has. All rows are made equally long, and what was written is taken from
        its mean and in units of its spread: the direction that tells firings from other tokens best (Fisher's linear
        discriminant).
        """
        mean = self._sum / max(self._n_tokens, 1)
        spread = self._squares / max(self._n_tokens, 1) - np.outer(mean, mean)
        ridge = _RIDGE * max(float(np.trace(spread)) / len(spread), 1e-30)
        there = self._fired[at] - self._activation[at, None] * mean
        told = np.linalg.solve(spread + ridge * np.eye(len(spread)), there.T).T
        told /= np.linalg.norm(told, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)
        mine = (told * self._directions(own)).sum(1, keepdims=True)
        # a feature may be among the others, where rounding must not decide
        share: np.ndarray = (told @ self._directions(others).T < mine - _ROUNDING).mean(1)
        return share

    def state(self) -> dict[str, np.ndarray]:
        """Everything that is known, to go on from later."""
        found = {name: getattr(self, f"_{name}") for name in ("origin", "sum", "squares", "fired", "activation")}
        return found | {"n_tokens": np.array([self._n_tokens])}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from there."""
        self._n_tokens = int(state["n_tokens"][0])
        for name in state.keys() - {"n_tokens"}:
            setattr(self, f"_{name}", state[name])

    def _directions(self, rows: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n n_kept"]:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)
        return self._kept(torch.from_numpy(unit).float()).numpy()

    def _kept(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n n_kept"]:
        return x.clone() if self._to is None else x @ self._to
