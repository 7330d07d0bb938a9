"""One pass over a text: when each feature fires, how strongly, and where it does so most."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from attrgraph.data.activations import batches_by_length, pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.features.kept import random_priority
from attrgraph.features.rules import TextCounts
from attrgraph.features.statistics import LayerStatistics, Where
from attrgraph.features.text import Text
from attrgraph.models.frozen import norm_before, widened
from attrgraph.models.hooks import on_output
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.special import SkipPositions
from attrgraph.transcoders import Transcoders

# activations of one layer that are looked at together: chosen, not tuned
_MOST_ACTIVATIONS = 2**25


class Collected:
    """What one pass over a text finds.

    Args:
        model, transcoders, rows: as they are described.
        features: by layer those that are described, ascending.
        n_sampled: tokens of which everything that is active is kept.
        batch_tokens: tokens that the model runs on at once; fewer where a layer has very many features.
        skip_positions: tokens that do not count, see `attrgraph.models.special`.
    """

    def __init__(
        self,
        model: LanguageModel,
        transcoders: Transcoders,
        rows: TokenRows,
        features: Sequence[Int[np.ndarray, " _n"]],
        *,
        n_sampled: int,
        batch_tokens: int = 4096,
        skip_positions: SkipPositions = "auto",
    ) -> None:
        self._model, self._transcoders, self._rows = model, transcoders, rows
        self._skip_positions = skip_positions
        self.text = Text.of(rows)
        self.layers = [LayerStatistics(layer, chosen) for layer, chosen in enumerate(features)]
        self.is_counted = np.zeros(len(self.text.token_ids), dtype=bool)
        self.said = np.full(len(self.text.token_ids), -1, dtype=np.int32)  # what the model finds most probable next
        most = max(1, min(batch_tokens, _MOST_ACTIVATIONS // max(transcoders.n_features)))
        self.batches = batches_by_length(rows.rows, most, longest_first=True)
        self.n_done = 0  # batches
        # tokens as if drawn at random, of which everything that is active is kept: what fires together
        priority = random_priority(np.arange(len(self.text.token_ids)), np.full(len(self.text.token_ids), -1))
        self.sampled = np.sort(np.argsort(priority, kind="stable")[:n_sampled])
        self._active: list[np.ndarray] = []  # [4, n]: layer, row of the sample, feature, activation
        self._reads = np.zeros((len(self.layers), len(self.sampled), model.d_model), dtype=np.float32)

    @torch.no_grad()
    def add_batch(self) -> None:
        """Run the model on the next batch."""
        chosen = self.batches[self.n_done]
        tokens = pad_rows(self._model, [self._rows.rows[i] for i in chosen], self._skip_positions)
        streams, lengths = list[Tensor](), list[Tensor]()

        def keep(_: int, stream: Tensor, out: Tensor) -> Tensor:
            streams.append(stream)
            lengths.append(stream.float().norm(dim=-1))
            return out

        final = list[Tensor]()
        with (
            replaced_mlps(self._model, keep),
            on_output([self._model.final_norm_module()], lambda _, out: final.append(out)),
        ):
            self._model.run_body(tokens.token_ids)
        counts = tokens.without_sinks(lengths).is_trained
        number = self.text.begin[chosen][:, None] + np.arange(counts.shape[1])
        where = Where(number, self.text.document[chosen], self.text.side[chosen])
        is_counted = counts.cpu().numpy()
        self.is_counted[number[is_counted]] = True
        self.said[number[is_counted]] = self._said(final[0][counts]).cpu().numpy()
        for layer, stream in enumerate(streams):
            self._add_layer(layer, stream, counts, where)
        self.n_done += 1

    def _said(self, normed: Float[Tensor, "n_tokens d_model"]) -> Int[Tensor, " n_tokens"]:
        unembedding = self._model.hf_model.get_output_embeddings()
        n_at_once = max(1, _MOST_ACTIVATIONS // self._model.d_vocab)
        return torch.cat([unembedding(some).argmax(-1) for some in normed.split(n_at_once)])

    def _add_layer(self, layer: int, stream: Tensor, counts: Bool[Tensor, "n_rows n_pos"], where: Where) -> None:
        read = widened(stream[counts])
        norm = norm_before(self._transcoders.config.feature_input_hook, self._model.mlp_norm_of(layer, read))
        read = read if norm is None else norm.apply(read)
        found = self._transcoders.encode_layer(layer, read).cpu()
        self._add_to_sample(layer, read, found, where.token[counts.cpu().numpy()])
        features = self.layers[layer].features
        if len(features) == 0:
            return
        if len(features) < found.shape[1]:
            found = found[:, torch.from_numpy(features)]
        activations = found.new_zeros(*counts.shape, found.shape[1])
        activations[counts.cpu()] = found
        self.layers[layer].add(activations, where)

    def _add_to_sample(
        self, layer: int, read: Tensor, found: Float[Tensor, "n_tokens n_features"], token: np.ndarray
    ) -> None:
        at = np.minimum(np.searchsorted(self.sampled, token), len(self.sampled) - 1)
        chosen = np.flatnonzero(self.sampled[at] == token)
        self._reads[layer, at[chosen]] = read[torch.from_numpy(chosen).to(read.device)].cpu()
        some = found[torch.from_numpy(chosen)]
        row, feature = (index.numpy() for index in some.nonzero(as_tuple=True))
        self._active.append(np.stack([np.full(len(row), layer), at[chosen[row]], feature, some[row, feature].numpy()]))

    def co_active(self) -> list[sparse.csc_array]:
        """Activations at the sampled tokens [n_sampled, n_features], by layer."""
        layer, row, feature, value = np.concatenate(self._active, 1)
        return [
            sparse.csc_array(
                (value[at].astype(np.float32), (row[at].astype(int), feature[at].astype(int))),
                shape=(len(self.sampled), n),
            )
            for at, n in ((layer == each, n) for each, n in enumerate(self._transcoders.n_features))
        ]

    @property
    def n_tokens(self) -> int:
        """Tokens that were counted."""
        return int(self.is_counted.sum())

    @cached_property
    def counts(self) -> TextCounts:
        """How often there is what a label may name; after the pass."""
        return TextCounts(self.text, self.is_counted, self.said, self._model.d_vocab)

    def reads(self) -> list[Float[Tensor, "n_sampled d_model"]]:
        """What the transcoders read at the sampled tokens that count, by layer."""
        return list(torch.from_numpy(self._reads[:, self.is_counted[self.sampled]]))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that was found, to go on from later."""
        found = {"n_done": np.array([self.n_done]), "is_counted": self.is_counted, "said": self.said}
        found["reads"] = self._reads
        found["active"] = np.concatenate(self._active, 1) if self._active else np.zeros((4, 0))
        of_layers = {f"{i}.{name}": value for i, one in enumerate(self.layers) for name, value in one.state().items()}
        return found | of_layers

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self.n_done, self.is_counted, self._active = int(state["n_done"][0]), state["is_counted"], [state["active"]]
        self._reads, self.said = state["reads"], state["said"]
        for i, one in enumerate(self.layers):
            one.load({key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{i}.")})
