"""Weights in training: normalised reads and writes, decoders with the rows of all target layers side by side."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.sparse_ops import sparse_decode, sparse_encode
from attrgraph.transcoders.training.selection import jumprelu, top_features
from attrgraph.transcoders.training.shards import Shards, into_shards, out_of_shards
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.train_config import TrainConfig

# Added to a feature's decoder norm, in units of the outputs' standard deviations, when features are compared: decoders
# start at zero, and a feature whose decoder is still short has to be on somewhere to learn anything.
NORM_FLOOR = 2.0


@runtime_checkable
class FeatureDictionary(Protocol):
    """What a replacement model needs from transcoders, whether in training or finished."""

    def contributions(self, layer: int, reads: Tensor) -> Tensor: ...
    def bias(self, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class Normalisation:
    """One mean and one scale per layer for reads and writes."""

    read_mean: Float[Tensor, "n_layers d_model"]
    read_scale: Float[Tensor, " n_layers"]
    write_mean: Float[Tensor, "n_layers d_model"]
    write_scale: Float[Tensor, " n_layers"]  # makes the variance per element 1, so that squared errors are NMSE

    @staticmethod
    def estimate(sample: Activations) -> "Normalisation":
        """From a sample of tokens."""
        read_mean, write_mean = sample.reads.float().mean(1), sample.writes.float().mean(1)

        def inverse_rms(x: Tensor, mean: Tensor) -> Tensor:
            # a layer that writes a constant has no variance; its scale then is 1
            variance = (x.float() - mean[:, None]).square().mean((1, 2))
            return torch.where(variance > 0, variance, 1.0).rsqrt()

        return Normalisation(
            read_mean=read_mean,
            read_scale=inverse_rms(sample.reads, read_mean),
            write_mean=write_mean,
            write_scale=inverse_rms(sample.writes, write_mean),
        )


class TrainableTranscoders(nn.Module):
    """A set of transcoders in training, or the block of its features that one process holds."""

    def __init__(self, normalisation: Normalisation, config: TrainConfig, shards: Shards | None = None) -> None:
        super().__init__()
        self.config, self.norm, self.shards = config, normalisation, shards or Shards()
        self.n_layers, self.d_model = normalisation.read_mean.shape
        n = self.n_layers
        self.n_targets = [n - layer if config.is_cross_layer else 1 for layer in range(n)]
        # the score that a feature needs to be on outside of training batches, where no batch decides
        self.running_threshold: Tensor
        self.register_buffer("running_threshold", torch.zeros((), device=normalisation.read_mean.device))
        generator = torch.Generator().manual_seed(config.seed)
        W_enc, W_dec = zip(*(self._initial(layer, generator) for layer in range(n)), strict=True)
        self.W_enc, self.W_dec = nn.ParameterList(W_enc), nn.ParameterList(W_dec)
        zeros = torch.zeros(n, W_enc[0].shape[0], device=normalisation.read_mean.device)
        self.b_enc = nn.ParameterList(nn.Parameter(row.clone()) for row in zeros)
        self.b_dec = nn.Parameter(normalisation.write_mean * normalisation.write_scale[:, None])
        self.log_threshold = nn.ParameterList()
        if config.activation == "jumprelu":
            self.log_threshold.extend(nn.Parameter(row + torch.tensor(config.threshold_init).log()) for row in zeros)

    def _initial(self, layer: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
        """Encoder and decoder of one layer. Every process draws all features and keeps its block."""
        config, mine = self.config, self.shards.features(self.config.n_features)
        device = self.norm.read_mean.device

        def uniform(width: int, bound: float) -> Tensor:
            drawn = (torch.rand(config.n_features, width, generator=generator, dtype=torch.float32) * 2 - 1) * bound
            return drawn[mine].clone().to(device)

        W_enc, width = uniform(self.d_model, self.d_model**-0.5), self.n_targets[layer] * self.d_model
        has_threshold = config.activation in ("jumprelu", "relu")
        bound = (self.n_layers * self.d_model) ** -0.5
        W_dec = uniform(width, bound) if has_threshold else torch.zeros(len(W_enc), width, device=device)
        return nn.Parameter(W_enc), nn.Parameter(W_dec)

    @property
    def has_sparse_gradients(self) -> bool:
        """Whether gradients hold only the rows of features that were on.

        Rows pay while a step's pairs are fewer than `_DENSE_FROM` of a layer's features, on a CPU. Penalties on the
        decoders' norms have dense gradients; and on a GPU the number of rows would have to be known to the host.
        """
        config = self.config
        if config.activation in ("jumprelu", "relu"):
            return False
        if config.optimizer != "auto":
            return config.optimizer == "lazy"
        n_pairs = config.batch_tokens * config.l0 / self.n_layers
        return self.norm.read_mean.device.type == "cpu" and n_pairs < _DENSE_FROM * config.n_features

    def normalised_reads(self, layer: int, reads: Tensor) -> Float[Tensor, "n_tokens d_model"]:
        return (reads.float() - self.norm.read_mean[layer]) * self.norm.read_scale[layer]

    def pre_activations(self, layer: int, x: Float[Tensor, "n_tokens d_model"]) -> Tensor:
        """Of every feature, from normalised reads; in bfloat16 on a GPU, which is enough to choose by."""
        W_enc, b_enc = self.W_enc[layer], self.b_enc[layer]
        if x.is_cuda:
            return torch.addmm(b_enc.bfloat16(), x.bfloat16(), W_enc.bfloat16().T)
        return torch.addmm(b_enc, x, W_enc.T)

    @torch.no_grad()
    def score_weights(self, layer: int) -> Float[Tensor, " n_features"]:
        """What an activation is multiplied by when features are compared: the length of all that it writes, floored."""
        norms: Tensor = torch.linalg.vector_norm(self.W_dec[layer], dim=1)
        return norms + NORM_FLOOR

    @property
    def k(self) -> int:
        """topk: features that each token keeps in each layer."""
        return round(self.config.l0 / self.n_layers)

    def values(self, layer: int, x: Tensor, pairs: Pairs, *, is_jumping: bool = True) -> Float[Tensor, " n_pairs"]:
        """Activations of chosen pairs, with gradients to encoder, bias and threshold."""
        pre_activations = sparse_encode(
            x, pairs, self.W_enc[layer], self.b_enc[layer], has_sparse_gradient=self.has_sparse_gradients
        )
        if not len(self.log_threshold) or not is_jumping:
            return pre_activations.relu()
        return jumprelu(pre_activations, self.log_threshold[layer].exp()[pairs.features], self.config.bandwidth)

    def decode(self, layer: int, values: Tensor, pairs: Pairs) -> Float[Tensor, "n_tokens d_out"]:
        """What the features write into all their target layers, in normalised units."""
        return sparse_decode(values, pairs, self.W_dec[layer], has_sparse_gradient=self.has_sparse_gradients)

    def scores(self, layer: int, x: Float[Tensor, "n_tokens d_model"]) -> Float[Tensor, "n_tokens n_features"]:
        """What TopK and BatchTopK compare: positive pre-activations times `score_weights`."""
        return self.pre_activations(layer, x).float().relu_().mul_(self.score_weights(layer))

    @torch.no_grad()
    def causal_pairs(self, layer: int, x: Float[Tensor, "n_tokens d_model"], *, margin: float = 0.0) -> Pairs:
        """Features that are on without knowledge of other tokens or layers.

        Args:
            margin: jumprelu: features that are off by less than this count too.
        """
        match self.config.activation:
            case "topk":
                return top_features(self.scores(layer, x), self.k, self.shards)
            case "batchtopk":
                is_on = self.scores(layer, x) > self.running_threshold
            case "jumprelu":
                is_on = self.pre_activations(layer, x).float() > self.log_threshold[layer].exp() - margin
            case _:
                is_on = self.pre_activations(layer, x).float() > 0
        tokens, features = is_on.nonzero(as_tuple=True)
        return Pairs.of_indices(tokens, features, is_on.shape)

    def contributions(self, layer: int, reads: Tensor) -> Float[Tensor, "n_tokens n_targets d_model"]:
        """What the features of one layer write into each target layer, in the model's units."""
        x = into_shards(self.normalised_reads(layer, reads), self.shards)
        pairs = self.causal_pairs(layer, x)
        out = out_of_shards(self.decode(layer, self.values(layer, x, pairs), pairs), self.shards)
        scales = self.norm.write_scale[layer : layer + self.n_targets[layer]]
        return out.view(-1, self.n_targets[layer], self.d_model) / scales[:, None]

    def bias(self, layer: int) -> Float[Tensor, " d_model"]:
        return self.b_dec[layer] / self.norm.write_scale[layer]


# Pairs of a step by features of a layer. benchmarks/train_step.py --d-model 128 --k 16 on two CPU cores: rows with a
# gradient are faster at 0.25 (--features 32768), all rows at 0.5 (--features 16384).
_DENSE_FROM = 0.4
