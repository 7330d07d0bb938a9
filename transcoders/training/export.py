"""From weights in training to a finished causal set: everything folded in, thresholds calibrated.

BatchTopK chooses among the features of all layers and tokens; a finished set has to decide for each layer and token
alone. It becomes JumpReLU with one threshold per layer, set so that each layer has as many active features a token as
it had in training. The learned thresholds of a layer are multiplied by one factor, so that L0 is exactly what was
asked. TopK depends on the layer and token alone, and stays TopK.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.layer_weights import LayerWeights
from attrgraph.transcoders.training.parameters import TrainableTranscoders
from attrgraph.transcoders.training.selection import batch_top_features
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.transcoders import Transcoders

# entries of one layer's scores held at once: 128 MiB
_MOST_ENTRIES = 2**25


@torch.no_grad()
def export_transcoders(
    model: TrainableTranscoders, sample: Activations, model_name: str, *, dtype: torch.dtype = torch.float32
) -> Transcoders:
    """The trained set as plain transcoders in the common layout.

    circuit-tracer reads it with the same meaning, but for cross-layer TopK sets, whose k its loader ignores. Means,
    scales and score weights are folded into the weights: an activation is the score by which features were compared.

    Args:
        model: all features, in one process.
        sample: activations for the calibration, at least as many tokens as a batch.
        dtype: of the stored weights.
    """
    config = model.config
    thresholds: list[Tensor | None] = [None] * model.n_layers
    if config.activation in ("batchtopk", "jumprelu"):
        for layer, level in enumerate(calibrate_thresholds(model, sample)):
            thresholds[layer] = level.expand(config.n_features).clone()
            if config.activation == "jumprelu":
                thresholds[layer] *= model.log_threshold[layer].exp() * model.score_weights(layer)
    layers = [_folded(model, layer, level).map(lambda w: w.to("cpu", dtype)) for layer, level in enumerate(thresholds)]
    kind = CROSS_LAYER if config.is_cross_layer else PER_LAYER
    k = model.k if config.activation == "topk" else None
    return Transcoders(layers, TranscoderConfig(model_kind=kind, model_name=model_name, k=k))


def _folded(model: TrainableTranscoders, layer: int, threshold: Tensor | None) -> LayerWeights:
    """One layer's weights in the model's units, activations scaled to be scores."""
    norms, n_targets = model.score_weights(layer), model.n_targets[layer]
    W_enc = model.W_enc[layer] * model.norm.read_scale[layer] * norms[:, None]
    W_dec = model.W_dec[layer].unflatten(1, (n_targets, -1)) / norms[:, None, None]
    return LayerWeights(
        W_enc=W_enc,
        b_enc=model.b_enc[layer] * norms - W_enc @ model.norm.read_mean[layer],
        W_dec=W_dec / model.norm.write_scale[layer : layer + n_targets][:, None],
        b_dec=model.bias(layer),
        threshold=threshold,
    )


@torch.no_grad()
def calibrate_thresholds(model: TrainableTranscoders, sample: Activations) -> Float[Tensor, " n_layers"]:
    """The score per layer above which as many features are on as the training's choice has on in that layer.

    For JumpReLU, scores are multiples of the learned thresholds, and the layers' numbers are scaled to sum to `l0`.
    """
    n_most = max(model.config.batch_tokens, _MOST_ENTRIES // model.config.n_features)
    # in any order, since rounds come with short texts first
    order = torch.randperm(sample.n_tokens, generator=torch.Generator().manual_seed(model.config.seed))
    sample = sample.at(order[:n_most].to(sample.reads.device))
    counts = _counts_chosen(model, sample)
    levels = []
    for layer, count in enumerate(counts):
        scores = _scores(model, layer, sample.reads[layer]).flatten()
        n_off = len(scores) - min(max(int(count), 1), len(scores) - 1)
        levels.append((scores.kthvalue(n_off).values + scores.kthvalue(n_off + 1).values) / 2)
    return torch.stack(levels)


def _counts_chosen(model: TrainableTranscoders, sample: Activations) -> list[int]:
    """How many pairs the training's choice has on in each layer."""
    config = model.config
    if config.activation == "jumprelu":
        on = [int((_scores(model, layer, reads) > 1).sum()) for layer, reads in enumerate(sample.reads)]
        return [round(count * config.l0 * sample.n_tokens / max(sum(on), 1)) for count in on]
    counts, n_batches = torch.zeros(model.n_layers, dtype=torch.int64), sample.n_tokens // config.batch_tokens
    for batch in range(n_batches):
        part = slice(batch * config.batch_tokens, (batch + 1) * config.batch_tokens)
        scores = [_scores(model, layer, reads[part]) for layer, reads in enumerate(sample.reads)]
        n_kept = max(1, round(config.l0 * config.batch_tokens))
        pairs, _ = batch_top_features(scores, n_kept, model.running_threshold, model.shards)
        counts += torch.tensor([int(p.offsets[-1]) for p in pairs])
    return [round(int(count) * sample.n_tokens / (n_batches * config.batch_tokens)) for count in counts]


def _scores(model: TrainableTranscoders, layer: int, reads: Tensor) -> Float[Tensor, "n_tokens n_features"]:
    x = model.normalised_reads(layer, reads)
    pre_activations = torch.addmm(model.b_enc[layer], x, model.W_enc[layer].T)
    if model.config.activation == "jumprelu":
        return pre_activations.div_(model.log_threshold[layer].exp())
    return pre_activations.relu_().mul_(model.score_weights(layer))


@torch.no_grad()
def gather_features(model: TrainableTranscoders) -> TrainableTranscoders:
    """The whole set in this process, from every process's block; `model` itself if there is only one."""
    if model.shards.n_ranks == 1:
        return model
    whole = TrainableTranscoders(model.norm, model.config)
    mine = dict(model.named_parameters())
    for name, parameter in whole.named_parameters():
        parts = [mine[name].data] if name == "b_dec" else model.shards.gather(mine[name].data)
        parameter.data = torch.cat(parts)
    whole.running_threshold.copy_(model.running_threshold)
    return whole
