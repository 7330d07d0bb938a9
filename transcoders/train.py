"""Train TopK transcoders, cross-layer or per-layer, on streams of activations.

A feature's score is its activation times the norm of everything it writes; each token keeps the `k` best scores of each
layer. The scores' norms, and the scalars and means that normalise reads and writes, are folded into the exported
weights, so that the result is a plain TopK transcoder. Source of TopK and of the auxiliary loss for dead features:
Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attrgraph.errors import AttrGraphError, ResultError
from attrgraph.kernels.sparse_decode import sparse_decode
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.transcoders import LayerWeights, Transcoders

# decoders start at zero; this floor lets the encoder's scores differ from the first step on
_NORM_FLOOR = 0.05
# batches that estimate means and scales before the first step
_N_NORMALISATION_BATCHES = 4


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. The defaults are those of the demo."""

    n_features: int = 1024
    k: int = 16
    is_cross_layer: bool = True
    n_steps: int = 2000
    learning_rate: float = 1e-3
    n_warmup: int = 50
    decay_share: float = 0.3  # the learning rate falls linearly to zero over this last share of steps
    # errors are weighted by (|y|^2 + 0.1)^-exponent per token, so that tokens with small outputs count too
    norm_exponent: float = 0.5
    divergence_weight: float = 0.5  # of the divergence between model and replacement model ...
    divergence_share: float = 0.5  # ... over this last share of steps
    dead_after: int = 150  # steps without firing
    dead_weight: float = 1 / 32
    n_dead_active: int = 32  # dead features that may try to explain a token's error
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n_features:
            raise AttrGraphError(f"k is {self.k}; expected at least 1 and at most n_features, {self.n_features}.")
        if self.n_steps < 1 or self.n_warmup < 1 or not 0 < self.decay_share <= 1:
            raise AttrGraphError("n_steps and n_warmup must be at least 1, decay_share above 0 and at most 1.")

    def lr_scale(self, step: int) -> float:
        left = (self.n_steps - step) / self.n_steps
        return min(1.0, (step + 1) / self.n_warmup, left / self.decay_share)


@runtime_checkable
class FeatureDictionary(Protocol):
    """What a replacement model needs of transcoders, in training or finished."""

    def contributions(self, layer: int, reads: Tensor) -> Tensor: ...
    def bias(self, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class ActivationBatch:
    """What the MLPs of every layer read and write at the same tokens."""

    reads: Sequence[Float[Tensor, "n_tokens d_model"]]
    writes: Sequence[Float[Tensor, "n_tokens d_model"]]
    # divergence between the model's answers and those with these features in place of all MLPs, with gradients
    divergence: Callable[[FeatureDictionary], Tensor] | None = None


@dataclass
class _Normalisation:
    """One mean and one scale per layer for reads, one scale for writes."""

    read_mean: Float[Tensor, "n_layers d_model"]
    read_scale: Float[Tensor, " n_layers"]
    write_scale: Float[Tensor, " n_layers"]
    write_mean: Float[Tensor, "n_layers d_model"]

    @staticmethod
    def estimate(batches: Sequence[ActivationBatch]) -> "_Normalisation":
        reads = [torch.cat(layer) for layer in zip(*(batch.reads for batch in batches), strict=True)]
        writes = [torch.cat(layer) for layer in zip(*(batch.writes for batch in batches), strict=True)]

        def inverse_rms(x: Tensor) -> Tensor:
            return (x - x.mean(0)).square().mean().rsqrt()

        return _Normalisation(
            read_mean=torch.stack([x.mean(0) for x in reads]),
            read_scale=torch.stack([inverse_rms(x) for x in reads]),
            write_scale=torch.stack([inverse_rms(y) for y in writes]),
            write_mean=torch.stack([y.mean(0) for y in writes]),
        )


class TrainableTranscoders(nn.Module):
    """Weights in training: normalised reads and writes, decoders as wide rows of all target layers side by side."""

    def __init__(self, n_layers: int, d_model: int, config: TrainConfig, normalisation: _Normalisation) -> None:
        super().__init__()
        self.config, self.norm = config, normalisation
        self.n_targets = [n_layers - layer if config.is_cross_layer else 1 for layer in range(n_layers)]
        generator = torch.Generator().manual_seed(config.seed)
        n_features = config.n_features
        bound = d_model**-0.5
        self.W_enc = nn.ParameterList(
            nn.Parameter((torch.rand(n_features, d_model, generator=generator) * 2 - 1) * bound)
            for _ in range(n_layers)
        )
        self.b_enc = nn.ParameterList(nn.Parameter(torch.zeros(n_features)) for _ in range(n_layers))
        self.W_dec = nn.ParameterList(nn.Parameter(torch.zeros(n_features, n * d_model)) for n in self.n_targets)
        self.b_dec = nn.ParameterList(
            nn.Parameter(mean * scale)
            for mean, scale in zip(normalisation.write_mean, normalisation.write_scale, strict=True)
        )

    def pre_activations(self, layer: int, reads: Tensor) -> Float[Tensor, "n_tokens n_features"]:
        x = (reads - self.norm.read_mean[layer]) * self.norm.read_scale[layer]
        out: Tensor = torch.addmm(self.b_enc[layer], x, self.W_enc[layer].T)
        return out

    def write_norms(self, layer: int) -> Float[Tensor, " n_features"]:
        norms: Tensor = self.W_dec[layer].detach().norm(dim=1)
        return norms + _NORM_FLOOR

    def encode(self, layer: int, reads: Tensor) -> tuple[Float[Tensor, "n_tokens k"], Int[Tensor, "n_tokens k"]]:
        """Activations and indices of each token's features with the best scores."""
        activations = self.pre_activations(layer, reads).relu()
        with torch.no_grad():
            best = (activations * self.write_norms(layer)).topk(self.config.k, dim=-1).indices
        return activations.gather(-1, best), best

    def decode(self, layer: int, activations: Tensor, features: Tensor) -> Float[Tensor, "n_tokens n_targets d_model"]:
        """What the features write, in normalised units."""
        out: Tensor = sparse_decode(activations, features, self.W_dec[layer])
        by_target: Tensor = out.unflatten(1, (self.n_targets[layer], -1))
        return by_target

    def contributions(self, layer: int, reads: Tensor) -> Tensor:
        """What the features of one layer write into each target layer, in the model's units."""
        scales = self.norm.write_scale[layer : layer + self.n_targets[layer]]
        return self.decode(layer, *self.encode(layer, reads)) / scales[:, None]

    def bias(self, layer: int) -> Tensor:
        bias: Tensor = self.b_dec[layer]
        return bias / self.norm.write_scale[layer]

    @torch.no_grad()
    def export(self, model_name: str, *, dtype: torch.dtype = torch.float32) -> Transcoders:
        """The same function as plain TopK transcoders, with every scale, mean and score norm folded in."""
        layers = []
        for layer, n_targets in enumerate(self.n_targets):
            norms = self.write_norms(layer)  # multiplying activations by it makes the score the activation itself
            W_enc = self.W_enc[layer] * self.norm.read_scale[layer] * norms[:, None]
            W_dec = self.W_dec[layer].unflatten(1, (n_targets, -1)) / norms[:, None, None]
            scales = self.norm.write_scale[layer : layer + n_targets]
            weights = LayerWeights(
                W_enc=W_enc,
                b_enc=self.b_enc[layer] * norms - W_enc @ self.norm.read_mean[layer],
                W_dec=W_dec / scales[:, None],
                b_dec=self.bias(layer),
            )
            layers.append(weights.map(lambda w: w.to(dtype)))
        kind = CROSS_LAYER if self.config.is_cross_layer else PER_LAYER
        return Transcoders(layers, TranscoderConfig(model_kind=kind, model_name=model_name, k=self.config.k))


@dataclass
class _DeadFeatures:
    """Steps since each feature last fired."""

    idle: list[Tensor] = field(default_factory=list)

    def update(self, layer: int, features: Tensor, activations: Tensor) -> None:
        self.idle[layer] += 1
        self.idle[layer][features[activations > 0]] = 0


def train_transcoders(
    batches: Iterator[ActivationBatch],
    config: TrainConfig,
    *,
    progress: Callable[[int, list[float]], None] | None = None,
) -> TrainableTranscoders:
    """Train on batches, which must be on the CPU, until `config.n_steps`.

    Args:
        batches: an endless stream; the first four only set means and scales.
        progress: called after each step with the step and each layer's normalised mean squared error in that batch.

    Raises:
        ResultError: the loss is not finite; the step is named.
    """
    first = [next(batches) for _ in range(_N_NORMALISATION_BATCHES)]
    n_layers, d_model = len(first[0].reads), first[0].reads[0].shape[1]
    model = TrainableTranscoders(n_layers, d_model, config, _Normalisation.estimate(first))
    dead = _DeadFeatures([torch.zeros(config.n_features) for _ in range(n_layers)])
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    for step in range(config.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * config.lr_scale(step)
        batch = next(batches)
        loss, errors = _loss(model, batch, dead)
        if batch.divergence is not None and step >= (1 - config.divergence_share) * config.n_steps:
            loss = loss + config.divergence_weight * batch.divergence(model)
        if not bool(torch.isfinite(loss)):
            raise ResultError(f"the loss is not finite at step {step}; lower the learning rate.")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step, [float(e.square().mean()) for e in errors])
    return model


def _loss(model: TrainableTranscoders, batch: ActivationBatch, dead: _DeadFeatures) -> tuple[Tensor, list[Tensor]]:
    """Weighted reconstruction loss plus the dead features' auxiliary loss; also each layer's error, detached."""
    config, norm = model.config, model.norm
    targets = [y * scale for y, scale in zip(batch.writes, norm.write_scale, strict=True)]
    out = [bias.expand_as(target) for bias, target in zip(model.b_dec, targets, strict=True)]
    for layer, read in enumerate(batch.reads):
        activations, features = model.encode(layer, read)
        dead.update(layer, features, activations.detach())
        for i, part in enumerate(model.decode(layer, activations, features).unbind(1)):
            out[layer + i] = out[layer + i] + part
    loss = torch.zeros(())
    for target, reconstruction in zip(targets, out, strict=True):
        weight = (target.square().mean(1) + 0.1) ** -config.norm_exponent
        loss = loss + ((reconstruction - target).square().mean(1) * weight).mean()
    errors = [(target - reconstruction).detach() for target, reconstruction in zip(targets, out, strict=True)]
    return loss + config.dead_weight * _dead_loss(model, batch, dead, errors), errors


def _dead_loss(
    model: TrainableTranscoders, batch: ActivationBatch, dead: _DeadFeatures, errors: list[Tensor]
) -> Tensor:
    """How badly dead features explain what is left over: gives them a gradient, and them alone."""
    loss = torch.zeros(())
    for layer, read in enumerate(batch.reads):
        features = (dead.idle[layer] > model.config.dead_after).nonzero().flatten()
        if not len(features):
            continue
        x = (read - model.norm.read_mean[layer]) * model.norm.read_scale[layer]
        pre_activations = torch.addmm(model.b_enc[layer][features], x, model.W_enc[layer][features].T)
        best = pre_activations.relu().topk(min(model.config.n_dead_active, len(features)), dim=-1)
        parts = model.decode(layer, best.values, features[best.indices]).unbind(1)
        for error, part in zip(errors[layer:], parts, strict=False):
            loss = loss + (part - error).square().mean() / error.square().mean().clamp_min(1e-4) / len(parts)
    return loss
