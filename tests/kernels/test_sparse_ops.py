"""The sparse ops agree with their references: PyTorch in float64, then Triton in the dtypes it is for."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from marks import needs_gpu, needs_interpreter
from torch import Tensor
from torch.testing import assert_close

from attrgraph.kernels.pair_dots import pair_dots, pair_dots_reference
from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.sparse_ops import (
    row_gradients,
    sparse_decode,
    sparse_decode_reference,
    sparse_encode,
    sparse_encode_reference,
)
from attrgraph.kernels.weighted_bags import weighted_bags, weighted_bags_reference

# Triton 3.9 announces a changed default when it compiles for a GPU
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


class Shape(NamedTuple):
    counts: Sequence[int]  # pairs of each token
    n_features: int
    d: int


SHAPES = {
    "one of each": Shape([1], 1, 1),
    "odd": Shape([3, 1, 2, 5, 3], 11, 7),
    "tokens without pairs": Shape([0, 3, 0, 0, 2, 0], 5, 4),
    "no pairs": Shape([0, 0], 3, 5),
    "no tokens": Shape([], 3, 5),
    "one feature everywhere": Shape([1] * 9, 1, 3),
    "every feature everywhere": Shape([5] * 4, 5, 6),
    "most features never used": Shape([2, 2], 101, 16),
}
# 1024 columns is the widest block of the kernels
WIDE_SHAPES = {f"d = {d}": Shape([2, 0, 3], 4, d) for d in (1023, 1024, 1025)}

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
every_width = pytest.mark.parametrize("shape", (SHAPES | WIDE_SHAPES).values(), ids=SHAPES | WIDE_SHAPES)
either_gradient = pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
on_cpu_and_gpu = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=needs_interpreter), pytest.param("cuda", marks=needs_gpu)]
)


@pytest.fixture
def triton_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRGRAPH_KERNELS", "triton")


def make_pairs(shape: Shape, device: str = "cpu") -> Pairs:
    """Each token has different features, in no order."""
    features = [torch.randperm(shape.n_features)[:count] for count in shape.counts]
    offsets = torch.tensor([0, *shape.counts]).cumsum(0)
    return Pairs(torch.cat([*features, offsets[:0]]).to(device), offsets.to(device), shape.n_features)


def strided(*size: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Random numbers that are not contiguous in memory."""
    spaced = torch.randn(*reversed(size), 2, dtype=dtype, device=device)[..., 0]
    return spaced.permute(*reversed(range(len(size))))


def close(got: Tensor, expected: Tensor, n_terms: int) -> None:
    """Equal up to the rounding of sums of `n_terms` products: an eps a term, times 4, which the products reach."""
    eps = torch.finfo(got.dtype).eps
    assert_close(got, expected, rtol=4 * eps, atol=4 * eps * max(n_terms, 1))


def with_gradients(out: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output, then the gradient of a fixed functional of it for each input."""
    towards = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, towards)]


def leaves(*inputs: Tensor) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in inputs]


def longest_sum(shape: Shape) -> int:
    return max([shape.d, len(shape.counts), *shape.counts])


def assert_sparse_rows(gradient: Tensor, pairs: Pairs) -> None:
    """A coalesced sparse tensor that holds the occurring features' rows, each once."""
    assert gradient.is_sparse and gradient.is_coalesced()
    assert gradient.indices()[0].tolist() == sorted(set(pairs.features.tolist()))
    # the invariants that its maker vouched for
    torch.sparse_coo_tensor(gradient.indices(), gradient.values(), gradient.shape, check_invariants=True)


@every_shape
def test_weighted_bags_sum_scaled_rows(shape: Shape) -> None:
    pairs, table = make_pairs(shape), strided(shape.n_features, shape.d)
    bags = strided(len(pairs.features)), pairs.features, pairs.offsets, table
    close(weighted_bags(*bags), weighted_bags_reference(*bags), longest_sum(shape))


@every_shape
def test_pair_dots_multiply_the_rows_of_each_pair(shape: Shape) -> None:
    pairs, left, right = make_pairs(shape), strided(len(shape.counts), shape.d), strided(shape.n_features, shape.d)
    close(pair_dots(left, pairs, right), pair_dots_reference(left, pairs, right), longest_sum(shape))


@every_shape
def test_row_gradients_are_the_same_rows_dense_and_sparse(shape: Shape) -> None:
    pairs = make_pairs(shape)
    weights, table = strided(len(pairs.features)), strided(len(shape.counts), shape.d)
    dense, sparse = (row_gradients(weights, pairs, table, is_sparse=is_sparse) for is_sparse in (False, True))
    assert_sparse_rows(sparse, pairs)
    assert_close(sparse.to_dense(), dense, rtol=0, atol=0)


@either_gradient
@every_shape
def test_sparse_decode_agrees_forward_and_in_every_gradient(shape: Shape, is_sparse: bool) -> None:
    pairs = make_pairs(shape)
    inputs = leaves(strided(len(pairs.features)), strided(shape.n_features, shape.d))
    activations, W_dec = inputs
    ours = with_gradients(sparse_decode(activations, pairs, W_dec, has_sparse_gradient=is_sparse), inputs)
    expected = with_gradients(sparse_decode_reference(activations, pairs, W_dec), inputs)
    if is_sparse:
        assert_sparse_rows(ours[2], pairs)
        ours[2] = ours[2].to_dense()
    for got, wanted in zip(ours, expected, strict=True):
        close(got, wanted, longest_sum(shape))


@either_gradient
@every_shape
def test_sparse_encode_agrees_forward_and_in_every_gradient(shape: Shape, is_sparse: bool) -> None:
    pairs = make_pairs(shape)
    inputs = leaves(strided(len(shape.counts), shape.d), strided(shape.n_features, shape.d), strided(shape.n_features))
    x, W_enc, b_enc = inputs
    ours = with_gradients(sparse_encode(x, pairs, W_enc, b_enc, has_sparse_gradient=is_sparse), inputs)
    expected = with_gradients(sparse_encode_reference(x, pairs, W_enc, b_enc), inputs)
    if is_sparse:
        assert_sparse_rows(ours[2], pairs)
        ours[2] = ours[2].to_dense()
    for got, wanted in zip(ours, expected, strict=True):
        close(got, wanted, longest_sum(shape))


def test_gradients_that_are_expanded_or_partly_wanted_agree() -> None:
    """`out.sum()` hands back one number for all entries; a frozen input gets no gradient and stops no other."""
    shape = SHAPES["odd"]
    pairs = make_pairs(shape)
    activations, x = strided(len(pairs.features)), strided(len(shape.counts), shape.d)
    W, bias = strided(shape.n_features, shape.d), strided(shape.n_features)
    for op, reference, inputs in (
        (sparse_decode, sparse_decode_reference, (activations, W)),
        (sparse_encode, sparse_encode_reference, (x, W, bias)),
    ):
        for wanted in range(len(inputs)):
            gradients = []
            for one in (op, reference):
                first, *rest = (v.detach().requires_grad_(i == wanted) for i, v in enumerate(inputs))
                chosen = (first, *rest)[wanted]
                gradients += torch.autograd.grad(one(first, pairs, *rest).sum(), chosen)
            close(*gradients, longest_sum(shape))


@pytest.mark.refusal
def test_ops_refuse_second_derivatives() -> None:
    pairs = make_pairs(SHAPES["odd"])
    activations, W_dec = leaves(torch.randn(len(pairs.features)), torch.randn(11, 7))
    x, b_enc = leaves(torch.randn(5, 7), torch.randn(11))
    for out in (sparse_decode(activations, pairs, W_dec), sparse_encode(x, pairs, W_dec, b_enc)):
        (gradient,) = torch.autograd.grad(out.square().sum(), W_dec, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


def padded_and_trimmed(device: str) -> tuple[Pairs, Pairs]:
    """The same pairs, with three entries of padding and without."""
    trimmed = make_pairs(SHAPES["tokens without pairs"], device)
    features = torch.cat([trimmed.features, trimmed.features.new_zeros(3)])
    return Pairs(features, trimmed.offsets, trimmed.n_features, is_padded=True), trimmed


def assert_padding_changes_nothing(device: str) -> None:
    padded, trimmed = padded_and_trimmed(device)
    n, n_features, d = trimmed.n_tokens, trimmed.n_features, 4
    size = {"dtype": torch.float32, "device": device}
    x, W_enc, W_dec, b_enc = strided(n, d, **size), strided(n_features, d, **size), strided(n_features, 9, **size), 1.0
    outs = []
    for pairs in (padded, trimmed):
        inputs = leaves(x, W_enc, W_dec, torch.full((n_features,), b_enc, **size))
        values = sparse_encode(inputs[0], pairs, inputs[1], inputs[3])
        outs.append(with_gradients(sparse_decode(values.relu(), pairs, inputs[2]), inputs))
    for with_padding, without in zip(*outs, strict=True):
        assert_close(with_padding, without, rtol=0, atol=0)


def test_padding_is_in_no_result() -> None:
    assert_padding_changes_nothing("cpu")


@on_cpu_and_gpu
def test_triton_padding_is_in_no_result(device: str, triton_asked: None) -> None:
    assert_padding_changes_nothing(device)


@on_cpu_and_gpu
@every_width
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32], ids=str)
def test_triton_weighted_bags_agree(shape: Shape, device: str, index_dtype: torch.dtype, triton_asked: None) -> None:
    pairs, table = make_pairs(shape, device), strided(shape.n_features, shape.d, dtype=torch.float32, device=device)
    weights = strided(len(pairs.features), dtype=torch.float32, device=device)
    indices = pairs.features.repeat_interleave(2).to(index_dtype)[::2]  # not contiguous
    expected = weighted_bags_reference(weights, pairs.features, pairs.offsets, table)
    close(weighted_bags(weights, indices, pairs.offsets.to(index_dtype), table), expected, longest_sum(shape))


@on_cpu_and_gpu
@every_width
def test_triton_pair_dots_agree(shape: Shape, device: str, triton_asked: None) -> None:
    pairs = make_pairs(shape, device)
    left, right = (
        strided(n, shape.d, dtype=torch.float32, device=device) for n in (len(shape.counts), shape.n_features)
    )
    close(pair_dots(left, pairs, right), pair_dots_reference(left, pairs, right), longest_sum(shape))


@on_cpu_and_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_triton_sums_more_precisely_than_it_stores(dtype: torch.dtype, device: str, triton_asked: None) -> None:
    """Of half-precision tables the sum is exact to float32 and rounded once; of float64 tables it stays float64."""
    shape = Shape([200, 300, 1], 400, 513)
    pairs = make_pairs(shape, device)
    x, W = (strided(n, shape.d, dtype=dtype, device=device) for n in (len(shape.counts), shape.n_features))
    weights = strided(len(pairs.features), dtype=dtype, device=device)
    bags = weighted_bags(weights, pairs.features, pairs.offsets, W)
    dots = pair_dots(x, pairs, W)
    assert bags.dtype == dots.dtype == dtype
    expected_bags = weighted_bags_reference(weights.double(), pairs.features, pairs.offsets, W.double())
    expected_dots = pair_dots_reference(x.double(), pairs, W.double())
    sum_eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for got, expected in ((bags, expected_bags), (dots, expected_dots)):
        # one eps of the stored dtype, not half: the interpreter cuts bf16 where a GPU rounds to nearest
        assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=4 * sum_eps * longest_sum(shape))


@on_cpu_and_gpu
@either_gradient
@every_shape
def test_triton_sparse_decode_agrees_in_every_gradient(
    shape: Shape, device: str, is_sparse: bool, triton_asked: None
) -> None:
    pairs = make_pairs(shape, device)
    inputs = leaves(*(strided(*s, dtype=torch.float32, device=device) for s in ((len(pairs.features),), shape[1:])))
    activations, W_dec = inputs
    ours = with_gradients(sparse_decode(activations, pairs, W_dec, has_sparse_gradient=is_sparse), inputs)
    expected = with_gradients(sparse_decode_reference(activations, pairs, W_dec), inputs)
    for got, wanted in zip(ours, expected, strict=True):
        close(got.to_dense(), wanted, longest_sum(shape))


@on_cpu_and_gpu
@either_gradient
@every_shape
def test_triton_sparse_encode_agrees_in_every_gradient(
    shape: Shape, device: str, is_sparse: bool, triton_asked: None
) -> None:
    pairs = make_pairs(shape, device)
    sizes = (len(shape.counts), shape.d), (shape.n_features, shape.d), (shape.n_features,)
    inputs = leaves(*(strided(*size, dtype=torch.float32, device=device) for size in sizes))
    x, W_enc, b_enc = inputs
    ours = with_gradients(sparse_encode(x, pairs, W_enc, b_enc, has_sparse_gradient=is_sparse), inputs)
    expected = with_gradients(sparse_encode_reference(x, pairs, W_enc, b_enc), inputs)
    for got, wanted in zip(ours, expected, strict=True):
        close(got.to_dense(), wanted, longest_sum(shape))
