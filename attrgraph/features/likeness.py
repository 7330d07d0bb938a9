"""Labels by direction: `writes like 3/458 (cosine 0.93): says "austin"`, of a feature that has a label."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from attrgraph.errors import FeatureError
from attrgraph.features.collect import Collected
from attrgraph.features.labelling import Control, Label, firings_of, scored
from attrgraph.features.promoted import written
from attrgraph.features.rules import LEAST_FIRINGS, judge
from attrgraph.features.write_agreement import LEAST_AGREEMENT
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders

# of two directions that are called alike: of 10,000 random ones in 128 dimensions the nearest to a given one has 0.4
_LEAST_COSINE = 0.9
# products that exist at a time: chosen, not tuned
_MOST_PRODUCTS = 2**24
Names = Mapping[tuple[int, int], str]


class Likeness:
    """Which features that have a label read or write in the directions of others.

    Args:
        model, transcoders, collected: as they are described.
        labels: by layer, of the described features.
        names: that were given.
        other: another set for the model, whose labels count too.
        controls: of the layers.
    """

    def __init__(
        self,
        model: LanguageModel,
        transcoders: Transcoders,
        collected: Collected,
        labels: list[list[Label]],
        names: Names,
        other: Transcoders | None,
        controls: list[Control],
    ) -> None:
        self._model, self._transcoders, self._collected, self._controls = model, transcoders, collected, controls
        self._labels, self._names = labels, names
        self._found = {
            (layer, int(feature)): label
            for layer, of_layer in enumerate(labels)
            for feature, label in zip(collected.layers[layer].features, of_layer, strict=True)
            if label.text
        }
        own = {place: str(label.text) for place, label in self._found.items()} | dict(names)
        self._known: list[tuple[str, Transcoders, Names]] = [("", transcoders, own)]
        if other is not None:
            other.check_fits(n_layers=model.n_layers, d_model=model.d_model)
            if not other.labels:
                raise FeatureError("the other set of transcoders has no labels; give it some with load_labels.")
            name = str(other.source["id"]).rstrip("/").rpartition("/")[2]
            self._known.append((f" of {name}", other, other.labels))

    def labels(self, layer: int) -> list[Label]:
        """Of a layer's described features, with those by direction where there is no other."""
        statistics, found = self._collected.layers[layer], list(self._labels[layer])
        places = [(layer, int(feature)) for feature in statistics.features]
        rows = [i for i, place in enumerate(places) if found[i].text is None and place not in self._names]
        if not rows:
            return found
        best = self._nearest(layer, statistics.features[rows])
        firings = firings_of(statistics)
        for row, (cosine, verb, name, place, text) in zip(rows, best, strict=True):
            if cosine < _LEAST_COSINE:
                continue
            label, agreement = Label(source="like"), found[row].agreement
            if not name and place in self._found:
                label = self._measured(self._found[place], layer, row, firings[row])
                is_above = label.bound is not None and label.rule is not None and label.rule.interval[0] > label.bound
                if not is_above or agreement < LEAST_AGREEMENT:
                    continue
            said = f"{verb} like {place[0]}/{place[1]}{name} (cosine {cosine:.2f}): {text}"
            found[row] = replace(label, text=said, source="like", agreement=agreement)
        return found

    def _measured(self, of_other: Label, layer: int, row: int, firings: tuple) -> Label:  # type: ignore[type-arg]
        """The rule of the other one, judged by where this one fires."""
        found, judged = firings
        if judged.n < LEAST_FIRINGS or of_other.rule is None:
            return Label()
        rule = judge(self._collected.counts, of_other.rule, judged)
        if not rule.is_precise:
            return Label()
        feature = int(self._collected.layers[layer].features[row])
        return scored(
            self._collected, rule, judged, (layer, feature), self._controls[layer].of(rule, found.n + judged.n)
        )

    @torch.no_grad()
    def _nearest(self, layer: int, features: np.ndarray) -> list[tuple[float, str, str, tuple[int, int], str]]:
        """Of each feature the nearest that has a label: cosine, what is alike, whose it is, which, its label."""
        mine = self._directions(self._transcoders, layer, features)
        best = [(0.0, "", "", (0, 0), "")] * len(features)
        for name, transcoders, known in self._known:
            for other in sorted({at for at, _ in known}):
                theirs = np.array(sorted(feature for at, feature in known if at == other))
                for verb, directions in self._directions(transcoders, other, theirs).items():
                    n_at_once = max(1, _MOST_PRODUCTS // len(theirs))
                    parts = [(some @ directions.T).max(1) for some in mine[verb].split(n_at_once)]
                    cosines = torch.cat([part.values for part in parts]).tolist()
                    at = torch.cat([part.indices for part in parts]).tolist()
                    for row, (cosine, column) in enumerate(zip(cosines, at, strict=True)):
                        if cosine > best[row][0]:
                            place = other, int(theirs[column])
                            best[row] = (cosine, verb, name, place, known[place])
        return best

    def _directions(
        self, transcoders: Transcoders, layer: int, features: np.ndarray
    ) -> dict[str, Float[Tensor, "n d_model"]]:
        chosen = torch.from_numpy(features).long()
        targets = range(layer, layer + transcoders.n_targets(layer))
        writes = written(self._model, transcoders, layer, chosen, targets)
        reads, _ = transcoders.encoder_rows(layer, chosen, writes)
        return {"reads": normalize(reads, dim=1), "writes": normalize(writes, dim=1)}
