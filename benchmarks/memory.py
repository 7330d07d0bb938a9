"""Traces that need much memory elsewhere: `python benchmarks/memory.py [CASE...] [-o OUT.json]`.

Each in a process of its own, with its peak of resident memory:

- long: 1,024 tokens at GPT-2-small shape, cross-layer transcoders of 4,096 features a layer, 1,000 feature rows, with a
  memory budget of 4 GiB;
- longest: 4,096 tokens on a small model;
- folder: a transcoder folder larger than the machine's memory (a sparse file: all but some rows are zeros).
"""

import argparse
import json
import platform
import struct
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from attribution import SHAPES, build, prompt_ids
from work import machine, peak_gib

import attrgraph as ag
from attrgraph.transcoders.config import CROSS_LAYER

SHAPES["small"] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 5000,
    "max_position_embeddings": 4096,
}
# shape, tokens, memory budget
CASES = {"long": ("gpt2", 1024, "4G"), "longest": ("small", 4096, None), "folder": ("gpt2", 16, None)}
N_ROWS, ACTIVE_SHARE, ROWS_WITH_WEIGHTS = 1000, 0.0118, 300


def write_sparse(path: Path, tensors: dict[str, tuple[tuple[int, ...], np.ndarray]]) -> None:
    """A safetensors file of float32 tensors that are zero beyond their first rows, which takes no room on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, (shape, _) in tensors.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        base = file.tell()
        file.truncate(base + end)
        for name, (_, rows) in tensors.items():
            file.seek(base + header[name]["data_offsets"][0])
            file.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())


def write_large_folder(folder: Path, n_layers: int, d_model: int, n_bytes: int) -> None:
    """Cross-layer ReLU transcoders of about so many bytes; features without weights have a negative bias."""
    rng, n = np.random.default_rng(0), ROWS_WITH_WEIGHTS
    n_features = n_bytes // (4 * d_model * (n_layers + n_layers * (n_layers + 1) // 2))
    folder.mkdir()
    for layer in range(n_layers):
        b_enc = np.full(n_features, -1.0)
        b_enc[:n] = 0.0
        encoder = {
            f"W_enc_{layer}": ((n_features, d_model), 0.1 * rng.standard_normal((n, d_model))),
            f"b_enc_{layer}": ((n_features,), b_enc),
            f"b_dec_{layer}": ((d_model,), np.zeros(d_model)),
        }
        write_sparse(folder / f"W_enc_{layer}.safetensors", encoder)
        shape = (n_features, n_layers - layer, d_model)
        rows = 0.02 * rng.standard_normal((n, *shape[1:]))
        write_sparse(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": (shape, rows)})
    config = {"model_kind": CROSS_LAYER, "model_name": "bench", "feature_input_hook": "hook_resid_mid"}
    config |= {"feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def run_case(case: str, folder: Path) -> dict[str, Any]:
    """In a process of its own, on what `prepare` wrote."""
    _, n_tokens, budget = CASES[case]
    model = ag.load_model(str(folder / "model"), transcoders=str(folder / "transcoders"), device="cpu")
    assert model.transcoders is not None
    started = time.perf_counter()
    ids = prompt_ids(n_tokens, model.d_vocab).tolist()
    graph = ag.trace(model, ids, max_feature_nodes=N_ROWS, memory_budget=budget)
    return {
        "n_tokens": n_tokens,
        "memory_budget": budget,
        "selection": graph.metadata["selection"],
        "checks": graph.metadata["checks"],
        "seconds": time.perf_counter() - started,
        "transcoders_gib": model.transcoders.n_bytes / 2**30,
        "peak_gib": peak_gib("cpu"),
    }


def prepare(case: str, folder: Path) -> None:
    shape, _, _ = CASES[case]
    build(folder, shape, is_cross_layer=True, active_share=ACTIVE_SHARE)
    if case == "folder":
        size = int(1.2 * psutil.virtual_memory().total)
        (folder / "transcoders").rename(folder / "small")
        write_large_folder(folder / "transcoders", SHAPES[shape]["n_layer"], SHAPES[shape]["n_embd"], size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.in_folder:
        print(json.dumps(run_case(arguments.cases[0], arguments.in_folder)))
        return
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "cases": {},
    }
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(case, folder)
            command = [sys.executable, __file__, case, "--in-folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        report["cases"][case] = json.loads(done.stdout.splitlines()[-1])
        print(case, report["cases"][case], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
