"""A feature's record: everything its page shows, in circuit-tracer's keys where that has one, as plain data.

Source: the keys of circuit-tracer's feature files, github.com/safety-research/circuit-tracer (its frontend's
`feature-examples`); the others are this package's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from attrgraph.features.collect import Collected
from attrgraph.features.connections import Connections
from attrgraph.features.kept import by_feature
from attrgraph.features.labelling import Label, claimed_texts
from attrgraph.features.layer_statistics import bin_edges
from attrgraph.features.promoted import Promoted, promoted
from attrgraph.features.rules import SHOWN_KINDS
from attrgraph.features.token_texts import TokenTexts
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders

N_PROMOTED, _N_PROMOTED_BY_LAYER, _N_LISTED, _N_QUANTILES = 10, 5, 8, 5
_FIFTHS = ("weakest", "fourth", "middle", "second", "strongest")
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Records:
    """The records of a layer's features, made one after another."""

    def __init__(
        self,
        model: LanguageModel,
        transcoders: Transcoders,
        collected: Collected,
        connections: Connections,
        layer: int,
        labels: list[Label],
        names: Mapping[tuple[int, int], str],
        promoted_tokens: Promoted,
        texts: TokenTexts,
    ) -> None:
        self._collected, self._connections, self._layer, self._texts = collected, connections, layer, texts
        self._labels, self._names, self._promoted = labels, names, promoted_tokens
        self._statistics = collected.layers[layer]
        chosen = torch.from_numpy(self._statistics.features)
        targets = range(layer, layer + transcoders.n_targets(layer))
        how = {"n_tokens": _N_PROMOTED_BY_LAYER}
        self._by_layer = (
            {each: promoted(model, transcoders, layer, chosen, target=each, **how) for each in targets}
            if len(targets) > 1
            else {}
        )
        self._n_documents = len(np.unique(collected.text.document))
        statistics = self._statistics
        self._kept = {name: by_feature(kept.entries(), len(chosen)) for name, kept in statistics.kept()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(len(self._statistics.features)):
            yield self._record(row)

    def _record(self, row: int) -> dict[str, Any]:
        statistics, feature = self._statistics, int(self._statistics.features[row])
        n_firings, n_tokens = int(statistics.n_firings[:, row].sum()), self._collected.n_tokens
        fires = n_firings > 0
        drawn = self._kept["drawn"][row].get("value", np.zeros(0))
        edges, histogram = bin_edges(), statistics.histogram[row]
        used = np.flatnonzero(histogram)
        bins = slice(int(used[0]), int(used[-1]) + 1) if fires else slice(0, 0)
        name = self._names.get((self._layer, feature))
        together, inputs, outputs = (
            getattr(self._connections, name)[self._layer].listed(row) for name in ("together", "inputs", "outputs")
        )
        return {
            "index": feature,
            "layer": self._layer,
            **self._label(row, name),
            "activation_frequency": n_firings / max(n_tokens, 1),
            "n_firings": n_firings,
            "n_tokens": n_tokens,
            "n_documents": self._n_documents,
            "act_min": float(statistics.smallest[row]) if fires else 0.0,
            "act_max": float(statistics.largest[row]) if fires else 0.0,
            "act_mean": float(statistics.sum[row]) / n_firings if fires else 0.0,
            "quantiles": list(QUANTILES),
            "quantile_values": np.quantile(drawn, QUANTILES).tolist() if len(drawn) else [],
            "histogram": histogram[bins].tolist(),
            "histogram_edges": edges[bins.start : bins.stop + 1].tolist() if fires else [],
            **self._promoted_tokens(row),
            "tokens": {kind: self._fires_on(kind, row) for kind in SHOWN_KINDS},
            "together": together,
            "inputs": inputs,
            "outputs": outputs,
            "examples_quantiles": self._examples(row, drawn),
        }

    def _label(self, row: int, name: str | None) -> dict[str, Any]:
        label = self._labels[row]
        found = label.as_record(name)
        if label.rule is not None and label.rule.kind != "position":
            found["label_rule"]["texts"] = claimed_texts(self._texts, label.claimed)
        return found

    def _promoted_tokens(self, row: int) -> dict[str, Any]:
        found = self._promoted
        by_layer = [
            {"layer": layer, "top_logits": self._all(each.top_ids[row]), "top_values": each.top_values[row].tolist()}
            for layer, each in self._by_layer.items()
        ]
        return {
            "top_logits": self._all(found.top_ids[row]),
            "bottom_logits": self._all(found.bottom_ids[row]),
            "top_logit_values": found.top_values[row].tolist(),
            "bottom_logit_values": found.bottom_values[row].tolist(),
            "logit_histogram": found.histogram[row].tolist(),
            "logit_range": found.range[row].tolist(),
            "logits_by_layer": by_layer,
        }

    def _fires_on(self, kind: str, row: int) -> list[dict[str, Any]]:
        """The commonest values among drawn firings: their share of firings, and how often it fires at them."""
        counts, n_firings = self._collected.counts, int(self._statistics.n_firings[:, row].sum())
        token = self._kept["drawn"][row].get("token", np.zeros(0, int))
        values, n_each = np.unique(counts.at(kind, token), return_counts=True)
        found = []
        for i in np.argsort(-n_each, kind="stable"):
            value, share = int(values[i]), float(n_each[i] / len(token))
            if value >= 0:
                n_there = sum(int(counts.count(kind, side, [value])[0]) for side in range(2))
                what = value if kind == "position" else self._texts.joined(counts.tokens_of(kind, value))
                fires_there = min(1.0, share * n_firings / n_there)
                found.append({"value": what, "share_of_firings": share, "fires_there": fires_there})
        return found[:_N_LISTED]

    def _examples(self, row: int, drawn: np.ndarray) -> list[dict[str, Any]]:
        """The best documents, then drawn firings by fifths of all, the strongest first; what was seen is marked so."""
        top, n_firings = self._windows("top", row), int(self._statistics.n_firings[:, row].sum())
        of_firings = len(top) / max(n_firings, 1)
        groups: list[dict[str, Any]] = [
            {"quantile_name": "Top activations", "share_of_firings": of_firings, "examples": top}
        ]
        if len(drawn):
            spread = self._windows("spread", row)
            edges = np.quantile(drawn, np.arange(1, _N_QUANTILES) / _N_QUANTILES)
            fifth = np.searchsorted(
                edges, [max(one["tokens_acts_list"][one["train_token_ind"]], 0.0) for one in spread]
            )
            for each in reversed(range(_N_QUANTILES)):
                mine = [one for one, at in zip(spread, fifth, strict=True) if at == each]
                mine.sort(key=lambda one: -one["tokens_acts_list"][one["train_token_ind"]])
                name = f"Firings of the {_FIFTHS[each]} fifth"
                groups.append({"quantile_name": name, "share_of_firings": 1 / _N_QUANTILES, "examples": mine})
        seen = set[tuple[Any, ...]]()
        for one in (example for group in groups for example in group["examples"]):
            shown = one["train_token_ind"], *one["tokens"]
            one["is_repeated_datapoint"] = shown in seen
            seen.add(shown)
        return groups

    def _windows(self, name: str, row: int) -> list[dict[str, Any]]:
        entries, text, found = self._kept[name][row], self._collected.text, []
        if not entries:
            return []
        tokens, (before, after) = entries["token"].tolist(), self._statistics.window
        rows = text.row_of(entries["token"])
        begins, ends = text.begin[rows].tolist(), text.end[rows].tolist()
        for token, begin, stop, window in zip(tokens, begins, ends, entries["window"].tolist(), strict=True):
            first, last = max(token - before, begin), min(token + after + 1, stop)
            first += int(self._collected.is_counted[first:last].argmax())  # BOS, which is not counted, stands first
            offset = first - (token - before)
            found.append(
                {
                    "tokens": self._texts.in_row(text.token_ids[first:last].tolist()),
                    "tokens_acts_list": window[offset : offset + last - first],
                    "train_token_ind": token - first,
                    "is_repeated_datapoint": False,
                }
            )
        return found

    def _all(self, ids: torch.Tensor) -> list[str]:
        return [self._texts[i] for i in ids.tolist()]
