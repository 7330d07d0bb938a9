"""The weights of one layer's transcoder, and whether they fit each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.finite import where_not_finite
from attrgraph.transcoders.paging import release


@dataclass(frozen=True)
class LayerWeights:
    """The transcoder that reads at one layer. On a CPU the tensors may be views of memory-mapped files.

    `W_dec[f, i]` is what feature `f` writes into the MLP output `i` layers above its own; a per-layer transcoder has
    `n_targets` 1. `W_skip` maps what the transcoder reads linearly to its own layer's output: `y += W_skip x`.
    """

    W_enc: Float[Tensor, "n_features d_model"]
    b_enc: Float[Tensor, " n_features"]
    W_dec: Float[Tensor, "n_features n_targets d_model"]
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " n_features"] | None = None  # JumpReLU: active if the pre-activation exceeds it
    W_skip: Float[Tensor, "d_model d_model"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "LayerWeights":
        """The same with `change` applied to every tensor."""
        changed: dict[str, Any] = {name: None if w is None else change(w) for name, w in vars(self).items()}
        return LayerWeights(**changed)

    def without_features(self, n_targets: int) -> "LayerWeights":
        """Of a layer that has no transcoder: an MLP output is error altogether."""
        d_model = self.W_enc.shape[1]
        new = self.W_enc.new_zeros
        return LayerWeights(new(0, d_model), new(0), new(0, n_targets, d_model), new(d_model))


def check_layer(where: str, weights: LayerWeights, *, d_model: int, n_targets: int, k: int | None) -> None:
    """Raise TranscoderError for weights of a layer whose shapes or types do not fit each other.

    Args:
        where: said in the error: of which set, which layer.
        weights: of the layer.
        d_model: of the set.
        n_targets: into how many layers its features write.
        k: of a TopK.
    """
    n_features = len(weights.W_enc)
    expected = {
        "W_enc": (n_features, d_model),
        "b_enc": (n_features,),
        "W_dec": (n_features, n_targets, d_model),
        "b_dec": (d_model,),
        "threshold": (n_features,),
        "W_skip": (d_model, d_model),
    }
    for name, shape in expected.items():
        tensor: Tensor | None = getattr(weights, name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise TranscoderError(f"{where}: {name} has shape {list(tensor.shape)}, expected {list(shape)}.")
        if tensor is not None and not tensor.is_floating_point():
            raise TranscoderError(f"{where}: {name} is {tensor.dtype}; expected a floating-point type.")
    check_finite(where, weights, every=False)
    if k is not None and 0 < n_features < k:
        raise TranscoderError(
            f"{where}: k is {k}, but there are {n_features} features; expected a k of at most {n_features}."
        )
    if weights.threshold is not None and k is not None:
        raise TranscoderError(f"{where}: has both thresholds and k; expected one.")


def check_finite(where: str, weights: LayerWeights, *, every: bool = True) -> None:
    """Raise TranscoderError for weights that hold NaN or infinite values.

    Args:
        where: said in the error.
        weights: of a layer; shapes alone, on the device meta, are right.
        every: whether matrices are read too.
    """
    names = ("b_dec", "threshold", *(("b_enc", "W_skip", "W_enc", "W_dec") if every else ()))
    found: dict[str, Tensor | None] = {name: getattr(weights, name) for name in names}
    if not weights.W_enc.is_meta and (wrong := where_not_finite(found)):
        raise TranscoderError(f"{where}: {wrong} holds NaN or infinite values; copy or download it again.")
    for w in found.values():
        if every and w is not None:
            release(w)
