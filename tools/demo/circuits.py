"""Is the two-hop circuit in the graphs? Features that fire for a city's state, among the most influential ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from packing import ids_of

from attrgraph.attribution.trace import trace
from attrgraph.data.activations import activations_of, pad_rows
from attrgraph.demo import world
from attrgraph.influence.scores import Scores
from attrgraph.models.language_model import LanguageModel

TRACED_ATTRIBUTE = "capital"
N_LAST = 8  # words of a prompt that are looked at: from its end to its beginning if the city has one word
_STATES = list(world.STATES)


@dataclass(frozen=True)
class StateFeatures:
    """For each traced city, whether a state feature is among the most influential ones of its graph."""

    is_found: dict[str, bool]  # by city
    n_top: int
    scores: Scores  # of the graphs, their mean

    @property
    def share(self) -> float:
        return sum(self.is_found.values()) / len(self.is_found)

    def share_of(self, n_words: int) -> float:
        found = [is_found for city, is_found in self.is_found.items() if len(city.split()) == n_words]
        return sum(found) / len(found)


class FiringTable:
    """Which features fire where on all two-hop prompts about other attributes than the traced one.

    Prompts are aligned at their ends: the city's last word is the fourth from the end, whatever its length.
    """

    def __init__(self, model: LanguageModel) -> None:
        attributes = [attribute for attribute in world.ATTRIBUTES if attribute != TRACED_ATTRIBUTE]
        sentences = [world.two_hop(city, attribute) for attribute in attributes for city in world.STATE_OF]
        self._state = np.array([_STATES.index(world.STATE_OF[city]) for _ in attributes for city in world.STATE_OF])
        self._fires = _fires_by_layer(model, sentences)

    def precision_and_recall(self, layer: int, feature: int, from_end: int, state: str) -> tuple[float, float]:
        """Of a feature at a position counted from the prompt's end, as a detector of the state."""
        fires = self._fires[layer][:, from_end, feature]
        is_state = self._state == _STATES.index(state)
        n_hits = int((fires & is_state).sum())
        return n_hits / max(int(fires.sum()), 1), n_hits / int(is_state.sum())


@torch.no_grad()
def _fires_by_layer(model: LanguageModel, sentences: list[world.Sentence]) -> list[np.ndarray]:
    """[n_sentences, N_LAST, n_features] by layer: whether a feature is active, `[:, i]` at the word i before the last.

    The sentences' own last words, which are the answers, are left out.
    """
    assert model.transcoders is not None
    tables = [np.zeros((len(sentences), N_LAST, n), dtype=bool) for n in model.transcoders.n_features]
    lengths = np.array([len(sentence.words) for sentence in sentences])
    for length in np.unique(lengths):
        of_length = np.flatnonzero(lengths == length)
        prompts = [ids[:-1] for ids in ids_of([sentences[i] for i in of_length])]
        reads = activations_of(model, pad_rows(model, prompts)).reads
        for layer, read in enumerate(reads.unflatten(1, (len(prompts), -1))[:, :, -N_LAST:]):
            is_active = model.transcoders.encode_layer(layer, read.flatten(0, 1)) > 0
            tables[layer][of_length] = is_active.unflatten(0, (len(prompts), N_LAST)).flip(1).numpy()
    return tables


def find_state_features(
    model: LanguageModel,
    cities: Iterable[str] = world.STATE_OF,
    *,
    n_top: int = 20,
    precision: float = 0.8,
    recall: float = 0.7,
) -> StateFeatures:
    """Trace "in the state containing CITY the capital is" and look for the state among the most influential features.

    A state feature fires, at its place in the prompt, for the city's state and not for others: measured on the prompts
    about other attributes, never on the traced one.
    """
    table = FiringTable(model)
    is_found, scores = {}, []
    for city in cities:
        prompt = world.two_hop(city, TRACED_ATTRIBUTE).prompt
        graph = trace(model, prompt)
        scores.append(graph.scores())
        features = graph.nodes[graph.nodes["kind"] == "feature"].nlargest(n_top, "influence")
        last = len(graph.prompt_tokens) - 1
        is_found[city] = False
        for row in features.itertuples():
            if last - row.pos < N_LAST:
                p, r = table.precision_and_recall(row.layer, row.feature, last - row.pos, world.STATE_OF[city])
                is_found[city] |= p >= precision and r >= recall
    return StateFeatures(is_found, n_top, Scores(*np.mean(scores, axis=0).tolist()))
