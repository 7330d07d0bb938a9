"""The local replacement model of one prompt: MLPs become features plus errors, attention and norms stay frozen.

It reproduces the true model exactly, which `measure_deviation` checks by running it.

Source: Ameisen et al. 2025, "Circuit Tracing", section "The Local Replacement Model",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.models.frozen import FrozenNorm, FrozenRun, SeePart, unseen
from attrgraph.transcoders import ActiveFeatures, Transcoders

Stream = Float[Tensor, "n_pos d_model"]
OutAt = Callable[[int, Stream], Stream]
# encoder rows that exist at a time: chosen, not tuned
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class LocalReplacement:
    """One prompt's frozen run with its MLP outputs split into features and errors.

    At every layer and position the MLP output is the sum of what active features write, the `errors`, the `constants`,
    and, if the transcoders have one, the linear skip.
    """

    run: FrozenRun
    transcoders: Transcoders
    active: ActiveFeatures
    errors: Float[Tensor, "n_layers n_pos d_model"]  # MLP output minus reconstruction; zero at skipped positions
    constants: Float[Tensor, "n_layers n_pos d_model"]  # b_dec; at skipped positions all but the linear skip
    is_skipped: Bool[Tensor, " n_pos"]
    why_skipped: Mapping[int, str] = field(default_factory=dict)  # by position

    @cached_property
    def frozen_deviation(self) -> "Deviation":
        """See `measure_deviation`; of all but the features, which costs less."""
        return measure_deviation(self, with_features=False)

    def read_norm(self, layer: int) -> FrozenNorm | None:
        return self.run.blocks[layer].read_norm(self.transcoders.config.feature_input_hook)

    def write_norm(self, layer: int) -> FrozenNorm | None:
        return self.run.blocks[layer].write_norm(self.transcoders.config.feature_output_hook)

    def carry(
        self, layer: int, stream: Stream, out_at: OutAt, *, is_linear: bool = False, see: SeePart = unseen
    ) -> Stream:
        """The stream above one layer, from the stream below it; with `is_linear`, how a change of the stream goes on.

        Args:
            out_at: gets the layer and what its transcoder reads; gives the MLP output without the linear skip.
            see: gets what each part of the block computes, or how it changes, and gives what takes its place.
        """
        stream = see("resid", stream)
        block, norm, write_norm = self.run.blocks[layer], self.read_norm(layer), self.write_norm(layer)
        through = FrozenNorm.linear if is_linear else FrozenNorm.apply
        attended = block.attend_linear(stream, see) if is_linear else block.attend(stream, see)
        middle = stream + attended
        mlp_stream = stream if block.is_parallel else (middle := see("resid_mid", middle))
        read = mlp_stream if norm is None else through(norm, mlp_stream)
        out, skip = out_at(layer, read), self.transcoders.skip(layer, read)
        out = out if skip is None else out + skip
        return middle + see("mlp", out if write_norm is None else through(write_norm, out))


@dataclass(frozen=True)
class Deviation:
    """How far the local replacement model is from the true one, at the last position."""

    # The sum of two: of the replacement model's logits from those recomputed from the true stream, before soft-capping,
    # and of the recomputed ones from those that the model itself gave. The largest of the vocabulary.
    logits: float
    spread: float  # standard deviation of the recomputed logits over the vocabulary
    embedding: float  # |difference| / |true|: of what enters the first block from what the weights embed
    reads: list[float]  # by layer, of what its transcoder reads at all positions: |difference| / |true|


def build_replacement(run: FrozenRun, transcoders: Transcoders, is_skipped: Bool[Tensor, " n_pos"]) -> LocalReplacement:
    """Take a run's MLP outputs apart into features, errors and constants.

    At a skipped position there are no features and no error: its whole MLP output, but for the linear skip's part,
    is a constant.
    """
    config = transcoders.config
    reads = [block.read(config.feature_input_hook) for block in run.blocks]
    active = transcoders.encode(reads, is_skipped)
    reconstructed = [torch.zeros_like(read) for read in reads]
    for layer in range(run.n_layers):
        add_written(reconstructed, transcoders, active, layer, active.activation[active.in_layer(layer)])
    errors, constants = [], []
    for layer, (block, read) in enumerate(zip(run.blocks, reads, strict=True)):
        out = block.written(config.feature_output_hook)
        skip = transcoders.skip(layer, read)
        without_skip = out if skip is None else out - skip
        constant = transcoders.bias(layer).to(out).expand_as(out).clone()
        error = without_skip - constant - reconstructed[layer]
        constant[is_skipped], error[is_skipped] = without_skip[is_skipped], 0
        errors.append(error)
        constants.append(constant)
    return LocalReplacement(run, transcoders, active, torch.stack(errors), torch.stack(constants), is_skipped)


def add_written(
    outs: Sequence[Tensor] | Tensor, transcoders: Transcoders, active: ActiveFeatures, layer: int, activations: Tensor
) -> None:
    """Add what the active features of one layer write to the outputs of their target layers."""
    written = transcoders.written(layer, active, activations, len(outs[layer]))
    for out, part in zip(outs[layer:], written.unbind(1), strict=False):
        out += part


def measure_deviation(local: LocalReplacement, *, with_features: bool = True) -> Deviation:
    """Run the local replacement model forward, and compare it with the true one.

    Every active feature's activation is recomputed from the replaced stream, so a mistake in any frozen part, in a
    read point or in an error vector shows in the result. Without features, MLP outputs are the recorded ones.
    """
    run, outs, reads = local.run, list[Tensor](local.errors + local.constants), list[float]()

    def out_at(layer: int, read: Tensor) -> Tensor:
        true_read = run.blocks[layer].read(local.transcoders.config.feature_input_hook)
        reads.append(float((read - true_read).norm() / true_read.norm().clamp_min(torch.finfo(read.dtype).tiny)))
        if not with_features:
            out = run.blocks[layer].written(local.transcoders.config.feature_output_hook)
            skip = local.transcoders.skip(layer, true_read)
            return out if skip is None else out - skip
        add_written(outs, local.transcoders, local.active, layer, activations_at(local, layer, read))
        return outs[layer]

    logits = run_replaced(local, run.embedding, out_at)
    deviation = float((logits - run.uncapped_logits).abs().max()) + run.unembedding_deviation
    return Deviation(deviation, float(run.uncapped_logits.std(correction=0)), run.embedding_deviation, reads)


def run_replaced(
    local: LocalReplacement, embedding: Stream, out_at: OutAt, see: Callable[[int, str, Tensor], Tensor] | None = None
) -> Float[Tensor, " d_vocab"]:
    """Run the frozen model with other embeddings of tokens and other MLP outputs: uncapped logits of the last position.

    `out_at` is that of `LocalReplacement.carry`, and so is `see`, which gets the layer first.
    """
    run = local.run
    stream = embedding if run.position_embedding is None else embedding + run.position_embedding
    for layer in range(run.n_layers):
        stream = local.carry(layer, stream, out_at, see=unseen if see is None else partial(see, layer))
    stream = stream if see is None else see(run.n_layers, "resid", stream)
    return run.unembed(run.final_norm.apply(stream)[-1])


def activations_at(local: LocalReplacement, layer: int, read: Stream, *, is_linear: bool = False) -> Tensor:
    """What the active features of one layer read; with `is_linear` without their biases."""
    parts, rows = [read.new_zeros(0)], local.active.in_layer(layer)
    for pos, features in zip(
        local.active.pos[rows].split(_ROWS_AT_ONCE), local.active.feature[rows].split(_ROWS_AT_ONCE), strict=True
    ):
        W_enc, b_enc = local.transcoders.encoder_rows(layer, features, read)
        activations = W_enc.mul_(read[pos]).sum(-1)
        parts.append(activations if is_linear else activations.add_(b_enc))
    return torch.cat(parts)
