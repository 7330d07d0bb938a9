"""Time whole training steps of a cross-layer transcoder: `python benchmarks/train_step.py [-o OUT.json]`.

A step: pre-activations, TopK, cross-layer reconstruction, loss, every gradient, Adam. Compared are this package's and
four written out in plain PyTorch with autograd and fused Adam, which differ in how they decode. All start from the same
weights and take turns on the same batches; nothing is reported unless their losses and encoder gradients agree.

`--scaling` instead times this package's step alone against the number of features and of layers.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from attrgraph.transcoders.training.optimizer import RowAdam
from attrgraph.transcoders.training.parameters import Normalisation, TrainableTranscoders
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.step import DeadFeatures, train_step
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.train_config import TrainConfig

DENSE = ("one GEMM a pair", "one GEMM a target")
OURS = "this package, "


class Sizes(NamedTuple):
    n_layers: int
    d_model: int
    n_features: int
    k: int
    n_tokens: int


class Timed(NamedTuple):
    """`forward_backward` leaves gradients and returns the loss; `update` applies them."""

    forward_backward: Callable[[], Tensor]
    update: Callable[[], None]
    encoders: list[nn.Parameter]


def make_batch(sizes: Sizes) -> Activations:
    shape = sizes.n_layers, sizes.n_tokens, sizes.d_model
    return Activations(torch.randn(shape), torch.randn(shape))


def make_weights(sizes: Sizes) -> tuple[list[Tensor], list[Tensor]]:
    """Encoders, and wide decoder rows of equal length, with which a score is a multiple of the activation."""
    n, d = sizes.n_features, sizes.d_model
    encoders = [torch.randn(n, d) * d**-0.5 for _ in range(sizes.n_layers)]
    decoders = [torch.randn(n, (sizes.n_layers - layer) * d) for layer in range(sizes.n_layers)]
    return encoders, [W / W.norm(dim=1, keepdim=True) for W in decoders]


def ours(sizes: Sizes, batch: Activations, weights: tuple[list[Tensor], list[Tensor]], **changes: Any) -> Timed:
    """This package's step."""
    settings = {"activation": "topk", "optimizer": "auto", "batch_tokens": sizes.n_tokens}
    config = TrainConfig(n_features=sizes.n_features, l0=float(sizes.k * sizes.n_layers), **(settings | changes))
    d = torch.zeros(sizes.n_layers, sizes.d_model)
    one = torch.ones(sizes.n_layers)
    model = TrainableTranscoders(Normalisation(d, one, d.clone(), one.clone(), one * 1e9), config)
    for parameters, values in zip((model.W_enc, model.W_dec), weights, strict=True):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.clone()
    dead = DeadFeatures(model)
    optimizer = RowAdam(dict(model.named_parameters()), Shards(), replicated=frozenset({"b_dec"}))
    return Timed(lambda: train_step(model, batch, dead).loss, lambda: optimizer.step(1e-4, 1e9), list(model.W_enc))


def plain(sizes: Sizes, batch: Activations, weights: tuple[list[Tensor], list[Tensor]], decoding: str) -> Timed:
    """A step in plain PyTorch, with one of four ways to decode."""
    n_layers, d = sizes.n_layers, sizes.d_model
    encoders = [nn.Parameter(W.clone()) for W in weights[0]]
    biases = [nn.Parameter(torch.zeros(sizes.n_features)) for _ in range(n_layers)]
    b_dec = nn.Parameter(torch.zeros(n_layers, d))
    of_pair = {(s, s + i): part for s, W in enumerate(weights[1]) for i, part in enumerate(W.split(d, 1))}
    if decoding == "one GEMM a target":
        decoders = [nn.Parameter(torch.cat([of_pair[s, t] for s in range(t + 1)])) for t in range(n_layers)]
    else:
        decoders = [nn.Parameter(part.clone()) for part in of_pair.values()]
    by_pair = dict(zip(of_pair, decoders, strict=False))

    def decode(values: list[Tensor], features: list[Tensor], dense: list[Tensor], target: int) -> Tensor:
        if decoding == "one GEMM a target":
            return torch.cat(dense[: target + 1], 1) @ decoders[target]
        parts = []
        for source in range(target + 1):
            W = by_pair[source, target]
            if decoding == "one GEMM a pair":
                parts.append(dense[source] @ W)
            elif decoding == "bag a pair":
                parts.append(embedding_bag(features[source], W, per_sample_weights=values[source], mode="sum"))
            else:
                rows = W.index_select(0, features[source].flatten()).view(*features[source].shape, -1)
                parts.append(torch.einsum("nk,nkd->nd", values[source], rows))
        return torch.stack(parts).sum(0)

    def forward_backward() -> Tensor:
        values, features, dense = [], [], []
        for x, W, b in zip(batch.reads, encoders, biases, strict=True):
            best = torch.addmm(b, x, W.T).relu().topk(sizes.k, dim=1)
            values.append(best.values)
            features.append(best.indices)
            if decoding in DENSE:
                zeros = torch.zeros(len(x), sizes.n_features)
                dense.append(zeros.scatter(1, best.indices, best.values))
        outs = [decode(values, features, dense, target) + b_dec[target] for target in range(n_layers)]
        loss = torch.stack([(out - y).square().mean() for out, y in zip(outs, batch.writes, strict=True)]).mean()
        loss.backward()
        return loss.detach()

    optimizer = torch.optim.Adam([*encoders, *biases, *decoders, b_dec], lr=1e-4, fused=True)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Timed(forward_backward, update, encoders)


def formulations(sizes: Sizes) -> dict[str, Timed]:
    batch, weights = make_batch(sizes), make_weights(sizes)
    return {
        OURS + "rows with a gradient": ours(sizes, batch, weights, optimizer="lazy"),
        OURS + "all rows": ours(sizes, batch, weights, optimizer="dense"),
        OURS + "BatchTopK": ours(sizes, batch, weights, activation="batchtopk"),
        **{
            name: plain(sizes, batch, weights, name)
            for name in ("index_select and einsum a pair", *DENSE, "bag a pair")
        },
    }


def check(named: dict[str, Timed]) -> None:
    """Raise unless losses and encoder gradients agree; BatchTopK chooses other features."""
    expected: tuple[Tensor, list[Tensor]] | None = None
    for name, timed in reversed(named.items()):
        loss = timed.forward_backward()
        gradients = [W.grad.to_dense() for W in timed.encoders if W.grad is not None]
        if expected is None:
            expected = loss, gradients
        elif not name.endswith("BatchTopK"):
            # sums of some thousand float32 products
            torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=0.0)
            for ours_, theirs in zip(gradients, expected[1], strict=True):
                torch.testing.assert_close(ours_, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
        timed.update()


def time_in_turns(named: dict[str, Timed], *, n_rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds and quartiles of each; the first round is thrown away."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for _ in range(n_rounds + 1):
        for name, timed in named.items():
            start = time.perf_counter()
            timed.forward_backward()
            middle = time.perf_counter()
            timed.update()
            times[name].append((1000 * (middle - start), 1000 * (time.perf_counter() - middle)))
    report = {}
    for name, pairs in times.items():
        whole = [sum(pair) for pair in pairs[1:]]
        low, _, high = statistics.quantiles(whole, n=4, method="inclusive")
        report[name] = {
            "median_ms": round(statistics.median(whole), 1),
            "low_quartile_ms": round(low, 1),
            "high_quartile_ms": round(high, 1),
            "of_it_adam_ms": round(statistics.median(pair[1] for pair in pairs[1:]), 1),
        }
    return report


def compare(sizes: Sizes, *, n_rounds: int) -> dict[str, Any]:
    named = formulations(sizes)
    check(named)
    report = time_in_turns(named, n_rounds=n_rounds)
    best_dense = min(report[name]["median_ms"] for name in DENSE)
    for row in report.values():
        row["tokens_per_s"] = round(1000 * sizes.n_tokens / row["median_ms"])
        row["times_faster_than_best_dense"] = round(best_dense / row["median_ms"], 2)
    return {"sizes": sizes._asdict(), "rounds": n_rounds, "steps": report}


def scaling(*, n_rounds: int) -> dict[str, Any]:
    """This package's step at growing numbers of features and layers: k 16 a layer, d_model 256, 512 tokens."""
    rows = []
    for n_layers in (2, 4, 8):
        for n_features in (1024, 4096, 16384):
            sizes = Sizes(n_layers, 256, n_features, 16, 512)
            timed = ours(sizes, make_batch(sizes), make_weights(sizes), activation="batchtopk")
            row = time_in_turns({"step": timed}, n_rounds=n_rounds)["step"]
            rows.append({**sizes._asdict(), **row, "tokens_per_s": round(1000 * sizes.n_tokens / row["median_ms"])})
    return {"rounds": n_rounds, "scaling": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--features", type=int, default=8192, help="a layer")
    parser.add_argument("--k", type=int, default=16, help="active features a token and layer")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    sizes = Sizes(arguments.layers, arguments.d_model, arguments.features, arguments.k, arguments.tokens)
    measured = scaling(n_rounds=arguments.rounds) if arguments.scaling else compare(sizes, n_rounds=arguments.rounds)
    for row in measured.get("scaling", []) or [{"name": name, **row} for name, row in measured["steps"].items()]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.output:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
        versions = {"python": platform.python_version(), "torch": version("torch")}
        report = {"machine": machine, "versions": versions, **measured}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
