"""One training step: choose features, reconstruct, and bring the gradients of the loss to those features.

The loss of a batch is the mean over layers of squared error divided by the variance of the layer's output (the NMSE
that is reported), plus an auxiliary loss in which features that have not fired for long try to explain the error, which
is held fixed (AuxK; Gao et al. 2024, arXiv 2406.04093), and a share of what is reconstructed already, relative to the
size of both together. JumpReLU and ReLU add a penalty on active features (tanh as in Anthropic's January 2025 update,
or L1).

With TopK and BatchTopK nothing here waits for a GPU. Learned thresholds, and the replacement model of the KL term,
wait once a layer for the number of active features.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.kernels.pairs import Pairs, counts_are_known
from attrgraph.transcoders.training.parameters import TrainableTranscoders
from attrgraph.transcoders.training.selection import batch_top_features, kth_best
from attrgraph.transcoders.training.streams import Activations

# the penalty's tanh(c * score): with c = 4 a score of 1/2 is counted almost as 1
_TANH_SCALE = 4.0
# of the running threshold towards each batch's
_THRESHOLD_RATE = 0.01
# dead features that explain the errors of one layer's tokens, never padded, and which of these pairs are on
_DeadPairs = tuple[Pairs, Tensor]


@dataclass(frozen=True)
class StepResult:
    """What was measured on one batch, as tensors: to read a number is to wait for the device."""

    loss: Float[Tensor, ""]  # mean NMSE and penalty; the auxiliary loss and weights of tokens are in gradients only
    nmse: Float[Tensor, " n_layers"]
    l0: Float[Tensor, " n_layers"]  # active features a token


class DeadFeatures:
    """How long ago each feature last fired, and which have not for longer than `dead_after` tokens."""

    def __init__(self, model: TrainableTranscoders) -> None:
        self._model = model
        self.idle: list[Int[Tensor, " n_features"]] = [
            torch.zeros(len(W_enc), dtype=torch.int64, device=W_enc.device) for W_enc in model.W_enc
        ]
        self.features: list[Int[Tensor, " n_dead"]] = []
        self.counts: list[int] = []  # by layer, in all processes together
        self.refresh()

    def update(self, layer: int, pairs: Pairs, fired: Bool[Tensor, " n_pairs"], n_tokens: int) -> None:
        idle = self.idle[layer].add_(n_tokens)
        # not by a mask: how many fired would have to be known to the host
        idle.scatter_reduce_(0, pairs.features, torch.where(fired, 0, idle[pairs.features]), "amin")

    def refresh(self, *, is_over: bool = False) -> None:
        """Find the dead features again; none if `is_over`. It waits for the device: not for every step."""
        limit = torch.inf if is_over else self._model.config.dead_after
        self.features = [(idle > limit).nonzero()[:, 0] for idle in self.idle]
        counts = torch.tensor([len(features) for features in self.features], device=self.idle[0].device)
        self.counts = self._model.shards.sum_(counts).tolist()

    def share(self) -> float:
        """Of all features, those of other processes too."""
        counts = torch.stack([(idle > self._model.config.dead_after).sum() for idle in self.idle]).sum()
        n_features = self._model.n_layers * self._model.config.n_features
        return float(self._model.shards.sum_(counts)) / n_features


def train_step(
    model: TrainableTranscoders, batch: Activations, dead: DeadFeatures, *, penalty: Tensor | None = None
) -> StepResult:
    """Fill every parameter's gradient from one batch.

    Args:
        penalty: weight of the penalty on active features, for activations that choose by threshold.
    """
    xs = [model.normalised_reads(layer, reads) for layer, reads in enumerate(batch.reads)]
    chosen, auxiliary = _select(model, xs, dead)
    n_tokens, outs, sparsity = batch.n_tokens, [], torch.zeros((), device=xs[0].device)
    l0 = []
    for layer, (x, pairs, aux) in enumerate(zip(xs, chosen, auxiliary, strict=True)):
        values = model.values(layer, x, pairs)
        fired = (values.detach() > 0) & pairs.is_real
        dead.update(layer, pairs, fired, n_tokens)
        l0.append(fired.sum() / n_tokens)
        if penalty is not None:
            sparsity = sparsity + _penalty(model, layer, values, pairs) / n_tokens
        if aux is not None:
            dead_pairs, is_on = aux
            values = torch.cat([model.values(layer, x, dead_pairs, is_jumping=False) * is_on, values])
            pairs = dead_pairs.stack(pairs)
        outs.append(model.decode(layer, values, pairs))
    nmse, gradients, for_bias = _error_gradients(model, batch, [out.detach() for out in outs])
    loss = nmse.mean()
    if penalty is not None:
        loss = loss + penalty * model.shards.sum_(sparsity.detach().clone())
        outs.append(sparsity)
        gradients.append(penalty)
    # not backward(): what accumulates in .grad forgets that its rows are unique and in order
    others = [parameter for parameter in model.parameters() if parameter is not model.b_dec]
    found = torch.autograd.grad(outs, others, gradients)
    for parameter, gradient in zip([*others, model.b_dec], [*found, for_bias], strict=True):
        parameter.grad = gradient
    return StepResult(loss, nmse, model.shards.sum_(torch.stack(l0)))


@torch.no_grad()
def _select(
    model: TrainableTranscoders, xs: list[Tensor], dead: DeadFeatures
) -> tuple[list[Pairs], list[_DeadPairs | None]]:
    """By layer: pairs that reconstruct (for JumpReLU, also those that are off but near the jump), and dead ones."""
    config = model.config
    auxiliary = [_dead_pairs(model, layer, x, dead) for layer, x in enumerate(xs)]
    if config.activation != "batchtopk":
        return [model.causal_pairs(layer, x, margin=config.bandwidth / 2) for layer, x in enumerate(xs)], auxiliary
    n_kept, running = max(1, round(config.l0 * len(xs[0]))), model.running_threshold
    scores = [model.scores(layer, x) for layer, x in enumerate(xs)]
    chosen, threshold = batch_top_features(scores, n_kept, running, model.shards)
    threshold = threshold.to(running)
    running.copy_(torch.where(running > 0, running.lerp(threshold, _THRESHOLD_RATE), threshold))
    return chosen, auxiliary


def _dead_pairs(model: TrainableTranscoders, layer: int, x: Tensor, dead: DeadFeatures) -> _DeadPairs | None:
    """At each token, the dead features with the largest positive pre-activations."""
    features = dead.features[layer]
    if not dead.counts[layer]:
        return None
    pre_activations = torch.addmm(model.b_enc[layer][features], x, model.W_enc[layer][features].T)
    n_active = model.config.n_dead_active
    best = pre_activations.topk(min(n_active, len(features)), dim=1, sorted=False)
    is_on = best.values > 0
    if model.shards.n_ranks > 1:
        is_on &= best.values >= kth_best(best.values.relu(), n_active, model.shards)
    n_features = len(model.W_enc[layer])
    if not counts_are_known(x):
        return Pairs.of_rows(features[best.indices], n_features), is_on.flatten()
    pairs = Pairs.of_indices(is_on.nonzero()[:, 0], features[best.indices[is_on]], (len(x), n_features))
    return pairs, torch.ones_like(pairs.features, dtype=torch.bool)


def _penalty(model: TrainableTranscoders, layer: int, values: Tensor, pairs: Pairs) -> Tensor:
    """Sum over pairs of tanh(c * score), or of the score itself (L1) for ReLU."""
    scores = values * torch.linalg.vector_norm(model.W_dec[layer], dim=1)[pairs.features]
    counted: Tensor = scores if model.config.activation == "relu" else (_TANH_SCALE * scores).tanh()
    return counted.sum()


@torch.no_grad()
def _error_gradients(
    model: TrainableTranscoders, batch: Activations, outs: list[Tensor]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """NMSE by layer, the loss's gradient with respect to what each source layer wrote, and to the biases.

    An out ends with the batch's tokens; if the layer has dead features that took part, the same tokens for these come
    before.
    """
    config, n_tokens, d = model.config, batch.n_tokens, model.d_model
    targets = batch.writes.float() * model.norm.write_scale[:, None, None]
    written = torch.zeros(n_tokens, model.n_layers * d, device=targets.device)
    spans = [slice(layer * d, (layer + n) * d) for layer, n in enumerate(model.n_targets)]
    for out, span in zip(outs, spans, strict=True):
        written[:, span] += out[-n_tokens:]
    error = model.shards.sum_(written).view(n_tokens, -1, d) + model.b_dec - targets.transpose(0, 1)
    squared = error.square().mean(-1)  # [n_tokens, n_layers]
    nmse = squared.mean(0)
    gradient = error * (2 / (n_tokens * d * model.n_layers))
    if config.token_weight_exponent:
        weight = (targets.square().mean(-1) + 0.1) ** -config.token_weight_exponent
        gradient *= weight.T[..., None]
    flat_gradient = gradient.view(n_tokens, -1)
    # the error, and a share of what the others reconstruct without the bias
    for_dead = config.dead_target_share * (error + targets.transpose(0, 1) - model.b_dec) - error
    scales = for_dead.square().mean((0, 2)).clamp_min(1e-4)  # an auxiliary loss of 1 explains nothing
    for_dead = for_dead.view(n_tokens, -1)
    gradients = []
    for layer, (out, span) in enumerate(zip(outs, spans, strict=True)):
        parts = [flat_gradient[:, span]]
        if len(out) > n_tokens:
            n_targets = model.n_targets[layer]
            left_over = model.shards.sum_(out[:n_tokens].clone()) - for_dead[:, span]
            scale = scales[layer : layer + n_targets].repeat_interleave(d, output_size=n_targets * d)
            parts.insert(0, left_over / scale * (2 * config.dead_weight / (n_tokens * d * n_targets * model.n_layers)))
        gradients.append(torch.cat(parts))
    return nmse, gradients, gradient.sum(0)
