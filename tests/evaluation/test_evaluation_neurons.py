"""The baseline of an evaluation: the model's own best neurons."""

import pytest
import torch
from texts import make_rows, read_and_written
from tiny import N_LAYERS, make_model, make_transcoders
from torch import Tensor

from attrgraph.evaluation import compare, evaluate, neuron_baseline


def test_all_neurons_lose_nothing(family: str) -> None:
    model, rows = make_model(family), make_rows()
    everything = neuron_baseline(model, [1e9] * N_LAYERS, rows)
    found = evaluate(model, everything, rows)
    assert found.nmse == pytest.approx(0, abs=1e-10)
    assert found.l0 == sum(everything.n_units)
    assert found.top1_agreement == 1
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.ce_recovered == pytest.approx(1, abs=1e-4)
    assert found.graphs.n == 0


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "llama"])
def test_the_best_neurons_are_kept_and_the_others_held_at_their_means(name: str) -> None:
    model, rows = make_model(name), make_rows()
    activations: list[Tensor] = []
    last = model.layer_modules()[1].mlp.c_proj if name == "gpt2" else model.layer_modules()[1].mlp.down_proj
    handle = last.register_forward_pre_hook(lambda _, args: activations.append(args[0][0, 1:]))
    for row in rows.rows:
        model.hf_model(row[None])
    handle.remove()
    a = torch.cat(activations)
    weight = last.weight.T if name != "gpt2" else last.weight  # [n_neurons, d_model]
    mean = a.mean(0)
    kept = mean.repeat(len(a), 1)
    for token in range(len(a)):
        scores = [abs(float(a[token, i] - mean[i])) * float(weight[i].norm()) for i in range(a.shape[1])]
        for i in sorted(range(a.shape[1]), key=lambda i: -scores[i])[:4]:
            kept[token, i] = a[token, i]
    out = kept @ weight + (0 if last.bias is None else last.bias)
    if name == "gemma2":
        out = model.layer_modules()[1].post_feedforward_layernorm(out)
    _, writes = read_and_written(model, rows)
    y = writes[1].double()
    nmse = (y - out).square().sum() / (y - y.mean(0)).square().sum()
    found = evaluate(model, neuron_baseline(model, [0.2, 4.4, 5.0], rows), rows)
    assert found.transcoders["n_kept"] == [1, 4, 5]
    assert [layer.l0 for layer in found.per_layer] == [1, 4, 5]
    assert found.per_layer[1].nmse == pytest.approx(float(nmse), rel=1e-4)


def test_neurons_in_place_leave_other_tokens_alone() -> None:
    model, rows = make_model("gemma2"), make_rows((9,))
    neurons = neuron_baseline(model, [1.0] * N_LAYERS, rows)
    chosen = torch.zeros(1, 9, dtype=torch.bool)
    chosen[0, 5] = True
    true = model.hf_model(rows.rows[0][None]).logits
    with neurons.in_place(chosen):
        changed = model.hf_model(rows.rows[0][None]).logits
    assert torch.equal(true[:, :5], changed[:, :5])
    assert not torch.allclose(true[:, 5], changed[:, 5])
    assert torch.equal(true, model.hf_model(rows.rows[0][None]).logits)


def test_more_neurons_are_better() -> None:
    model, rows = make_model("qwen2"), make_rows()
    errors = [evaluate(model, neuron_baseline(model, [k] * N_LAYERS, rows), rows).nmse for k in (1.0, 5.0, 15.0, 30.0)]
    assert errors == sorted(errors, reverse=True)


def test_compare_gives_neurons_the_first_sets_active_counts() -> None:
    model, rows = make_model("llama"), make_rows()
    sets = {"topk": make_transcoders(activation="topk"), "relu": make_transcoders(cross_layer=False)}
    found = compare(model, sets, rows, n_graphs=0)
    assert list(found) == ["topk", "relu", "top-k neurons"]
    assert found["topk"].to_dict() == evaluate(model, sets["topk"], rows, n_graphs=0).to_dict()
    expected = [round(l0) for l0 in found["topk"].l0_by_layer]
    assert found["top-k neurons"].transcoders["n_kept"] == expected
    assert list(compare(model, sets, rows, n_graphs=0, with_neurons=False)) == ["topk", "relu"]
