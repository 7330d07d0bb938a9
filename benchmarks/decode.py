"""Time cross-layer decoding, forward and backward: `python benchmarks/decode.py [-o OUT.json]`.

Every layer's features write into their own and all later layers. Compared are this package's `sparse_decode` over wide
decoder rows and four other formulations, each with its decoders laid out as suits it and with gradients for activations
and decoders. All take turns in every round, so that what else the machine does hits them alike, and nothing is
reported unless all give the same outputs and gradients. What depends on the features alone is redone in every step.
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
from torch import Tensor
from torch.nn.functional import embedding_bag

from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.sparse_ops import sparse_decode

DENSE = ("one GEMM a pair", "one GEMM a target")
OURS = ("sparse_decode, dense gradient", "sparse_decode, sparse gradient")


class Sizes(NamedTuple):
    n_layers: int
    d_model: int
    n_features: int
    k: int
    n_tokens: int

    @property
    def layer_pairs(self) -> list[tuple[int, int]]:
        """Source and target layer, by source."""
        return [(source, target) for source in range(self.n_layers) for target in range(source, self.n_layers)]


class Case(NamedTuple):
    """What all formulations are given."""

    sizes: Sizes
    features: list[Tensor]  # of each layer, [n_tokens, k]
    activations: list[Tensor]  # of each layer, [n_tokens, k]
    decoders: dict[tuple[int, int], Tensor]  # of each source and target, [n_features, d_model]
    gradients: list[Tensor]  # of each target, [n_tokens, d_model]


class Formulation(NamedTuple):
    """`forward` maps leaves to the output of each target; `by_pair` splits decoder gradients as in `Case.decoders`."""

    activations: list[Tensor]
    decoders: list[Tensor]
    forward: Callable[[], list[Tensor]]
    by_pair: Callable[[list[Tensor]], list[Tensor]]


def make_case(sizes: Sizes) -> Case:
    """Random features, different ones at each token."""
    n, n_layers = sizes.n_tokens, sizes.n_layers
    return Case(
        sizes,
        [torch.rand(n, sizes.n_features).topk(sizes.k).indices for _ in range(n_layers)],
        [torch.rand(n, sizes.k) for _ in range(n_layers)],
        {pair: torch.randn(sizes.n_features, sizes.d_model) for pair in sizes.layer_pairs},
        [torch.randn(n, sizes.d_model) for _ in range(n_layers)],
    )


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


def densified(case: Case) -> list[Tensor]:
    """The activations of each layer, [n_tokens, n_features]."""
    shape = case.sizes.n_tokens, case.sizes.n_features
    return [torch.zeros(shape).scatter(1, *both) for both in zip(case.features, case.activations, strict=True)]


def per_pair(case: Case, activations: list[Tensor], decode: Callable[[Tensor, int, Tensor], Tensor]) -> Formulation:
    """A decoder for each source and target; `decode(activations, source, decoder)`."""
    activations, decoders = leaves(activations), leaves(list(case.decoders.values()))

    def forward() -> list[Tensor]:
        outputs: dict[int, Tensor] = {}
        for (source, target), decoder in zip(case.decoders, decoders, strict=True):
            part = decode(activations[source], source, decoder)
            outputs[target] = outputs[target] + part if target in outputs else part
        return list(outputs.values())

    return Formulation(activations, decoders, forward, lambda gradients: gradients)


def gather_and_einsum(case: Case) -> Formulation:
    def decode(activations: Tensor, source: int, decoder: Tensor) -> Tensor:
        features = case.features[source]
        rows = decoder.index_select(0, features.flatten()).view(*features.shape, -1)
        return torch.einsum("nk,nkd->nd", activations, rows)

    return per_pair(case, case.activations, decode)


def gemm_per_pair(case: Case) -> Formulation:
    return per_pair(case, densified(case), lambda activations, _, decoder: activations @ decoder)


def bag_per_pair(case: Case, *, has_sparse_gradient: bool) -> Formulation:
    def decode(activations: Tensor, source: int, decoder: Tensor) -> Tensor:
        features = case.features[source]
        return embedding_bag(features, decoder, per_sample_weights=activations, mode="sum", sparse=has_sparse_gradient)

    return per_pair(case, case.activations, decode)


def gemm_per_target(case: Case) -> Formulation:
    """A decoder for each target, below each other the rows of all its sources."""
    n_layers, pairs = case.sizes.n_layers, case.sizes.layer_pairs
    activations = leaves(densified(case))
    decoders = leaves(
        [torch.cat([case.decoders[source, target] for source in range(target + 1)]) for target in range(n_layers)]
    )

    def forward() -> list[Tensor]:
        return [torch.cat(activations[: target + 1], 1) @ decoders[target] for target in range(n_layers)]

    def by_pair(gradients: list[Tensor]) -> list[Tensor]:
        parts = [gradient.split(case.sizes.n_features) for gradient in gradients]
        return [parts[target][source] for source, target in pairs]

    return Formulation(activations, decoders, forward, by_pair)


def bag_per_source(case: Case, *, has_sparse_gradient: bool) -> Formulation:
    """This package's: a decoder for each source, whose rows hold what a feature writes into all its targets."""
    n_layers, d_model, n_features = case.sizes.n_layers, case.sizes.d_model, case.sizes.n_features
    activations = leaves(case.activations)
    decoders = leaves(
        [torch.cat([case.decoders[source, t] for t in range(source, n_layers)], 1) for source in range(n_layers)]
    )

    def forward() -> list[Tensor]:
        outputs: list[Tensor] = []
        for source in range(n_layers):
            pairs = Pairs.of_rows(case.features[source], n_features)
            wide = sparse_decode(
                activations[source].flatten(), pairs, decoders[source], has_sparse_gradient=has_sparse_gradient
            )
            parts = wide.split(d_model, dim=1)
            outputs[source:] = [outputs[target] + part if source else part for target, part in enumerate(parts, source)]
        return outputs

    def by_pair(gradients: list[Tensor]) -> list[Tensor]:
        return [part for gradient in gradients for part in gradient.to_dense().split(d_model, dim=1)]

    return Formulation(activations, decoders, forward, by_pair)


def formulations(case: Case) -> dict[str, Formulation]:
    return {
        OURS[0]: bag_per_source(case, has_sparse_gradient=False),
        OURS[1]: bag_per_source(case, has_sparse_gradient=True),
        "index_select and einsum a pair": gather_and_einsum(case),
        DENSE[0]: gemm_per_pair(case),
        DENSE[1]: gemm_per_target(case),
        "bag a pair, dense gradient": bag_per_pair(case, has_sparse_gradient=False),
        "bag a pair, sparse gradient": bag_per_pair(case, has_sparse_gradient=True),
    }


def step(case: Case, formulation: Formulation) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs of the targets, gradients of the activations, gradients of the decoders."""
    outputs = formulation.forward()
    inputs = [*formulation.activations, *formulation.decoders]
    gradients = list(torch.autograd.grad(outputs, inputs, case.gradients))
    n_layers = case.sizes.n_layers
    return [output.detach() for output in outputs], gradients[:n_layers], gradients[n_layers:]


def comparable(case: Case, formulation: Formulation) -> list[Tensor]:
    """All results of a step, laid out as in `Case`."""
    outputs, for_activations, for_decoders = step(case, formulation)
    at_pairs = [
        # a dense formulation has a gradient for every feature: those of the active ones are asked for
        gradient if gradient.shape == features.shape else gradient.gather(1, features)
        for gradient, features in zip(for_activations, case.features, strict=True)
    ]
    return [*outputs, *at_pairs, *(part.to_dense() for part in formulation.by_pair(for_decoders))]


def largest_difference(case: Case, formulation: Formulation, expected: list[Tensor]) -> float:
    """Of any result from what is expected, relative to the largest entry of that result."""
    got = comparable(case, formulation)
    return max(
        float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(got, expected, strict=True)
    )


def check(case: Case, named: dict[str, Formulation]) -> dict[str, float]:
    """Raise unless all agree; returns how far each is from the first of the four others."""
    sizes = case.sizes
    # every result is a sum: over a token's pairs, over all targets' columns, or over tokens; rounding adds at most
    # an eps a term
    longest = max(sizes.n_layers * sizes.k, sizes.n_layers * sizes.d_model, sizes.n_tokens)
    tolerance = longest * torch.finfo(torch.float32).eps
    expected = comparable(case, named["index_select and einsum a pair"])
    differences = {name: largest_difference(case, formulation, expected) for name, formulation in named.items()}
    if wrong := {name: value for name, value in differences.items() if not value <= tolerance}:
        raise SystemExit(f"nothing was timed: results differ by more than {tolerance:.1e} relative: {wrong}")
    return differences


def time_in_turns(case: Case, named: dict[str, Formulation], *, n_rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each formulation in each round; a first round is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(n_rounds + 1):
        for name, formulation in named.items():
            start = time.perf_counter()
            step(case, formulation)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: values[1:] for name, values in times.items()}


def measure(sizes: Sizes, *, n_rounds: int) -> dict[str, Any]:
    """The report."""
    case = make_case(sizes)
    named = formulations(case)
    differences = check(case, named)
    times = time_in_turns(case, named, n_rounds=n_rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best_dense = min(medians[name] for name in DENSE)
    best_other = min(value for name, value in medians.items() if name not in OURS)
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "sizes": sizes._asdict(),
        "rounds": n_rounds,
        "formulations": {
            name: {
                "median_ms": round(medians[name], 1),
                "quartiles_ms": [round(q, 1) for q in statistics.quantiles(values, n=4, method="inclusive")[::2]],
                "range_ms": [round(min(values), 1), round(max(values), 1)],
                "times_faster_than_best_dense": round(best_dense / medians[name], 2),
                "times_faster_than_best_other": round(best_other / medians[name], 2),
                "largest_relative_difference": differences[name],
            }
            for name, values in times.items()
        },
    }


def table(report: dict[str, Any]) -> str:
    """The formulations, one a line."""
    columns = "median ms", "quartiles", "least", "vs best dense", "vs best other"
    lines = [" " * 32 + " ".join(f"{column:>13}" for column in columns)]
    for name, row in report["formulations"].items():
        cells = (
            f"{row['median_ms']:.1f}",
            "{:.1f}-{:.1f}".format(*row["quartiles_ms"]),
            f"{row['range_ms'][0]:.1f}",
            f"{row['times_faster_than_best_dense']:.2f}x",
            f"{row['times_faster_than_best_other']:.2f}x",
        )
        lines.append(f"{name:<32}" + " ".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--features", type=int, default=8192, help="a layer")
    parser.add_argument("--k", type=int, default=16, help="active features a token and layer")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    sizes = Sizes(arguments.layers, arguments.d_model, arguments.features, arguments.k, arguments.tokens)
    report = measure(sizes, n_rounds=arguments.rounds)
    print(table(report))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
