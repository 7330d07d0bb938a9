"""Measure the demo, the shipped files or a folder that was built: `python tools/demo/measure.py [FOLDER]`.

What any transcoders are measured by is left to `attrgraph.evaluation.evaluate`. Measured here is what only this world
allows: right answers by task, where the two hops of a question happen, and whether the graphs show the state.
Prints what the demo must reach to ship, and ends with status 1 if it does not.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import draws
import torch
from circuits import find_state_features
from packing import ids_of
from torch import Tensor

from attrgraph.data.activations import pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.demo import world
from attrgraph.demo.shipped import shipped_folder
from attrgraph.evaluation import evaluate
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import replace_with
from attrgraph.models.load_model import load_model
from attrgraph.transcoders.folder import load_transcoders
from attrgraph.transcoders.transcoders import Transcoders

SETS = {"cross_layer": True, "per_layer": False}  # folder: is it cross-layer
_BATCH = 256


def _logits(model: LanguageModel, token_ids: Tensor) -> Tensor:
    logits: Tensor = model.hf_model(input_ids=token_ids, use_cache=False).logits
    return logits


@torch.no_grad()
def accuracy(model: LanguageModel, sentences: list[world.Sentence], transcoders: Transcoders | None = None) -> float:
    """Share of determined words that are the most probable ones; with transcoders, those of the replacement model."""
    n_right = n_answers = 0
    for start in range(0, len(sentences), _BATCH):
        batch = sentences[start : start + _BATCH]
        ids = pad_rows(model, ids_of(batch)).token_ids
        if transcoders is None:
            logits = _logits(model, ids)
        else:
            with replaced_mlps(model, replace_with(transcoders, ids != model.bos_token_id)):
                logits = model.logits(ids)
        best = logits.argmax(-1)
        for row, sentence in enumerate(batch):
            for answer in sentence.answers:
                n_right += world.is_right(sentence, answer, world.VOCABULARY[int(best[row, answer - 1])])
                n_answers += 1
    return n_right / n_answers


def task_accuracies(model: LanguageModel, transcoders: Transcoders | None = None) -> dict[str, float]:
    return {name: accuracy(model, sentences, transcoders) for name, sentences in draws.test_sets().items()}


@torch.no_grad()
def ceiling_test(
    model: LanguageModel,
    *,
    n_words: int,
    at: str,
    layers: tuple[int, ...] = (0, 1),
    attribute: str = "capital",
    n_pairs: int = 200,
) -> float:
    """Share of two-hop answers that follow when MLP outputs are swapped in from a prompt about another city.

    If MLPs compute the state at the city's last word, the swap there carries the answer along; if the city's embedding
    holds it, or everything happens at the last word, it does not.

    Args:
        n_words: cities of one word or of two.
        at: "city" for the city's last word, "last" for the prompt's last word (the control).
        layers: whose MLP outputs are swapped.
    """
    pairs = draws.city_pairs(n_words, n_pairs, seed=5)
    prompts = [[world.two_hop(city, attribute) for city in cities] for cities in zip(*pairs, strict=True)]
    receiving, giving = (torch.stack(ids_of(sentences))[:, :-1] for sentences in prompts)
    pos = prompts[0][0].words.index("the", 3) - 1 if at == "city" else -1
    given: dict[int, Tensor] = {}

    def keep(layer: int, _: Tensor, out: Tensor) -> Tensor:
        given[layer] = out
        return out

    def swap(layer: int, _: Tensor, out: Tensor) -> Tensor:
        if layer in layers:
            out = out.clone()
            out[:, pos] = given[layer][:, pos]
        return out

    with replaced_mlps(model, keep):
        _logits(model, giving)
    with replaced_mlps(model, swap):
        answers = _logits(model, receiving)[:, -1].argmax(-1)
    expected = torch.tensor([world.TOKEN_ID[sentence.words[-1]] for sentence in prompts[1]])
    return float((answers == expected).float().mean())


def held_out_rows(n_each: int = 1000, *, seed: int = 999) -> TokenRows:
    """`n_each` sentences of every task, a document each: held-out items where the task has some, else fresh samples."""
    rng = random.Random(seed)
    has_held_out = ("two_hop", "indirect_object", "addition", "agreement")
    sentences = [draws.sample(rng, {t: 1}, held_out=t in has_held_out) for t in draws.TASKS for _ in range(n_each)]
    return TokenRows(ids_of(sentences), list(range(len(sentences))), {})


def measure_model(model: LanguageModel) -> dict[str, Any]:
    """Accuracy by task, and the ceiling test for cities of one and two words, at the city and at the last word."""
    return {
        "accuracy": task_accuracies(model),
        "ceiling": {
            f"{n_words}-word city, swapped at the {at}": ceiling_test(model, n_words=n_words, at=at)
            for n_words in (1, 2)
            for at in ("city", "last")
        },
    }


def measure_transcoders(model: LanguageModel, transcoders: Transcoders) -> dict[str, Any]:
    """`evaluate` on held-out sentences, accuracy of the replacement model, and how often a graph shows the state."""
    model = LanguageModel(model.hf_model, model.tokenizer, transcoders=transcoders, source=model.source)
    evaluation, found = evaluate(model, transcoders, held_out_rows(), n_graphs=0), find_state_features(model)
    layers = evaluation.per_layer
    return {
        "evaluation": {
            "n_tokens": evaluation.n_tokens,
            "n_documents": evaluation.n_documents,
            **evaluation.headline(),
            **{f"{key}_by_layer": [getattr(at, key) for at in layers] for key in ("nmse", "l0", "dead_fraction")},
        },
        "accuracy": task_accuracies(model, transcoders),
        "state_features": {
            "share_of_cities": found.share,
            "one_word": found.share_of(1),
            "two_words": found.share_of(2),
            "n_top": found.n_top,
        },
        "graphs": found.scores._asdict(),
    }


def measure(folder: Path) -> dict[str, Any]:
    """Everything that the model card states, measured on the files in a folder."""
    model = load_model(folder / "model")
    sets = {name: measure_transcoders(model, load_transcoders(folder / name)) for name in SETS}
    return {"model": measure_model(model), **sets}


def requirements(measured: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What the demo must reach to ship: name, measured value, least value; of the model alone if only it is there."""
    accuracies, ceiling = measured["model"]["accuracy"], measured["model"]["ceiling"]
    found = [(f"accuracy, {t}", v, 0.95 if t == "two_hop/held-out" else 0.90) for t, v in accuracies.items()]
    for name, least in (("1-word city, swapped at the city", 0.80), ("2-word city, swapped at the city", 0.95)):
        found.append((f"answers that follow, {name}", ceiling[name], least))
    if "cross_layer" in measured:
        of_set = measured["cross_layer"]
        found += [
            ("cross-layer: the replacement model agrees", of_set["evaluation"]["top1_agreement"], 0.90),
            ("cross-layer: the state is among the top features", of_set["state_features"]["share_of_cities"], 0.80),
            ("cross-layer: replacement score of the graphs", of_set["graphs"]["replacement"], 0.80),
        ]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=shipped_folder("model").parent)
    found = requirements(measure(parser.parse_args().folder))
    for name, value, least in found:
        print(f"{name:<55} {value:.3f}  (at least {least:.2f}){'' if value >= least else '  MISSED'}")
    sys.exit(any(value < least for _, value, least in found))
