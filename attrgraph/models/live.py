"""Running the model with its MLP outputs observed, replaced or changed while attention and norms stay live."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import ResultError
from attrgraph.models.frozen import FrozenRun, widened
from attrgraph.models.hooks import on_input, on_output
from attrgraph.models.language_model import LanguageModel

# (layer, what enters the MLP's norm, what the MLP branch adds to the stream) -> what to add instead
ReplaceMlp = Callable[
    [int, Float[Tensor, "n_rows n_pos d_model"], Float[Tensor, "n_rows n_pos d_model"]],
    Float[Tensor, "n_rows n_pos d_model"],
]


@dataclass(frozen=True)
class LiveRun:
    """One prompt, run several times over as the rows of a batch. In the engine's type."""

    logits: Float[Tensor, "n_rows d_vocab"]  # of the last position
    uncapped_logits: Float[Tensor, "n_rows d_vocab"]  # before soft-capping
    mlp_streams: list[Float[Tensor, "n_rows n_pos d_model"]]  # what enters each layer's MLP norm


@contextmanager
def replaced_mlps(
    model: LanguageModel,
    replace: ReplaceMlp,
    *,
    point: str = "hook_mlp_out",
    embedding: Float[Tensor, "n_rows n_pos d_model"] | None = None,
) -> Iterator[None]:
    """While the context lasts, every MLP branch adds `replace(layer, stream, out)` to the stream instead of `out`.

    Layers are called from the bottom up, so a replacement may keep what lower layers computed. Returning `out` itself
    leaves the model as it is, which makes this an observer too. Gradients flow through.

    Args:
        model: the model.
        replace: gets and gives MLP outputs at the write point.
        point: of `transcoders.config.WRITE_POINTS`; they differ in families with a norm after the MLP.
        embedding: added to the stream that enters the first block.
    """
    streams: dict[int, Tensor] = {}
    layers = range(model.n_layers)
    written_by = model.mlp_module if point == "hook_mlp_out" else model.mlp_inner_module
    first = [] if embedding is None else model.layer_modules()[:1]
    with (
        on_input(first, lambda _, stream: stream + embedding.to(stream)),  # type: ignore[union-attr]
        on_input([model.mlp_norm_module(layer) for layer in layers], streams.__setitem__),
        on_output([written_by(layer) for layer in layers], lambda layer, out: replace(layer, streams[layer], out)),
    ):
        yield


def check_finite(numbers: Iterable[Tensor]) -> None:
    """Raise ResultError unless these of a changed run are finite.

    A norm's output is: of a stream whose squares overflow it is 0, so squares are to be asked for.
    """
    if not all(bool(torch.isfinite(each).all()) for each in numbers):
        raise ResultError("the changed run's activations overflow; set nodes to smaller numbers.")


@torch.no_grad()
def live_run(
    model: LanguageModel,
    run: FrozenRun,
    replace: ReplaceMlp,
    *,
    point: str,
    embedding: Float[Tensor, "n_rows n_pos d_model"],
    components: AbstractContextManager[None] | None = None,
) -> LiveRun:
    """Run a run's prompt as many times over as `embedding` has rows, with MLP outputs replaced; see `replaced_mlps`.

    `components`: `observed`, which changes components after what MLPs and embeddings were replaced by.
    """
    streams: list[Tensor] = []
    final: list[Tensor] = []

    def keep(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        streams.append(widened(stream))
        return replace(layer, stream, out)

    with (
        replaced_mlps(model, keep, point=point, embedding=embedding),
        components or nullcontext(),
        on_input([model.final_norm_module()], lambda _, stream: final.append(widened(stream[:, -1]))),
    ):
        logits = model.logits(run.token_ids.expand(len(embedding), -1), logits_to_keep=1)[:, -1]
    check_finite([stream.square().sum() for stream in (*streams, *final)])
    norm = model.frozen_norm(model.final_norm_module(), final[0])
    return LiveRun(widened(logits), run.unembed(norm.apply(final[0])), streams)
