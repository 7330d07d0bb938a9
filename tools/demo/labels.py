"""Names for features of the demo: the thing in the world that a feature detects best.

A thing is the word at a position, the next word where that is determined, the state of the city that ends there, the
state that the sentence was about before, or the task. Precision is the share of the feature's activation that falls on
the thing, recall the share of the thing's occurrences at which it is active. A feature gets the name of the thing with
the best F1 score, if that is good enough; the others stay nameless. Nothing is computed from the names.
"""

import random
from collections.abc import Iterable

import draws
import numpy as np
import torch
from packing import ids_of
from scipy import sparse

from attrgraph.data.activations import activations_of, pad_rows
from attrgraph.demo import world
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders.transcoders import Transcoders

# Higher leaves more features nameless; lower gives names that are wrong as often as right.
_LEAST_F1 = 0.5
_BATCH = 256


def things_at(sentence: world.Sentence) -> list[set[str]]:
    """What there is to detect at each position after `<bos>`."""
    words, state = sentence.words, ""
    is_about_places = sentence.task in ("location", "greeting", "one_hop", "two_hop")
    things = []
    for pos in range(1, len(words)):
        here = {f'"{words[pos]}"', f"task {sentence.task}"}
        if pos + 1 in sentence.answers:
            here.add(f"says {words[pos + 1]}")
        if state:
            here.add(f"after {state}")
        city_state = world.STATE_OF.get(" ".join(words[pos - 1 : pos + 1])) or world.STATE_OF.get(words[pos])
        if is_about_places and city_state:
            here.add(f"city in {city_state}")
            state = city_state
        elif is_about_places and words[pos] in world.STATES:
            state = words[pos]
        things.append(here)
    return things


def _sentences(n_each: int, seed: int) -> list[world.Sentence]:
    rng = random.Random(seed)
    return [draws.sample(rng, {task: 1}) for task in draws.TASKS for _ in range(n_each)]


@torch.no_grad()
def label_features(
    model: LanguageModel, transcoders: Transcoders, *, n_each: int = 1500, seed: int = 3
) -> dict[tuple[int, int], str]:
    """Names by (layer, feature), from `n_each` sentences of every task."""
    sentences = _sentences(n_each, seed)
    things = [here for sentence in sentences for here in things_at(sentence)]
    names = sorted(set().union(*things))
    occurs = _indicator(things, names)  # [n_tokens, n_things]
    labels = {}
    for layer, activations in enumerate(_activations(model, transcoders, sentences)):
        mass = np.asarray(activations.sum(0))[None]
        precision = (occurs.T @ activations).toarray() / np.maximum(mass, 1e-9)  # [n_things, n_features]
        recall = (occurs.T @ (activations > 0)).toarray() / np.asarray(occurs.sum(0))[:, None]
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        for feature in np.flatnonzero(f1.max(0) >= _LEAST_F1):
            labels[layer, int(feature)] = names[int(f1[:, feature].argmax())]
    return labels


def _indicator(things: Iterable[set[str]], names: list[str]) -> sparse.csr_array:
    column = {name: i for i, name in enumerate(names)}
    pairs = [(row, column[name]) for row, here in enumerate(things) for name in here]
    rows, columns = np.array(pairs).T
    return sparse.csr_array((np.ones(len(pairs), dtype=np.int64), (rows, columns)), shape=(rows.max() + 1, len(names)))


def _activations(
    model: LanguageModel, transcoders: Transcoders, sentences: list[world.Sentence]
) -> list[sparse.csr_array]:
    """By layer, [n_tokens, n_features]; tokens in the order of the sentences, without `<bos>`."""
    blocks: list[list[sparse.csr_array]] = [[] for _ in range(model.n_layers)]
    for start in range(0, len(sentences), _BATCH):
        reads = activations_of(model, pad_rows(model, ids_of(sentences[start : start + _BATCH]))).reads
        for layer, read in enumerate(reads):
            blocks[layer].append(sparse.csr_array(transcoders.encode_layer(layer, read).numpy()))
    return [sparse.csr_array(sparse.vstack(parts)) for parts in blocks]
