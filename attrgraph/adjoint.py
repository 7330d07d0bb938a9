"""The formula for an edge, and the sweep that computes it.

With attention patterns and norm scales frozen, everything between a write and a later read is linear. A source `s`
writes vectors `v_s[l, p]` into MLP outputs (or, for a token, into the bottom of the stream); a target `t` reads the
stream with the vector `u_t` at its layer and position. The edge, the direct effect of `s` on what `t` reads, is

    A[t, s] = sum over l and p of  v_s[l, p] . g_t[l, p]

where `g_t`, the adjoint, is `u_t` carried backwards through the frozen blocks. The sweep carries the adjoints of many
targets down together, layer by layer, as matrix products; automatic differentiation is not involved. Everything that
is no node (biases, position embeddings, skipped positions) is collected in the bias column, so that every row sums to
what its target reads. The proof that this is the gradient, and that rows sum up, is `tests/attrgraph/test_adjoint.py`.

Source: Ameisen et al. 2025, "Circuit Tracing", section "Constructing an Attribution Graph for a Prompt",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.kernels.edge_rows import edge_rows
from attrgraph.models.frozen import FrozenNorm
from attrgraph.replacement import LocalReplacement

# What the adjoints of one sweep may take by default: a choice, not tuned. Temporaries take a few times as much.
_ADJOINT_BYTES = 128 * 2**20


@dataclass(frozen=True)
class ReadVectors:
    """Targets: each reads the stream with a vector at one layer and position, and adds a constant."""

    layer: Int[Tensor, " n_targets"]  # n_layers for logits
    pos: Int[Tensor, " n_targets"]
    vector: Float[Tensor, "n_targets d_model"]
    constant: Float[Tensor, " n_targets"]

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, index: Tensor | slice) -> "ReadVectors":
        return ReadVectors(self.layer[index], self.pos[index], self.vector[index], self.constant[index])


def feature_reads(local: LocalReplacement, index: Int[Tensor, " n"] | slice = slice(None)) -> ReadVectors:
    """Active features as targets: the encoder row reads, `b_enc` is the constant."""
    active = local.active
    return ReadVectors(active.layer[index], active.pos[index], active.W_enc[index], active.b_enc[index])


def n_columns(local: LocalReplacement) -> int:
    """Columns of a row of edges: active features, errors layer by layer, token embeddings, bias."""
    return len(local.active) + (local.run.n_layers + 1) * local.run.n_pos + 1


def edge_matrix(
    local: LocalReplacement,
    targets: ReadVectors,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "n_targets n_columns"]:
    """Edges from every source to each target: `A[target, source]`, the columns as in `n_columns`.

    Args:
        local: the prompt's local replacement model.
        targets: what reads.
        batch_size: targets swept together; by default as many as fit 128 MiB of adjoints.
        progress: called with the number of targets just done.
    """
    run = local.run
    if batch_size is None:
        batch_size = max(1, _ADJOINT_BYTES // (run.n_pos * run.embedding.shape[1] * run.embedding.element_size()))
    out = run.embedding.new_zeros(len(targets), n_columns(local))
    # from the top layer down, so that targets of a chunk join the sweep one after the other; early positions together
    order = (targets.pos - targets.layer * run.n_pos).argsort(stable=True)
    for chunk in order.split(batch_size) if len(targets) else ():
        out[chunk] = _sweep(local, targets[chunk])
        if progress is not None:
            progress(len(chunk))
    return out


def _sweep(local: LocalReplacement, targets: ReadVectors) -> Float[Tensor, "n_targets n_columns"]:
    """One backward sweep for targets sorted by descending layer."""
    run, n_active = local.run, len(local.active)
    n_pos = int(targets.pos.max()) + 1  # causal: nothing after the last target matters
    out = run.embedding.new_zeros(len(targets), n_columns(local))
    errors = out[:, n_active : n_active + run.n_layers * run.n_pos].unflatten(1, (run.n_layers, run.n_pos))
    embeddings, bias = out[:, -1 - run.n_pos : -1], out[:, -1]
    bias += targets.constant
    g = run.embedding.new_zeros(len(targets), n_pos, run.embedding.shape[1])  # adjoint of the stream

    n_on = int((targets.layer == run.n_layers).sum())  # targets g[:n_on] have joined
    _join(g[:n_on], targets[:n_on], run.final_norm, bias[:n_on])
    for layer in reversed(range(run.n_layers)):
        block = run.blocks[layer]
        n_above, n_on = n_on, n_on + int((targets.layer == layer).sum())
        g_out = _through(local.write_norm(layer), g[:n_above], bias[:n_above])
        writes = local.writes[layer]
        out[:n_above].index_add_(1, writes.source, edge_rows(g_out, writes.vector, writes.pos))
        errors[:n_above, layer, :n_pos] = torch.einsum("rpd,pd->rp", g_out, local.errors[layer, :n_pos])
        bias[:n_above] += torch.einsum("rpd,pd->r", g_out, local.constants[layer, :n_pos])

        attended = None
        if block.is_parallel:  # attention reads the stream below both branches, and not what joins at this layer
            attended, constant = block.attend_transpose(g[:n_above])
            bias[:n_above] += constant
        W_skip = local.transcoders.layers[layer].W_skip
        read_norm = local.read_norm(layer)
        if W_skip is not None:
            g[:n_above] += _through(read_norm, g_out @ W_skip.to(g), bias[:n_above])
        joining = slice(n_above, n_on)
        _join(g[joining], targets[joining], read_norm, bias[joining])
        if attended is None:
            attended, constant = block.attend_transpose(g[:n_on])
            bias[:n_on] += constant
        g[: len(attended)] += attended

    embeddings[:, :n_pos] = torch.einsum("rpd,pd->rp", g, run.embedding[:n_pos])
    if run.position_embedding is not None:
        bias += torch.einsum("rpd,pd->r", g, run.position_embedding[:n_pos])
    return out


def _join(g: Tensor, targets: ReadVectors, norm: FrozenNorm | None, bias: Tensor) -> None:
    """Add targets' read vectors, taken back through the norm in front of them, to their rows of the adjoint."""
    vector = targets.vector
    if norm is not None:
        if norm.bias is not None:
            bias += vector @ norm.bias
        vector = norm.transpose(vector, targets.pos)
    g[torch.arange(len(targets), device=g.device), targets.pos] += vector


def _through(norm: FrozenNorm | None, g: Tensor, bias: Tensor) -> Tensor:
    """The adjoint before a norm, if there is one; what its bias adds goes to the bias column."""
    if norm is None:
        return g
    if norm.bias is not None:
        bias += torch.einsum("rpd,d->r", g, norm.bias)
    return norm.transpose(g, slice(g.shape[1]))
