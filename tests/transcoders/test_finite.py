"""Overflow is called overflow, and weights that hold NaN are called that."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.data.activations import activations_of, pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.data.self_generate import self_generate
from attrgraph.errors import ResultError
from attrgraph.transcoders import Transcoders

pytestmark = pytest.mark.refusal
ROW = torch.tensor([1, 7, 8, 9, 10, 11, 12])


def changed(name: str, value: float) -> Transcoders:
    """A set with one tensor full of one value."""
    whole = make_transcoders()
    tensor = getattr(whole.layers[0], name).clone()
    tensor[:] = value
    return Transcoders([replace(whole.layers[0], **{name: tensor}), *whole.layers[1:]], whole.config)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("W_enc", math.nan, "pre-activations of layer 0 .* the transcoder's weights hold NaN"),
        ("b_enc", math.inf, "pre-activations of layer 0 .* the transcoder's weights hold NaN or infinite"),
        ("W_enc", 3e38, "pre-activations of layer 0 .* numbers overflow in float32; use dtype float64"),
        ("W_dec", math.nan, "decoder rows of layer 0 .* weights hold NaN"),
    ],
)
def test_transcoders(name: str, value: float, said: str) -> None:
    model = make_model("gpt2")
    model.transcoders = changed(name, value)
    with pytest.raises(ResultError, match=said) as found:
        ag.trace(model, ROW)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("how", ["run", "sample", "activations"])
def test_models(how: str) -> None:
    model = make_model("llama", dtype=torch.float16)
    use = {
        "run": lambda: model.run(ROW),
        "sample": lambda: self_generate(model, 20),
        "activations": lambda: activations_of(model, pad_rows(model, [ROW])),
    }[how]
    weight = model.hf_model.get_parameter("model.layers.1.mlp.down_proj.weight")
    weight *= 6e4 / weight.abs().max()
    with pytest.raises(ResultError, match="numbers overflow in float16; use dtype bfloat16 or float32"):
        use()
    weight[0, 0] = math.nan
    with pytest.raises(ResultError, match="the model's weights hold NaN"):
        use()


def test_evaluation_says_which() -> None:
    model = make_model("gpt2")
    rows = TokenRows([ROW], [0], {})
    with pytest.raises(ResultError, match=r"decoder rows of layer 0 .* the transcoder's weights hold NaN"):
        ag.evaluate(model, changed("W_dec", math.nan), rows, n_graphs=0)
