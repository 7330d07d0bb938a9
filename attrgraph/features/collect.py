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
from attrgraph.features.control import read_of
from attrgraph.features.kept import token_priority
from attrgraph.features.layer_statistics import LayerStatistics, Where
from attrgraph.features.sides import Text
from attrgraph.features.text_counts import TextCounts
from attrgraph.features.write_agreement import Agreement
from attrgraph.models.frozen import widened
from attrgraph.models.hooks import on_output
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.special import SkipPositions
from attrgraph.models.weights import run_module
from attrgraph.transcoders import ActiveFeatures, Transcoders

# logits that exist at a time, and features from which on only the rows that are needed are read: chosen, not tuned
_MOST_LOGITS, _MANY_FEATURES = 2**25, 2**14


class Collected:
    """What one pass over a text finds.

    Args:
        model, transcoders, rows: as they are described.
        features: by layer those that are described, ascending.
        control: features that mean nothing, of which the same is found.
        n_sampled: tokens of which everything that is active is kept.
        batch_tokens: tokens that the model runs on at once.
        skip_positions: tokens that do not count, see `attrgraph.models.special`.
    """

    def __init__(
        self,
        model: LanguageModel,
        transcoders: Transcoders,
        rows: TokenRows,
        features: Sequence[Int[np.ndarray, " _n"]],
        control: Transcoders,
        *,
        n_sampled: int,
        batch_tokens: int = 4096,
        skip_positions: SkipPositions = "auto",
    ) -> None:
        self._model, self._transcoders, self._rows, self._control = model, transcoders, rows, control
        self._skip_positions = skip_positions
        self.text = Text.of(rows)
        self.layers = [LayerStatistics(layer, chosen) for layer, chosen in enumerate(features)]
        self.control = [LayerStatistics(layer, np.arange(n)) for layer, n in enumerate(control.n_features)]
        self.agreement = [Agreement(len(chosen), model.d_model) for chosen in features]
        self.is_counted = np.zeros(len(self.text.token_ids), dtype=bool)
        self.said = np.full(len(self.text.token_ids), -1, dtype=np.int32)  # what the model finds most probable next
        self.batches = batches_by_length(rows.rows, batch_tokens, longest_first=True)
        self.n_done = 0  # batches
        # tokens as if drawn at random, of which everything that is active is kept: what fires together
        priority = token_priority(np.arange(len(self.text.token_ids)))
        self.sampled = np.sort(np.argsort(priority, kind="stable")[:n_sampled])
        self._active: list[np.ndarray] = []  # [4, n]: layer, row of the sample, feature, activation

    @torch.no_grad()
    def add_batch(self) -> None:
        """Run the model on the next batch."""
        chosen = self.batches[self.n_done]
        tokens = pad_rows(self._model, [self._rows.rows[i] for i in chosen], self._skip_positions)
        streams, outs, lengths = list[Tensor](), list[Tensor](), list[Tensor]()

        def keep(_: int, stream: Tensor, out: Tensor) -> Tensor:
            streams.append(stream)
            outs.append(out)
            lengths.append(stream.float().norm(dim=-1))
            return out

        final = list[Tensor]()
        with (
            replaced_mlps(self._model, keep, point=self._transcoders.config.feature_output_hook),
            on_output([self._model.final_norm_module()], lambda _, out: final.append(out)),
        ):
            self._model.run_body(tokens.token_ids)
        counts = tokens.without_sinks(lengths).is_trained
        where = self._where(np.array(chosen), counts.cpu().numpy())
        self.is_counted[where.number] = True
        self.said[where.number] = self._said(final[0][counts]).cpu().numpy()
        for layer, (stream, out) in enumerate(zip(streams, outs, strict=True)):
            streams[layer] = read_of(self._model, self._transcoders, layer, stream[counts])
            skipped = self._transcoders.skip(layer, streams[layer])
            outs[layer] = widened(out[counts]) if skipped is None else widened(out[counts]) - skipped
        for layer, read in enumerate(streams):
            wrote = sum(outs[layer + 1 : layer + self._transcoders.n_targets(layer)], outs[layer])
            self._add_layer(layer, read, wrote, where)
        self.n_done += 1

    def _where(self, rows: Int[np.ndarray, " n_rows"], counts: Bool[np.ndarray, "n_rows n_pos"]) -> Where:
        row, pos = counts.nonzero()
        text = self.text
        of_rows = (text.begin[rows], text.end[rows], text.document[rows], text.side[rows])
        return Where(text.begin[rows][row] + pos, *(column[row] for column in of_rows))

    def _said(self, normed: Float[Tensor, "n_tokens d_model"]) -> Int[Tensor, " n_tokens"]:
        unembedding = self._model.hf_model.get_output_embeddings()
        n_at_once = max(1, _MOST_LOGITS // self._model.d_vocab)
        return torch.cat([run_module(unembedding, some).argmax(-1) for some in normed.split(n_at_once)])

    def _add_layer(
        self,
        layer: int,
        read: Float[Tensor, "n_tokens d_model"],
        wrote: Float[Tensor, "n_tokens d_model"],
        where: Where,
    ) -> None:
        self.control[layer].add(self._control.encode_often(layer, read), where)
        at = np.minimum(np.searchsorted(self.sampled, where.number), len(self.sampled) - 1)
        chosen = np.flatnonzero(self.sampled[at] == where.number)
        features = torch.from_numpy(self.layers[layer].features)
        if len(features) and not self._needs_few(layer):
            active = self._transcoders.encode_often(layer, read)
            self._add_firings(layer, active, wrote, where)
            is_sampled = np.zeros(len(read), dtype=bool)
            is_sampled[chosen] = True
            self._sample(layer, active, at, is_sampled[active.pos.cpu().numpy()])
            return
        if len(features):
            self._add_firings(layer, self._transcoders.encode_some(layer, read, features), wrote, where)
        active = self._transcoders.encode_often(layer, read[torch.from_numpy(chosen).to(read.device)])
        self._sample(layer, active, at[chosen], np.ones(len(active), dtype=bool))

    def _add_firings(self, layer: int, active: ActiveFeatures, wrote: Tensor, where: Where) -> None:
        fired = self.layers[layer].add(active, where)
        self.agreement[layer].add(wrote, fired.token, fired.feature, fired.value)

    def _needs_few(self, layer: int) -> bool:
        """Whether only some encoder rows are read, where others do not decide whether a feature is on."""
        n_features, n_described = self._transcoders.n_features[layer], len(self.layers[layer].features)
        return not self._transcoders.is_topk(layer) and n_features > _MANY_FEATURES and n_described < n_features // 4

    def _sample(self, layer: int, active: ActiveFeatures, at: np.ndarray, is_kept: np.ndarray) -> None:
        pos, feature, value = (
            column.cpu().numpy()[is_kept] for column in (active.pos, active.feature, active.activation)
        )
        self._active.append(np.stack([np.full(len(pos), layer), at[pos], feature, value]))

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

    def state(self) -> dict[str, np.ndarray]:
        """Everything that was found, to go on from later."""
        found = {"n_done": np.array([self.n_done]), "is_counted": self.is_counted, "said": self.said}
        found["active"] = np.concatenate(self._active, 1) if self._active else np.zeros((4, 0))
        of_layers = {f"{i}.{name}": value for i, one in enumerate(self._all()) for name, value in one.state().items()}
        return found | of_layers

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from there."""
        self.n_done, self.is_counted, self._active = int(state["n_done"][0]), state["is_counted"], [state["active"]]
        self.said = state["said"]
        for i, one in enumerate(self._all()):
            one.load({key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{i}.")})

    def _all(self) -> list[LayerStatistics | Agreement]:
        return [*self.layers, *self.control, *self.agreement]
