"""Transcoders of all layers of a model: encode streams to sparse features, decode features to MLP outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.errors import ResultError, TranscoderError
from attrgraph.kernels.encode_sparse import active_mask, all_finite, encode_sparse
from attrgraph.kernels.weighted_bags import weighted_bags
from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.digests import Origin, views_of_files
from attrgraph.transcoders.finite import is_finite, not_finite
from attrgraph.transcoders.layer_weights import LayerWeights, check_layer
from attrgraph.transcoders.paging import release

# of decoder rows that are converted at a time: a choice, not tuned
_CONVERTED_BYTES = 64 * 2**20
# a feature's number: its layer, then so many bits for its position and for its index in the layer
_POS_BITS, _FEATURE_BITS = 24, 31
# layer, feature, position
FeatureKey = tuple[int, int, int]


@dataclass(frozen=True)
class ActiveFeatures:
    """The active features of one prompt, ascending by (layer, position, feature)."""

    layer: Int[Tensor, " n_active"]
    pos: Int[Tensor, " n_active"]
    feature: Int[Tensor, " n_active"]
    activation: Float[Tensor, " n_active"]  # equals the pre-activation: every activation kind is the identity where on

    def __len__(self) -> int:
        return len(self.layer)

    @staticmethod
    def join(parts: "Sequence[ActiveFeatures]") -> "ActiveFeatures":
        """Of several layers, given in ascending order."""
        columns = ((part.layer, part.pos, part.feature, part.activation) for part in parts)
        return ActiveFeatures(*(torch.cat(column) for column in zip(*columns, strict=True)))

    def with_set(self, keys: Sequence[FeatureKey], activations: Sequence[float]) -> "ActiveFeatures":
        """The same with the activations of some features set; at 0 a feature is not active."""
        codes, place = torch.cat([self.codes_of(keys), self.codes]).unique(return_inverse=True)  # in ascending order
        activation = self.activation.new_zeros(len(codes)).index_copy_(0, place[len(keys) :], self.activation)
        activation[place[: len(keys)]] = activation.new_tensor(activations)
        is_on = (activation != 0).nonzero()[:, 0]
        return ActiveFeatures(*decoded(codes[is_on]), activation[is_on])

    def at(self, keys: Sequence[FeatureKey]) -> list[float]:
        """The activations of some features; 0 for one that is not active."""
        codes = self.codes_of(keys)
        if not len(self):
            return [0.0] * len(keys)
        row = torch.searchsorted(self.codes, codes).clamp_max(len(self) - 1)
        found: list[float] = torch.where(self.codes[row] == codes, self.activation[row], 0.0).tolist()
        return found

    def places(self) -> list[FeatureKey]:
        """Of all active features; to ask for some, `at` costs far less."""
        return list(zip(*(column.tolist() for column in (self.layer, self.feature, self.pos)), strict=True))

    @cached_property
    def codes(self) -> Int[Tensor, " n_active"]:
        """A number for each feature, in ascending order; see `decoded`."""
        return _codes(self.layer, self.pos, self.feature)

    def codes_of(self, keys: Sequence[FeatureKey]) -> Int[Tensor, " n"]:
        """The numbers of some features, active or not."""
        layer, feature, pos = torch.tensor(keys, dtype=torch.int64, device=self.layer.device).reshape(-1, 3).T
        return _codes(layer, pos, feature)

    def in_layer(self, layer: int) -> slice:
        """The rows of one layer."""
        bounds = torch.tensor([layer, layer + 1], device=self.layer.device)
        return slice(*torch.searchsorted(self.layer, bounds).tolist())


def _codes(layer: Tensor, pos: Tensor, feature: Tensor) -> Int[Tensor, " n"]:
    return (((layer << _POS_BITS) + pos) << _FEATURE_BITS) + feature


def decoded(codes: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Layers, positions and indices of the features that have these numbers."""
    pos, feature = (codes >> _FEATURE_BITS) & (2**_POS_BITS - 1), codes & (2**_FEATURE_BITS - 1)
    return codes >> (_POS_BITS + _FEATURE_BITS), pos, feature


class Transcoders:
    """A cross-layer or per-layer set of transcoders, one reading at each layer.

    Args:
        layers: weights by layer.
        config: hooks, activation and names.
        source, files: their origin as it is recorded in graphs (id, revision, digest), and those they are views of.
        labels: names of features by (layer, feature), for those that have one.

    Raises:
        TranscoderError: the weights' shapes do not fit each other.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        config: TranscoderConfig,
        *,
        source: dict[str, Any] | None = None,
        labels: Mapping[tuple[int, int], str] | None = None,
        files: Iterable[Path] = (),
    ) -> None:
        self.layers, self.config = tuple(layers), config
        self.labels: Mapping[tuple[int, int], str] = labels or {}
        name = source["id"] if source else config.model_name or "(in memory)"
        config.check_lists(name, self.n_layers)
        for layer, weights in enumerate(self.layers):
            where, n_targets = f"{name}, layer {layer}", self.n_targets(layer)
            check_layer(where, weights, d_model=self.d_model, n_targets=n_targets, k=config.k_of(layer))
        self._origin = Origin(source, name, self._named, self._deciding, most_read=views_of_files(source), files=files)

    def _deciding(self) -> list[Any]:
        """Of the config what decides and stands nowhere else in graphs, as hooks do."""
        return [self.config.k, self.config.relu_before_topk]

    def _named(self) -> dict[str, Tensor | None]:
        return {f"{name}_{i}": held for i, weights in enumerate(self.layers) for name, held in vars(weights).items()}

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights are from, as graphs record it: id, revision, digest. Once they are changed, of those."""
        return self._origin.now()

    def __repr__(self) -> str:
        kind = "cross-layer" if self.config.is_cross_layer else "per-layer"
        return f"Transcoders({kind}, {self.n_layers} layers x {max(self.n_features)} features, d_model {self.d_model})"

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.layers[0].W_enc.shape[1]

    @property
    def n_features(self) -> list[int]:
        """Number of features by layer."""
        return [len(weights.W_enc) for weights in self.layers]

    @property
    def missing_layers(self) -> list[int]:
        """Those without a transcoder: their MLPs' outputs are errors."""
        return [layer for layer, n_features in enumerate(self.n_features) if n_features == 0]

    def up_to(self, n_layers: int) -> "Transcoders":
        """The same for a model with layers above, where no transcoder is; a cross-layer set cannot be extended."""
        if self.n_layers >= n_layers or self.config.is_cross_layer:
            return self
        above = [self.layers[0].without_features(1)] * (n_layers - self.n_layers)
        about: Any = {"source": self.source, "labels": self.labels, "files": self._origin.files}
        return Transcoders([*self.layers, *above], self.config.up_to(n_layers), **about)

    @property
    def n_bytes(self) -> int:
        """Of all weights."""
        return sum(w.nbytes for weights in self.layers for w in vars(weights).values() if w is not None)

    def n_targets(self, layer: int) -> int:
        """How many layers' MLP outputs the features of `layer` write into: its own and, if cross-layer, all above."""
        return self.n_layers - layer if self.config.is_cross_layer else 1

    def check_fits(self, *, n_layers: int, d_model: int) -> None:
        """Raise TranscoderError unless the set fits a model of this size."""
        if (self.n_layers, self.d_model) != (n_layers, d_model):
            is_part = not self.config.is_cross_layer and self.n_layers < n_layers
            hint = " If layers are missing, pass --allow-missing-layers (allow_missing_layers=True)." if is_part else ""
            raise TranscoderError(
                f"the transcoders ({self._origin.id}) are for {self.n_layers} layers x d_model {self.d_model}, "
                f"the model has {n_layers} layers x d_model {d_model}; were they trained on another model?{hint}"
            )

    def encode_layer(self, layer: int, reads: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, "n_pos n_features"]:
        """Activations of every feature of one layer: JumpReLU if it has thresholds, else TopK if k is set, else ReLU.

        Raises:
            ResultError: the encoder's weights are not finite.
        """
        weights = self.layers[layer]
        h = torch.addmm(weights.b_enc.to(reads), reads, weights.W_enc.to(reads).T)
        self._check_finite(layer, all_finite(h), h.dtype)
        limit = None if weights.threshold is None else weights.threshold.to(h)
        return h * active_mask(h, limit, self.config.k_of(layer), self.config.has_relu(layer))

    def _check_finite(self, layer: int, is_finite: Bool[Tensor, ""], dtype: torch.dtype) -> None:
        if not bool(is_finite):
            raise self._not_finite("pre-activations", layer, ("W_enc", "b_enc"), dtype)

    def check_sums(self, layer: int, out: Tensor, features: Tensor | None = None) -> None:
        """Raise ResultError if sums of decoder rows (of some features, else of all) of a layer are not finite."""
        if not bool(torch.isfinite(out).all()):
            raise self._not_finite("sums of decoder rows", layer, ("W_dec",), out.dtype, features)

    def _not_finite(
        self, what: str, layer: int, names: Sequence[str], dtype: torch.dtype, features: Tensor | None = None
    ) -> ResultError:
        weights = {name: getattr(self.layers[layer], name) for name in names}
        return not_finite(f"{what} of layer {layer}", "the transcoder", weights, dtype, features)

    def encode(
        self, reads: Sequence[Float[Tensor, "n_pos d_model"]], is_skipped: Bool[Tensor, " n_pos"]
    ) -> ActiveFeatures:
        """The active features of one prompt, none at skipped positions.

        Args:
            reads: what the transcoders read, by layer.
            is_skipped: positions whose features are left out.

        Raises:
            ResultError: the encoder's weights are not finite.
        """
        return ActiveFeatures.join([self.encode_one(layer, read, is_skipped) for layer, read in enumerate(reads)])

    def encode_one(
        self, layer: int, read: Float[Tensor, "n_pos d_model"], is_skipped: Bool[Tensor, " n_pos"]
    ) -> ActiveFeatures:
        """`encode` for one layer."""
        positions = (~is_skipped).nonzero()[:, 0]
        found = self.encode_often(layer, read[positions])
        release(self.layers[layer].W_enc)
        return ActiveFeatures(found.layer, positions[found.pos], found.feature, found.activation)

    def encode_often(self, layer: int, read: Float[Tensor, "n_pos d_model"]) -> ActiveFeatures:
        """`encode_one` at all positions, where the next batch needs the same weights: they stay in memory."""
        weights = self.layers[layer]
        how: dict[str, Any] = {"k": self.config.k_of(layer), "only_positive": self.config.has_relu(layer)}
        found = encode_sparse(read, weights.W_enc, weights.b_enc, threshold=weights.threshold, **how)
        self._check_finite(layer, found.is_finite, read.dtype)
        return ActiveFeatures(torch.full_like(found.pos, layer), found.pos, found.feature, found.activation)

    def encode_some(
        self, layer: int, read: Float[Tensor, "n_pos d_model"], features: Int[Tensor, " n"]
    ) -> ActiveFeatures:
        """`encode_often` for some features, ascending; unless others decide what is on, only their rows are read."""
        if self.is_topk(layer):
            found = self.encode_often(layer, read)
            at = torch.isin(found.feature, features.to(found.feature.device))
            return ActiveFeatures(found.layer[at], found.pos[at], found.feature[at], found.activation[at])
        limit = self.layers[layer].threshold
        limit = None if limit is None else limit[features.to(limit.device)]
        some = encode_sparse(read, *self.encoder_rows(layer, features, read), threshold=limit)
        self._check_finite(layer, some.is_finite, read.dtype)
        feature = features.to(some.feature.device)[some.feature]
        return ActiveFeatures(torch.full_like(some.pos, layer), some.pos, feature, some.activation)

    def is_topk(self, layer: int) -> bool:
        """Whether features of a layer are on depending on the others."""
        return self.layers[layer].threshold is None and self.config.k_of(layer) is not None

    def encoder_rows(
        self, layer: int, features: Int[Tensor, " n"], like: Tensor
    ) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
        """Encoder rows and biases of some features of one layer; only these rows are read.

        Args:
            like: a tensor of the wanted type, on the wanted device.
        """
        weights = self.layers[layer]
        at = features.to(weights.W_enc.device)
        W_enc, b_enc = weights.W_enc.index_select(0, at).to(like), weights.b_enc.index_select(0, at).to(like)
        release(weights.W_enc)
        return W_enc, b_enc

    def decoder_rows(
        self, source: int, target: int, features: Int[Tensor, " n"], *, out: Float[Tensor, "n d_model"]
    ) -> Float[Tensor, "n d_model"]:
        """What features of layer `source` write into layer `target` per unit of activation; only these rows are read.

        Args:
            out: where the rows go, in its type and on its device; returned.
        """
        table = self.layers[source].W_dec[:, target - source]
        if (table.dtype, table.device) == (out.dtype, out.device):
            return torch.index_select(table, 0, features.to(out.device), out=out)
        return out.copy_(table.index_select(0, features.to(table.device)))

    def written(
        self, layer: int, active: ActiveFeatures, activations: Float[Tensor, " n_active_in_layer"], n_pos: int
    ) -> Float[Tensor, "n_pos n_targets d_model"]:
        """What the active features of one layer write into each of their target layers, with the given activations.

        Raises:
            ResultError: a decoder row of an active feature is not finite.
        """
        rows, W_dec = active.in_layer(layer), self.layers[layer].W_dec
        features, table = active.feature[rows], W_dec.flatten(1)
        offsets = torch.searchsorted(active.pos[rows], torch.arange(n_pos + 1, device=active.pos.device))
        is_plain = table.is_contiguous()  # of a view all rows would be copied
        if is_plain and (table.dtype, table.device) == (activations.dtype, activations.device):
            out = weighted_bags(activations, features, offsets, table)
        else:
            out = self._written_converted(table, activations, features, offsets)
        self.check_sums(layer, out, features)
        release(W_dec)
        return out.view(-1, W_dec.shape[1], self.d_model)

    @staticmethod
    def _written_converted(table: Tensor, activations: Tensor, features: Tensor, offsets: Tensor) -> Tensor:
        """Bags of rows of a table of another type or device, or of a view, some positions' rows at a time."""
        most = max(offsets.diff().tolist(), default=0)
        step = max(1, _CONVERTED_BYTES // max(1, most * table.shape[1] * activations.element_size()))
        parts = []
        for first in range(0, len(offsets) - 1, step):
            bounds = offsets[first : first + step + 1]
            part = slice(int(bounds[0]), int(bounds[-1]))
            read = table.index_select(0, features[part].to(table.device)).to(activations)
            every = torch.arange(len(read), device=activations.device)
            parts.append(weighted_bags(activations[part], every, bounds - bounds[0], read))
        return torch.cat(parts)

    def contributions(
        self, layer: int, reads: Float[Tensor, "n_pos d_model"]
    ) -> Float[Tensor, "n_pos n_targets d_model"]:
        """What the features of one layer write into each of their target layers; the skip counts to its own layer."""
        activations = self.encode_layer(layer, reads)
        out = torch.einsum("pf,fid->pid", activations, self.layers[layer].W_dec.to(reads))
        self.check_sums(layer, out)
        skip = self.skip(layer, reads)
        if skip is not None:
            out[:, 0] += skip
        return out

    def bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """b_dec of the layer."""
        b_dec = self.layers[layer].b_dec
        if not is_finite(b_dec):
            raise self._not_finite("biases of the output", layer, ("b_dec",), b_dec.dtype)
        return b_dec

    def skip(self, layer: int, reads: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, "n_pos d_model"] | None:
        """What the linear skip adds to the layer's reconstruction; None without a skip."""
        W_skip = self.layers[layer].W_skip
        if W_skip is None:
            return None
        out = reads @ W_skip.to(reads).T
        if not bool(torch.isfinite(out).all()):
            raise self._not_finite("outputs of the linear skip", layer, ("W_skip",), out.dtype)
        return out
