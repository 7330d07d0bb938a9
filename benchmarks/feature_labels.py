"""Are labels true, and what do random features get? `PYTHONPATH=tools/demo python benchmarks/feature_labels.py`.

Labels of the demo's features from sentences of its world; how often each claim holds on other sentences, each of them
once (the share of the tokens that its rule names at which the feature fires, or of firings after which a promoted token
comes); and how many labels random dictionaries get in the real one's place: its encoder and decoder rows, or either,
shuffled within, its decoder rows given to other features, or both drawn anew with the same spread, as TopK or JumpReLU.
Also of the sentences that can be listed, which have no lists of unrelated words as the other sentences do.
"""

import argparse
import json
import platform
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import draws
import numpy as np
import torch
from torch import Tensor

import attrgraph as ag
from attrgraph.data.activations import activations_of, pad_rows
from attrgraph.data.corpus import TokenRows, rows_of
from attrgraph.demo.world import fixed_sentences
from attrgraph.features.rules import PROMOTES
from attrgraph.features.sides import Text
from attrgraph.features.text_counts import TextCounts
from attrgraph.transcoders import TranscoderConfig, Transcoders

N_FOUND, N_FRESH, BATCH = 5000, 7000, 500
FEWER = (500, 1500)  # sentences, of which labels are made too
# of a drawn encoder's pre-activations, the threshold that few exceed
_THRESHOLD = 30.0


def sentences(n: int, seed: int) -> list[str]:
    """Of the demo's world, without the token in front."""
    rng = random.Random(seed)
    drawn = (draws.sample(rng, draws.FULL_MIX) for _ in range(n))
    return [" ".join(word for word in sentence.words if not word.startswith("<")) for sentence in drawn]


def shuffled(w: Tensor, generator: torch.Generator) -> Tensor:
    """Each row's numbers in another order."""
    return w.float().gather(-1, torch.rand(w.shape, generator=generator).argsort(-1))


def drawn(w: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers with the same spread."""
    return torch.randn(w.shape, generator=generator) * w.float().std()


def dictionaries(real: Transcoders) -> dict[str, Transcoders]:
    """The real one, and random ones in its place."""

    def changed(change: Callable[[Tensor, torch.Generator], Tensor], seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [replace(w, W_enc=change(w.W_enc, generator), W_dec=change(w.W_dec, generator)) for w in real.layers]

    encoders, decoders = changed(shuffled, 4), changed(shuffled, 5)
    only_encoders = [replace(new, W_dec=w.W_dec) for new, w in zip(encoders, real.layers, strict=True)]
    only_decoders = [replace(new, W_enc=w.W_enc) for new, w in zip(decoders, real.layers, strict=True)]
    order = torch.Generator().manual_seed(6)
    places = [replace(w, W_dec=w.W_dec[torch.randperm(len(w.W_dec), generator=order)]) for w in real.layers]
    config = TranscoderConfig(real.config.model_kind, feature_input_hook=real.config.feature_input_hook)
    jump = [
        replace(w, threshold=torch.full((len(w.W_enc),), _THRESHOLD * float(w.W_enc.std()))) for w in changed(drawn, 3)
    ]
    return {
        "real": real,
        "rows shuffled": Transcoders(changed(shuffled, 1), real.config),
        "decoder rows in other places": Transcoders(places, real.config),
        "encoder rows shuffled": Transcoders(only_encoders, real.config),
        "decoder rows shuffled": Transcoders(only_decoders, real.config),
        "drawn anew": Transcoders(changed(drawn, 2), real.config),
        "drawn anew, JumpReLU": Transcoders(jump, config),
    }


def counts_of(
    model: ag.LanguageModel, transcoders: Transcoders, labelled: list[Any], texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Of the rule of each labelled feature's page, how many of its claims about the texts are right, of how many.

    A rule claims a firing at each token that it names; one of the kind "promotes", that after each firing one of some
    tokens comes.
    """
    n_claims, n_right = np.zeros(len(labelled), dtype=int), np.zeros(len(labelled), dtype=int)
    rows = rows_of(model, texts).rows
    for start in range(0, len(rows), BATCH):
        some = TokenRows(rows[start : start + BATCH], list(range(len(rows[start : start + BATCH]))), {})
        tokens = pad_rows(model, some.rows)
        found, is_trained = activations_of(model, tokens), tokens.is_trained
        with torch.no_grad():
            says = model.logits(tokens.token_ids).argmax(-1)
        is_there = torch.arange(says.shape[1]) < torch.tensor([len(row) for row in some.rows])[:, None]
        is_counted = is_trained[is_there].numpy()
        counts = TextCounts(Text.of(some), is_counted, says[is_there].numpy(), model.d_vocab)
        active = [transcoders.encode_layer(layer, reads) != 0 for layer, reads in enumerate(found.reads)]
        at = np.flatnonzero(is_counted)
        for i, page in enumerate(labelled):
            kind, named = page["label_rule"]["kind"], page["label_rule"]["values"]
            values = {tuple(one) if isinstance(one, list) else (one,) for one in named}
            there, place = np.unique(counts.at(kind, at), return_inverse=True)
            is_named = np.array([value >= 0 and tuple(counts.tokens_of(kind, int(value))) in values for value in there])
            is_named, fires = is_named[place], active[page["layer"]][:, page["index"]].numpy()
            n_claims[i] += int((fires if kind == PROMOTES else is_named).sum())
            n_right[i] += int((fires & is_named).sum())
    return n_right, n_claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    model = ag.load_model("demo")
    fresh = sentences(N_FRESH, 1)
    cases = {name: (one, sentences(N_FOUND, 0)) for name, one in dictionaries(model.transcoders).items()}
    cases |= {f"real, {n} sentences": (model.transcoders, sentences(n, 0)) for n in FEWER}
    listed = [" ".join(sentence.words[1:]) for sentence in fixed_sentences()]
    cases["real, of another text"] = (model.transcoders, listed)
    results: dict[str, Any] = {}
    for name, (dictionary, found) in cases.items():
        others = sorted(set(fresh).difference(found))
        pages = ag.describe_features(model, found, transcoders=dictionary, labels={})
        table = pages.table()
        labelled = [page for page in pages.values() if page["label"] and page["label_rule"]]
        n_right, n_claims = counts_of(model, dictionary, labelled, others)
        held = (n_right / n_claims.clip(1))[n_claims > 0]
        kinds = Counter(page["label_rule"]["kind"] for page in labelled)
        n_firing, n_labelled = int((table["n_firings"] > 0).sum()), int((table["label"] != "").sum())
        results[name] = {
            "features": len(table),
            "firing": n_firing,
            "labelled": n_labelled,
            "labelled_of_firing": n_labelled / n_firing,
            "kinds": dict(kinds.most_common()),
            "by_direction": int((table["label_source"] == "like").sum()),
            "sentences": len(found),
            "other_sentences": len(others),
            "claims_checked": len(held),
            "claims_with_precision_of_0.8": float((held >= 0.8).mean()) if len(held) else None,
        }
        print(name, results[name], flush=True)
    about = {
        "machine": platform.processor() or platform.machine(),
        "torch": version("torch"),
    }
    if arguments.output:
        arguments.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
