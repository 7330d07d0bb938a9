"""The inner operations beside what the machine can do: `python benchmarks/roofline.py [--device cuda] [-o OUT.json]`.

At GPT-2-small's shape with `--tokens` tokens, cross-layer transcoders of 4,096 features a layer and tiles of 128
targets. Each operation runs in PyTorch and, on a GPU, as Triton kernel, in turns; nothing is reported unless both agree
with a plain formula. Roofline: the longer of the operations over those a second of a large matrix product and of the
bytes that have to be moved over those a second of a large copy, both measured first; the share is that time over the
median's.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from work import machine, machine_limits, now

from attrgraph.attribution.sweep import TILE_ROWS
from attrgraph.kernels.edge_rows import Writes, edge_rows
from attrgraph.kernels.encode_sparse import encode_sparse, encode_sparse_reference
from attrgraph.kernels.influence_rows import influence_rows
from attrgraph.kernels.mix_heads import mix_heads, mix_heads_reference

N_LAYERS, D_MODEL, N_HEADS, D_HEAD, N_FEATURES, N_ACTIVE = 12, 768, 12, 64, 4096, 48
N_ROWS = 1000


class Case(NamedTuple):
    """An operation: what runs, what it must give, and the least that it takes."""

    run: Callable[[], Tensor]
    expected: Tensor
    flop: float
    bytes: float


def edge_rows_case(n_pos: int, device: str) -> Case:
    """Into the last layer: what the features of all layers write."""
    n_writes = N_LAYERS * N_ACTIVE * n_pos
    adjoint = torch.randn(TILE_ROWS, n_pos, D_MODEL, device=device)
    vector = torch.randn(n_writes, D_MODEL, device=device)
    offsets = [0, *accumulate([N_LAYERS * N_ACTIVE] * n_pos)]
    writes, out = Writes(vector, 0, offsets, offsets[:-1]), torch.zeros(TILE_ROWS, n_writes, device=device)

    def run() -> Tensor:
        out.zero_()
        edge_rows(adjoint, writes, out)
        return out

    expected = torch.einsum("rpd,pnd->rpn", adjoint, vector.view(n_pos, -1, D_MODEL)).flatten(1)
    moved = adjoint.numel() + vector.numel() + 3 * out.numel()  # zeroed, read and written
    return Case(run, expected, 2 * out.numel() * D_MODEL, 4 * moved)


def mix_heads_case(n_pos: int, device: str) -> Case:
    x = torch.randn(TILE_ROWS, n_pos, N_HEADS, D_HEAD, device=device)
    pattern = torch.randn(N_HEADS, n_pos, n_pos, device=device)
    pattern = pattern.masked_fill(torch.ones(n_pos, n_pos, device=device).triu(1).bool(), -torch.inf).softmax(-1)
    flop = TILE_ROWS * N_HEADS * D_HEAD * n_pos * (n_pos + 1)  # two for each pair of positions, causal
    return Case(
        lambda: mix_heads(x, pattern, N_HEADS),
        mix_heads_reference(x, pattern, N_HEADS),
        flop,
        4 * (2 * x.numel() + pattern.numel()),
    )


def encode_sparse_case(n_pos: int, device: str) -> Case:
    x, W_enc = torch.randn(n_pos, D_MODEL, device=device), torch.randn(N_FEATURES, D_MODEL, device=device)
    b_enc = -torch.quantile((x[:16] @ W_enc.T).flatten(), 1 - N_ACTIVE / N_FEATURES).expand(N_FEATURES).contiguous()

    def dense(found: Any) -> Tensor:
        out = torch.zeros(n_pos, N_FEATURES, device=device)
        out[found.pos, found.feature] = found.activation
        return out

    expected = dense(encode_sparse_reference(x, W_enc, b_enc))
    moved = x.numel() + W_enc.numel() + 3 * N_ACTIVE * n_pos
    return Case(
        lambda: encode_sparse(x, W_enc, b_enc).activation,
        expected[expected > 0],
        2 * n_pos * W_enc.numel(),
        4 * moved,
    )


def influence_case(n_pos: int, device: str) -> Case:
    """Through all rows, of all active features."""
    n_columns = (N_LAYERS * N_ACTIVE + N_LAYERS + 1) * n_pos
    level = torch.arange(N_ROWS, device=device) * (N_LAYERS + 1) // N_ROWS
    source_level = torch.arange(n_columns, device=device) * N_LAYERS // n_columns
    rows = torch.randn(N_ROWS, n_columns, device=device) * (source_level < level[:, None])
    # each row's own column is of its level; those of the top level have none
    column = torch.where(level < N_LAYERS, level * n_columns // N_LAYERS + torch.arange(N_ROWS, device=device) % 9, -1)
    weight = torch.where(level == N_LAYERS, 1.0 / N_ROWS, 0.0)
    shares = rows.double().abs()
    shares /= shares.sum(1, keepdim=True).clamp_min(1e-300)
    total, flow = torch.zeros(n_columns, device=device, dtype=torch.float64), weight.double()
    for one in range(N_LAYERS, -1, -1):
        at = (level == one).nonzero()[:, 0]
        flow[at] += torch.where(column[at] >= 0, total[column[at].clamp_min(0)], 0.0)
        total += flow[at] @ shares[at]
    return Case(lambda: influence_rows(rows, column, level, weight)[0], total, 4 * rows.numel(), 4 * rows.numel())


CASES = {
    "edge_rows": edge_rows_case,
    "mix_heads": mix_heads_case,
    "encode_sparse": encode_sparse_case,
    "influence_rows": influence_case,
}


def measure(case: Case, limits: dict[str, float], device: str, n_repeats: int) -> dict[str, Any]:
    """By implementation: seconds, and the share of the roofline."""
    implementations = ["torch"] if device == "cpu" else ["torch", "triton"]
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for turn in range(n_repeats + 2):
        for name in implementations:
            os.environ["ATTRGRAPH_KERNELS"] = name
            started = now(device)
            got = case.run()
            taken = now(device) - started
            if turn == 0:
                # sums of up to 768 float32 terms, or of thousands of shares
                torch.testing.assert_close(got.double(), case.expected.double(), rtol=1e-3, atol=1e-3)
            if turn > 1:  # compiled, and in memory
                seconds[name].append(taken)
    least = max(case.flop / limits["flop_per_second"], case.bytes / limits["bytes_per_second"])
    found: dict[str, Any] = {"flop": case.flop, "bytes": case.bytes}
    for name, values in seconds.items():
        middle = statistics.median(values)
        found[name] = {"seconds": values, "median": middle, "share_of_roofline": least / middle}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    limits = machine_limits(arguments.device)
    report: dict[str, Any] = {
        "machine": machine(arguments.device),
        "versions": {"torch": version("torch")},
        **limits,
        "results": [],
    }
    for n_pos in arguments.tokens:
        for name, make in CASES.items():
            with torch.no_grad():
                found = measure(make(n_pos, arguments.device), limits, arguments.device, arguments.repeats)
            report["results"].append({"op": name, "n_tokens": n_pos, **found})
            for kind in ("torch", "triton"):
                if kind in found:
                    took = found[kind]
                    print(
                        f"{name:<14} {n_pos:>5} tokens, {kind:<6} {1e3 * took['median']:9.3f} ms, "
                        f"{took['share_of_roofline']:.0%} of the roofline",
                        flush=True,
                    )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
