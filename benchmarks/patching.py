"""Time exact patching of all heads and MLPs: `python benchmarks/patching.py [-o OUT.json] [--layers N] [--repeats N]`.

A model of GPT-2's shape with random weights, two prompts of 16 tokens that differ from the first on, so that no node is
the same in both. Beside it, as many forward passes of the Hugging Face model in batches of the same size, logits of the
last position only. Both take turns, so that what else the machine does hits them alike; the median of rounds counts.
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import attrgraph as ag
from attrgraph.interventions.patched_runs import rows_at_once
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel

N_POS = 16


def seconds_of(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.no_grad()
def forward_passes(model: LanguageModel, token_ids: torch.Tensor, n: int, n_rows: int) -> None:
    """So many runs of a prompt, in batches."""
    for start in range(0, n, n_rows):
        rows = token_ids.expand(min(n_rows, n - start), -1)
        model.hf_model(input_ids=rows, use_cache=False, logits_to_keep=1)


def measure(n_layers: int, n_repeats: int) -> dict[str, Any]:
    config = {"n_layer": n_layers, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    model = LanguageModel(create_hf_model("gpt2", seed=0, **config).requires_grad_(False))
    clean = torch.arange(1000, 1000 + N_POS, device=model.device)
    corrupt = clean + 2000
    metric = ag.LogitDifference(5, 7)
    table = ag.patch(model, clean, corrupt, nodes=["head", "mlp"], metric=metric)
    n_runs, n_rows = len(table), rows_at_once(model, N_POS, None)
    assert bool((table.loc[table["layer"] < n_layers - 1, "effect"] != 0).all())  # all of them are run
    ours, theirs = list[float](), list[float]()
    for _ in range(n_repeats):
        ours.append(seconds_of(lambda: ag.patch(model, clean, corrupt, nodes=["head", "mlp"], metric=metric)))
        theirs.append(seconds_of(lambda: forward_passes(model, corrupt[None], n_runs, n_rows)))
    patched, passes = statistics.median(ours), statistics.median(theirs)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "n_layers": n_layers,
        "n_pos": N_POS,
        "n_runs": n_runs,
        "n_rows": n_rows,
        "patch_s": round(patched, 3),
        "forward_s": round(passes, 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.layers, arguments.repeats)
    found |= {"torch": version("torch"), "threads": torch.get_num_threads(), "machine": platform.processor()}
    print(json.dumps(found, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
