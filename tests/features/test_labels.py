"""What labels claim, against plain loops over the tokens, and what they are compared with."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from texts import make_rows
from tiny import N_FEATURES, make_model, make_transcoders

import attrgraph as ag
from attrgraph.data.corpus import TokenRows
from attrgraph.features.kept import token_priority
from attrgraph.features.labelling import Control, firings_of
from attrgraph.features.layer_statistics import N_JUDGED, LayerStatistics, Where
from attrgraph.features.rules import KINDS, PROMOTES, Found, Judged, Rule, judge, precise_rules
from attrgraph.features.sides import Text
from attrgraph.features.text_counts import ENDINGS, TextCounts
from attrgraph.transcoders import ActiveFeatures, Transcoders

N_VOCAB = 6


def random_text(n_rows: int = 60, n_tokens: int = 40) -> tuple[Text, TextCounts]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(N_VOCAB, (n_tokens,), generator=generator) for _ in range(n_rows)]
    text = Text.of(TokenRows(rows, list(range(n_rows)), {}))
    n = n_rows * n_tokens
    return text, TextCounts(text, np.ones(n, dtype=bool), np.zeros(n, dtype=np.int32), N_VOCAB)


def on_sides(text: Text, fires: np.ndarray) -> tuple[Found, Judged]:
    at = np.flatnonzero(fires)
    side = text.side[text.row_of(at)]
    found, judged = at[side == 0], at[side == 1]
    return Found(len(found), float(len(found)), found, np.ones(len(found))), Judged(
        len(judged), np.inf, judged, np.ones(len(judged))
    )


@pytest.mark.parametrize("kind", ENDINGS)
def test_endings_are_counted_as_by_a_loop(kind: str) -> None:
    text, counts = random_text(9, 12)
    n, seen = ENDINGS[kind], dict[tuple[int, ...], list[int]]()
    for token, last in enumerate(counts.at(kind, np.arange(len(text.token_ids)))):
        begin = text.begin[text.row_of(np.array([token]))[0]]
        ids = text.token_ids[max(token - n + 1, 0) : token + 1].tolist()
        if token - n + 1 < begin:
            assert last == -1
            continue
        assert counts.tokens_of(kind, int(last)) == ids
        seen.setdefault(tuple(ids), []).append(int(last))
    for values in seen.values():
        assert len(set(values)) == 1
        assert sum(int(counts.count(kind, side, values[:1])[0]) for side in range(2)) == len(values)


def test_a_feature_that_fires_after_two_tokens_is_named_by_both() -> None:
    text, counts = random_text()
    ids, is_first = text.token_ids, np.zeros(len(text.token_ids), dtype=bool)
    is_first[text.begin] = True
    fires = (ids == 2) & (np.roll(ids, 1) == 1) & ~is_first
    best = precise_rules(counts, *on_sides(text, fires), np.zeros(0, dtype=int))[0]
    assert (best.kind, [counts.tokens_of(best.kind, value) for value in best.values]) == ("last 2", [[1, 2]])
    assert (best.precision, best.recall, best.score) == (1, 1, 1) and best.n_right == best.n_claims


@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_judged_as_by_a_loop_over_the_tokens_that_are_drawn(kind: str) -> None:
    text, counts = random_text(30)
    rng = np.random.default_rng(1)
    fires, value = rng.random(len(text.token_ids)) < 0.3, rng.random(len(text.token_ids))
    priority = token_priority(np.arange(len(fires)))
    rule = Rule(kind, tuple(v for v in np.unique(counts.at(kind, np.flatnonzero(fires))).tolist() if v >= 0)[:3])
    for below in (np.inf, 0.4):
        sample = [i for i in range(len(fires)) if text.side[text.row_of(np.array([i]))[0]] == 1 and priority[i] < below]
        at = np.array([i for i in sample if fires[i]])
        found = judge(counts, rule, Judged(int(fires.sum()), below, at, value[at]))
        named = [i for i in sample if int(counts.at(kind, np.array([i]))[0]) in rule.values]
        n_right = sum(fires[i] for i in named)
        n_claims = len(at) if kind == PROMOTES else len(named)
        assert (found.n_right, found.n_claims) == (n_right, n_claims) and found.precision == n_right / n_claims
        recall = sum(value[i] for i in named if fires[i]) / value[at].sum()
        rejected = 1 - (len(named) - n_right) / (len(sample) - len(at))
        assert found.score == pytest.approx((recall + rejected) / 2)
        assert found.recall == pytest.approx(n_right / len(named) if kind == PROMOTES else recall)


def test_of_what_fires_often_everything_at_some_tokens_is_kept() -> None:
    """In the order and the parts in which a pass meets them, of more firings than are kept."""
    rng = np.random.default_rng(0)
    statistics, fired = LayerStatistics(0, np.arange(3)), dict[int, list[tuple[int, float]]]({0: [], 1: [], 2: []})
    for start in (4000, 0, 2000):
        number = np.arange(start, start + 2000)
        where = Where(number, number, number + 1, number, number % 2)
        active = rng.random((2000, 3)) < [0.5, 0.1, 0.02]
        pos, feature = active.nonzero()
        value = rng.random(len(pos)).astype(np.float32)
        columns = (torch.from_numpy(each) for each in (pos, feature, value))
        statistics.add(ActiveFeatures(torch.zeros(len(pos), dtype=torch.long), *columns), where)
        for at, one, how in zip(pos, feature, value, strict=True):
            if number[at] % 2:
                fired[int(one)].append((int(number[at]), float(how)))
    for (_, judged), (one, all_of_it) in zip(firings_of(statistics), fired.items(), strict=True):
        assert judged.n == len(all_of_it) and (judged.below == np.inf) == (one > 0 and judged.n <= N_JUDGED)
        below = [(at, how) for at, how in all_of_it if token_priority(np.array([at]))[0] < judged.below]
        assert dict(zip(judged.at.tolist(), judged.value.tolist(), strict=True)) == pytest.approx(dict(below))
        assert len(judged.at) >= min(judged.n, N_JUDGED - 1)


def test_what_a_feature_promotes_is_claimed_of_its_firings() -> None:
    text, counts = random_text()
    after = counts.at("next", np.arange(len(text.token_ids)))
    rng = np.random.default_rng(0)
    fires = np.isin(after, [3, 4]) & (rng.random(len(after)) < 0.2) | (rng.random(len(after)) < 0.01)
    found, judged = on_sides(text, fires)
    (rule,) = precise_rules(counts, found, judged, np.array([3, 4, 5]))
    assert rule.kind == "promotes" and {3, 4} <= set(rule.values)
    is_right = np.isin(after[judged.at], rule.values)
    others = np.setdiff1d(np.flatnonzero(text.side[text.row_of(np.arange(len(after)))] == 1), judged.at)
    assert rule.precision == pytest.approx(is_right.mean())
    assert rule.score == pytest.approx((is_right.mean() + 1 - np.isin(after[others], rule.values).mean()) / 2)
    # tokens that it promotes but that do not follow say nothing
    assert not precise_rules(counts, found, judged, np.array([0, 1]))


def test_a_label_is_compared_with_random_features_that_fire_as_often() -> None:
    n_firings = np.r_[np.full(100, 10), np.full(100, 1000)]
    scores = np.r_[np.linspace(0.8, 0.9, 100), np.full(100, 0.5)]
    control = Control(n_firings, {"tokens": scores, "says": np.full(200, 0.5)})
    rare, common = (control.of(Rule("token", (1,)), n) for n in (8, 1200))
    assert rare.interval[1] > 0.85 and common.interval == (0.5, 0.5)
    assert control.of(Rule("says", (1,)), 8).score == 0.5


@pytest.fixture
def alike() -> Transcoders:
    """Feature 5 of layer 0 reads what feature 3 reads, feature 7 of layer 1 writes what it writes into layers above."""
    transcoders = make_transcoders(cross_layer=False)
    first, second, *others = transcoders.layers
    W_enc, W_dec = first.W_enc.clone(), second.W_dec.clone()
    W_enc[5], W_dec[7] = 2 * W_enc[3], 3 * first.W_dec[3]
    layers = [replace(first, W_enc=W_enc), replace(second, W_dec=W_dec), *others]
    return Transcoders(layers, transcoders.config)


def test_a_feature_with_the_direction_of_one_that_has_a_label_is_called_like_it(alike: Transcoders) -> None:
    model, rows = make_model("llama"), make_rows((9, 30, 12))
    how: dict[str, Any] = {"transcoders": alike, "labels": {(0, 3): "mine"}}
    pages = ag.describe_features(model, rows, ["0/3", "0/5", "1/7", "1/8"], **how)
    assert [page["label"] for page in pages.values()] == [
        "mine",
        "reads like 0/3 (cosine 1.00): mine",
        "writes like 0/3 (cosine 1.00): mine",
        "",
    ]
    assert [page["label_source"] for page in pages.values()] == ["given", "like", "like", "none"]
    # a name is not what the text says, so nothing was measured of it
    assert pages["0/5"]["label_score"] is None and "not measured" in str(pages["0/5"])


def test_another_set_lends_its_labels(alike: Transcoders) -> None:
    model, rows = make_model("llama"), make_rows((9, 30, 12))
    other = Transcoders(alike.layers, alike.config, source={"id": "owner/theirs"}, labels={(0, 3): "theirs"})
    pages = ag.describe_features(model, rows, ["0/3", "2/1"], transcoders=alike, labels={}, like=other)
    assert pages["0/3"]["label"] == "reads like 0/3 of theirs (cosine 1.00): theirs"
    assert pages["2/1"]["label"] == "" and pages.card["like"]["id"] == "owner/theirs"
    with pytest.raises(ag.AttrGraphError, match="has no labels"):
        ag.describe_features(model, rows, ["0/3"], transcoders=alike, like=make_transcoders())


def test_every_label_stands_beside_its_controls() -> None:
    model, rows = make_model("gpt2"), make_rows((60,) * 60)
    pages = ag.describe_features(model, rows, transcoders=make_transcoders(activation="topk"))
    measured = [page for page in pages.values() if page["label_score"] is not None]
    assert len(pages) == 3 * N_FEATURES and measured
    for page in measured:
        controls = page["label_controls"]
        bound = max(controls["random_label"]["score"], controls["random_dictionary"]["interval"][1])
        is_certain = page["label_precision"] >= 0.8 and page["label_precision_interval"][0] >= 0.6
        foresees = page["label_recall"] >= 0.1 or page["label_rule"]["kind"] == PROMOTES
        is_above = page["label_interval"][0] > bound and foresees
        agrees = page["write_agreement"] >= 0.8
        assert page["label_control"] == bound and (is_above and is_certain and agrees) == bool(page["label"])
        assert ("no more like what the MLPs write there" in (page["label_fault"] or "")) == (
            is_above and is_certain and not agrees
        )
        assert bool(page["label"]) == (page["label_fault"] is None)
        assert page["label_interval"][0] <= page["label_score"] <= page["label_interval"][1]
        assert f"{controls['random_label']['score']:.2f}" in str(page)
