"""Are labels true, and what do random features get? `PYTHONPATH=tools/demo python benchmarks/feature_labels.py`.

Labels of the demo's features from sentences of its world; how often each claim holds on other sentences (the share of
the tokens that its rule names at which the feature fires); and how many labels random dictionaries get in the real
one's place: its encoder and decoder rows shuffled within, or drawn anew with the same spread, as TopK or JumpReLU.
"""

import argparse
import json
import platform
import random
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
from attrgraph.data.corpus import rows_of
from attrgraph.features.rules import OFFSETS
from attrgraph.transcoders import TranscoderConfig, Transcoders

N_FOUND, N_FRESH, BATCH = 5000, 7000, 500
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

    config = TranscoderConfig(real.config.model_kind, feature_input_hook=real.config.feature_input_hook)
    jump = [
        replace(w, threshold=torch.full((len(w.W_enc),), _THRESHOLD * float(w.W_enc.std()))) for w in changed(drawn, 3)
    ]
    return {
        "real": real,
        "rows shuffled": Transcoders(changed(shuffled, 1), real.config),
        "drawn anew": Transcoders(changed(drawn, 2), real.config),
        "drawn anew, JumpReLU": Transcoders(jump, config),
    }


def claims(model: ag.LanguageModel, transcoders: Transcoders, pages: ag.FeaturePages, texts: list[str]) -> list[float]:
    """Of each labelled feature's rule, the share of the tokens it names in the texts at which the feature fires."""
    labelled = [page for page in pages.values() if page["label"]]
    named, right = np.zeros(len(labelled)), np.zeros(len(labelled))
    rows = rows_of(model, texts).rows
    for start in range(0, len(rows), BATCH):
        tokens = pad_rows(model, rows[start : start + BATCH])
        found, ids = activations_of(model, tokens), tokens.token_ids
        is_counted = tokens.is_trained
        with torch.no_grad():
            says = model.logits(ids).argmax(-1)
        pos = torch.arange(ids.shape[1]).expand_as(ids)
        values = {kind: torch.roll(ids, -offset, 1) for kind, offset in OFFSETS.items()} | {"position": pos}
        values |= dict.fromkeys(("says", "answer"), says)
        values["next"] = torch.where(torch.roll(is_counted, -1, 1), values["next"], -1)
        active = [transcoders.encode_layer(layer, reads) != 0 for layer, reads in enumerate(found.reads)]
        for i, page in enumerate(labelled):
            rule = page["label_rule"]
            at = torch.isin(values[rule["kind"]], torch.tensor(rule["values"]))[is_counted]
            named[i] += int(at.sum())
            right[i] += int(active[page["layer"]][at, page["index"]].sum())
    return [float(r / n) for r, n in zip(right, named, strict=True) if n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    model = ag.load_model("demo")
    found, fresh = sentences(N_FOUND, 0), sentences(N_FRESH, 1)
    results = {}
    for name, dictionary in dictionaries(model.transcoders).items():
        pages = ag.describe_features(model, found, transcoders=dictionary, labels={})
        table = pages.table()
        held = np.array(claims(model, dictionary, pages, fresh))
        results[name] = {
            "features": len(table),
            "firing": int((table["n_firings"] > 0).sum()),
            "labelled": int((table["label"] != "").sum()),
            "claims_checked": len(held),
            "claims_with_precision_of_0.8": float((held >= 0.8).mean()) if len(held) else None,
        }
        print(name, results[name], flush=True)
    about = {
        "machine": platform.processor() or platform.machine(),
        "torch": version("torch"),
        "sentences": [N_FOUND, N_FRESH],
    }
    if arguments.output:
        arguments.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
