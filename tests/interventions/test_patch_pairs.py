"""Patching many pairs of prompts: means over pairs, their intervals, and tokens at other places."""

import numpy as np
import pytest
import torch
from tiny import PROMPT, make_model, make_transcoders

import attrgraph as ag
from attrgraph.errors import InterventionError, PromptError
from attrgraph.models.language_model import LanguageModel

METRIC = ag.LogitDifference(4, 9)
CLEAN = [list(PROMPT), [1, 3, 9, 27, 31, 43, 29, 37, 11], [1, 5, 6, 8, 13, 21, 34, 5, 39]]
CORRUPT = [[*one[:3], 40 + number, *one[4:]] for number, one in enumerate(CLEAN)]


@pytest.fixture
def model() -> LanguageModel:
    model = make_model("llama", dtype=torch.float64)
    model.transcoders = make_transcoders(dtype=torch.float64)
    return model


@pytest.mark.parametrize("method", ["exact", "attribution", "ig"])
def test_effects_are_means_of_those_of_each_pair(model: LanguageModel, method: str) -> None:
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method=method).set_index("node")
    assert table.index.is_unique
    alone = [ag.patch(model, a, b, metric=METRIC, method=method) for a, b in zip(CLEAN, CORRUPT, strict=True)]
    for one in alone:  # tokens differ
        is_embedding = one["kind"] == "embedding"
        one.loc[is_embedding, "node"] = "embedding@" + one.loc[is_embedding, "pos"].astype(str)
    tables = [one.set_index("node")["effect"] for one in alone]
    assert set(table.index) == set().union(*(one.index for one in tables))
    by_pair = np.array([[one.get(node, 0.0) for node in table.index] for one in tables])
    np.testing.assert_allclose(table["effect"], by_pair.mean(0), atol=1e-9)
    np.testing.assert_array_equal(table["n_changed"], (by_pair != 0).sum(0))
    # with three pairs, the extremes of resampled means are a pair three times, at 1 / 27 above the percentiles
    np.testing.assert_allclose(table["low"], by_pair.min(0), atol=1e-9)
    np.testing.assert_allclose(table["high"], by_pair.max(0), atol=1e-9)
    assert table.attrs["n_pairs"] == 3
    assert table.attrs["total_effect"] == pytest.approx(np.mean([one.attrs["total_effect"] for one in alone]))
    assert [one["metric"] for one in table.attrs["pairs"]] == ["logit '<4>' - '<9>'"] * 3
    kinds = list(dict.fromkeys(table["kind"]))
    assert kinds == ["feature", "error", "head", "attn", "mlp", "resid", "embedding"]


def test_the_interval_is_that_of_a_mean(model: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.cat([torch.ones(24, 1), torch.randint(2, 50, (24, 5), generator=generator)], 1).long()
    corrupt = clean.clone()
    corrupt[:, 3] = 2 + (clean[:, 3] + 5) % 48
    table = ag.patch(model, clean, corrupt, nodes="resid", metric=METRIC).set_index("node")
    row = table.loc["resid:3@5"]
    totals = [pair["total_effect"] for pair in table.attrs["pairs"]]
    error = np.std(totals) / len(totals) ** 0.5
    assert row["effect"] == pytest.approx(np.mean(totals))
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_each_pair_may_have_a_metric_of_its_own(model: LanguageModel) -> None:
    metrics = [METRIC, ag.LogProbability(3), ag.KLDivergence()]
    table = ag.patch(model, CLEAN, CORRUPT, nodes="mlp", metric=metrics)
    alone = [ag.patch(model, *one, nodes="mlp", metric=m) for *one, m in zip(CLEAN, CORRUPT, metrics, strict=True)]
    np.testing.assert_allclose(table["effect"], np.mean([one["effect"] for one in alone], axis=0), atol=1e-12)


def test_named_tokens_are_the_same_wherever_they_are(model: LanguageModel) -> None:
    longer = [[1, 17, *CLEAN[1][1:]], [1, 17, *CORRUPT[1][1:]]]
    positions = [{"changed": (3, 3), "end": (-1, -1)}, {"changed": (4, 4), "end": (-1, -1)}]
    how = {"nodes": ["head", "embedding", "feature"], "metric": METRIC}
    table = ag.patch(model, [CLEAN[0], longer[0]], [CORRUPT[0], longer[1]], positions=positions, **how)
    alone = [
        ag.patch(model, CLEAN[0], CORRUPT[0], positions=positions[0], **how).set_index("node")["effect"],
        ag.patch(model, *longer, positions=positions[1], **how).set_index("node")["effect"],
    ]
    rows = table.set_index("node")
    assert rows["effect"]["head:1.2@end"] == pytest.approx((alone[0]["head:1.2@8"] + alone[1]["head:1.2@9"]) / 2)
    assert rows["effect"]["embedding@changed"] == pytest.approx((alone[0]["E_33_3"] + alone[1]["E_27_4"]) / 2)
    feature = next(node for node in alone[0].index if node.startswith("1_") and node.endswith("_8"))
    other = feature.removesuffix("8") + "9"
    name = feature.replace("_", "/", 1).replace("_8", "@end")
    assert rows["effect"][name] == pytest.approx((alone[0][feature] + alone[1].get(other, 0.0)) / 2)
    assert (rows["pos"] == -1).all()


def test_the_best_of_a_mean_estimate_are_measured_in_every_pair(model: LanguageModel) -> None:
    exact = ag.patch(model, CLEAN, CORRUPT, metric=METRIC).set_index("node")
    refined = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method="attribution", refine=20).set_index("node")
    is_exact = refined["is_exact"]
    assert is_exact.sum() == 20
    assert set(refined.index[is_exact]) == set(refined["estimate"].abs().nlargest(20).index)
    for name in ("effect", "low", "high"):
        np.testing.assert_allclose(refined.loc[is_exact, name], exact[name][refined.index[is_exact]], atol=1e-6)


@pytest.mark.refusal
def test_what_are_no_pairs_is_refused(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="3 clean prompts and 2 corrupt ones; expected pairs"):
        ag.patch(model, CLEAN, CORRUPT[:2])
    with pytest.raises(PromptError, match="3 clean prompts and 1 corrupt ones"):
        ag.patch(model, CLEAN, CORRUPT[0])
    with pytest.raises(InterventionError, match="metric has 2 for 3 pair"):
        ag.patch(model, CLEAN, CORRUPT, metric=[METRIC, METRIC])
    with pytest.raises(PromptError, match=r"the first clean prompt has 9 tokens, that of pair 1 .* 8"):
        ag.patch(model, [CLEAN[0], CLEAN[1][:-1]], [CORRUPT[0], CORRUPT[1][:-1]], metric=METRIC)
    with pytest.raises(PromptError, match="lack names, or have others: end, start"):
        places = [{"end": (-1, -1)}, {"start": (0, 0)}]
        ag.patch(model, CLEAN[:2], CORRUPT[:2], metric=METRIC, positions=places)
