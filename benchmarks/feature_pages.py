"""Feature pages beside a forward pass alone: `python benchmarks/feature_pages.py [-o OUT.json]`.

An untrained model and per-layer transcoders of GPT-2's shape, 4,096 features a layer of which about 60 are on at a
token. Batch by batch in turns: Hugging Face's forward pass with logits, and the pass that describes all features. What
comes after the pass, labels and pages, takes time by features and not by tokens, and is measured apart. Linux only.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from attribution import N_FEATURES, build
from estimate import PeakMemory
from work import machine

import attrgraph as ag
from attrgraph.data.activations import pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.features.collect import Collected
from attrgraph.features.control import random_dictionary

ROW, ON_AT_A_TOKEN = 256, 60


def text(n_rows: int, d_vocab: int) -> TokenRows:
    """Rows of random tokens, a document each."""
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(1, d_vocab, (ROW,), generator=generator) for _ in range(n_rows)]
    for row in rows:
        row[0] = 0
    return TokenRows(rows, list(range(n_rows)), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--whole", action="store_true", help="also labels and pages of all features")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder, "gpt2", is_cross_layer=False, active_share=ON_AT_A_TOKEN / N_FEATURES)
        model = ag.load_model(folder / "model", transcoders=folder / "transcoders", device="cpu")
        rows = text(arguments.tokens // ROW, model.d_vocab)
        how = {"batch_tokens": arguments.batch_tokens}
        with PeakMemory() as peak:
            report = measure(model, rows, how)
        report["peak_mib"] = peak.growth / 2**20
        if arguments.whole:
            started = time.perf_counter()
            ag.describe_features(model, rows, **how)
            report["describe_seconds"] = time.perf_counter() - started
    versions = {"python": platform.python_version(), "torch": version("torch")}
    report = {"machine": machine(), "versions": versions, "n_features": N_FEATURES, **how, **report}
    print(json.dumps(report))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(model: ag.LanguageModel, rows: TokenRows, how: dict[str, int]) -> dict[str, object]:
    transcoders = model.transcoders
    assert transcoders is not None
    control = random_dictionary(model, transcoders, rows, seed=0, **how)
    every = [np.arange(n) for n in transcoders.n_features]
    collected = Collected(model, transcoders, rows, every, control, n_sampled=4096, **how)
    forward, passing = [], []
    for batch in collected.batches:
        ids = pad_rows(model, [rows.rows[i] for i in batch]).token_ids
        started = time.perf_counter()
        with torch.no_grad():
            model.hf_model(ids, use_cache=False)
        forward.append(time.perf_counter() - started)
        started = time.perf_counter()
        collected.add_batch()
        passing.append(time.perf_counter() - started)
    return {
        "n_tokens": collected.n_tokens,
        "forward_seconds": forward,
        "pass_seconds": passing,
        "speed_of_forward": statistics.median(f / p for f, p in zip(forward, passing, strict=True)),
    }


if __name__ == "__main__":
    main()
