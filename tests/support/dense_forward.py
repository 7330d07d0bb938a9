"""The frozen model as one differentiable function of its sources, in plain steps: the independent path to edges."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement


@dataclass(frozen=True)
class Dense:
    """What can be read, as functions of a factor on what each source writes."""

    factors: tuple[Tensor, Tensor, Tensor]  # of features, of errors [n_layers, n_pos], of tokens
    entering: list[Tensor]  # the stream that enters each block, and at the end the final norm
    seen: list[Tensor]  # what each layer's transcoder reads
    normed: Tensor  # what leaves the final norm

    def gradient(self, target: Tensor) -> Tensor:
        """Of what is read by the factors, in the order of the columns of edges; the bias is left out."""
        grads = torch.autograd.grad(target, self.factors, retain_graph=True, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])


def dense_forward(local: LocalReplacement) -> Dense:
    run, config, transcoders = local.run, local.transcoders.config, local.transcoders
    factors = torch.ones(len(local.active), dtype=run.embedding.dtype, requires_grad=True)
    error_factors = torch.ones(run.n_layers, run.n_pos, dtype=run.embedding.dtype, requires_grad=True)
    token_factors = torch.ones(run.n_pos, dtype=run.embedding.dtype, requires_grad=True)
    stream = run.embedding * token_factors[:, None]
    if run.position_embedding is not None:
        stream = stream + run.position_embedding
    entering, reads = [stream], []
    for layer, block in enumerate(run.blocks):
        attended = block.attend(stream)
        mlp_stream = stream if block.is_parallel else stream + attended
        norm = block.read_norm(config.feature_input_hook)
        seen = mlp_stream if norm is None else norm.apply(mlp_stream)
        out = local.errors[layer] * error_factors[layer][:, None] + local.constants[layer]
        for i, source in enumerate(local.active.layer.tolist()):
            if source == layer or (config.is_cross_layer and source < layer):
                decoder = transcoders.layers[source].W_dec[local.active.feature[i], layer - source]
                vector = decoder * local.active.activation[i] * factors[i]
                out = out.index_add(0, local.active.pos[i : i + 1], vector[None])
        skip = transcoders.skip(layer, seen)
        out = out if skip is None else out + skip
        after = block.write_norm(config.feature_output_hook)
        stream = stream + attended + (out if after is None else after.apply(out))
        entering.append(stream)
        reads.append(seen)
    return Dense((factors, error_factors, token_factors), entering, reads, run.final_norm.apply(stream))
