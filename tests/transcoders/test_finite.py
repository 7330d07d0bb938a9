"""Overflow is called overflow, and weights that hold NaN are called that."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.data.activations import activations_of, pad_rows
from attrgraph.data.corpus import TokenRows
from attrgraph.data.self_generate import self_generate
from attrgraph.errors import ResultError, TranscoderError
from attrgraph.transcoders import Transcoders

pytestmark = pytest.mark.refusal
ROW = torch.tensor([1, 7, 8, 9, 10, 11, 12])


def changed(name: str, value: float) -> Transcoders:
    """A set with one tensor full of one value."""
    whole = make_transcoders(skip=name == "W_skip")
    tensor = getattr(whole.layers[0], name).clone()
    tensor[:] = value
    return Transcoders([replace(whole.layers[0], **{name: tensor}), *whole.layers[1:]], whole.config)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "W_enc",
            math.nan,
            r"pre-activations of layer 0 .* the transcoder's weights hold NaN .*\(W_enc of feature 0\)",
        ),
        ("b_enc", math.inf, "pre-activations of layer 0 .* the transcoder's weights hold NaN or infinite"),
        ("W_enc", 3e38, "pre-activations of layer 0 .* numbers overflow in float32; use dtype float64"),
        ("W_dec", math.nan, "decoder rows of layer 0 .* weights hold NaN"),
        (
            "W_skip",
            math.inf,
            r"linear skip of layer 0 .* the transcoder's weights hold NaN or infinite values \(W_skip\)",
        ),
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
    with pytest.raises(
        ResultError, match=r"the model's weights hold NaN .*\(model\.layers\.1\.mlp\.down_proj\.weight\)"
    ):
        use()


def test_evaluation_says_which() -> None:
    model = make_model("gpt2")
    rows = TokenRows([ROW], [0], {})
    with pytest.raises(ResultError, match=r"decoder rows of layer 0 .* the transcoder's weights hold NaN"):
        ag.evaluate(model, changed("W_dec", math.nan), rows, n_graphs=0)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_folder_with_such_weights_is_refused_on_opening(name: str, value: float, tmp_path: Path) -> None:
    whole = make_transcoders(activation="jumprelu", skip=True, cross_layer=False)
    tensor = getattr(whole.layers[1], name)
    tensor[(3, *[0] * (tensor.ndim - 1))] = value
    ag.save_transcoders(whole, tmp_path / "set")
    where = f"{name} of feature 3" if name in ("W_enc", "b_enc", "W_dec", "threshold") else name
    with pytest.raises(TranscoderError, match=f"layer 1: {where} holds NaN or infinite values; copy or download"):
        ag.load_transcoders(tmp_path / "set")
    with pytest.raises(TranscoderError, match=f"layer 1: {where} holds NaN"):
        ag.convert_transcoders(tmp_path / "set", tmp_path / "ours")


def test_of_a_set_that_is_not_read_on_opening_the_row_that_is_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clean = make_model("gpt2"), make_transcoders(cross_layer=False)
    model.transcoders = clean
    features = ag.trace(model, ROW).nodes.query("kind == 'feature' and layer == 1")["feature"]
    active, passive = int(features.max()), min({*range(clean.n_features[1])} - {*features})
    monkeypatch.setattr("attrgraph.transcoders.folder.MOST_WHOLE_BYTES", 0)
    for feature in (passive, active):
        clean.layers[1].W_dec[feature, 0, 0] = math.nan
        ag.save_transcoders(clean, tmp_path / "set")
        model.transcoders = ag.load_transcoders(tmp_path / "set")
        if feature == passive:
            ag.trace(model, ROW)
            clean.layers[1].W_dec[feature, 0, 0] = 0
    with pytest.raises(ResultError, match=rf"decoder rows of layer 1 .*\(W_dec of feature {active}\)"):
        ag.trace(model, ROW)
