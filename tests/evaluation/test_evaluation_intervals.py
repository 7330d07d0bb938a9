"""Intervals of an evaluation: a bootstrap over documents."""

from dataclasses import replace

import numpy as np
import pytest
from texts import make_rows
from tiny import D_MODEL, N_LAYERS, make_model, make_transcoders

from attrgraph.data.corpus import TokenRows
from attrgraph.evaluation import evaluate
from attrgraph.evaluation.statistics import interval, resample


def test_intervals_of_equal_documents_have_no_width() -> None:
    model, row = make_model("llama"), make_rows((12,)).rows[0]
    rows = TokenRows([row] * 6, list(range(6)), {})
    found = evaluate(model, make_transcoders(), rows, n_graphs=3)
    values = found.headline() | {"graph_replacement": found.graphs.replacement}
    for name in ("nmse", "l0", "top1_agreement", "kl", "ce_recovered", "graph_replacement"):
        # float32 activations of equal rows differ by rounding if they lie in different places of a batch
        assert found.intervals[name] == pytest.approx((values[name], values[name]), rel=1e-5), name


def test_intervals_hold_the_value_and_depend_on_the_seed_alone() -> None:
    model, transcoders, rows = make_model("gpt2"), make_transcoders(), make_rows((8,) * 20)
    first, again, other = (evaluate(model, transcoders, rows, n_graphs=0, seed=seed) for seed in (0, 0, 1))
    for name in ("nmse", "l0", "top1_agreement", "kl", "ce_recovered"):
        low, high = first.intervals[name]
        assert low < first.headline()[name] < high
    assert first.to_dict() == again.to_dict()
    assert first.headline() == other.headline()
    assert first.intervals != other.intervals


def test_resampled_measures_are_those_of_the_documents_drawn() -> None:
    """A resample of two documents is one twice, the other twice, or both: the three values that can come out."""
    model, transcoders, rows = make_model("llama"), make_transcoders(), make_rows((9, 13))
    both = evaluate(model, transcoders, rows, n_graphs=0)
    single = [evaluate(model, transcoders, TokenRows([row], [0], {}), n_graphs=0) for row in rows.rows]
    for name in ("kl", "l0", "top1_agreement"):
        expected = sorted(one.headline()[name] for one in single)
        assert both.intervals[name] == pytest.approx(expected, rel=1e-4)
    assert set(single[0].intervals.values()) == {None}


def test_rows_of_one_document_are_drawn_together() -> None:
    model, transcoders = make_model("llama"), make_transcoders()
    rows = replace(make_rows((9, 13, 5)), document=[0, 0, 0])
    found = evaluate(model, transcoders, rows, n_graphs=5)
    assert (found.n_documents, found.graphs.n) == (1, 1)
    assert set(found.intervals.values()) == {None}
    apart = evaluate(model, transcoders, make_rows((9, 13, 5)), n_graphs=0)
    assert found.headline() == pytest.approx(apart.headline(), rel=1e-6)


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(size=400)
    sums = resample({"x": values, "n": np.ones(400)}, n_resamples=4000, seed=0)
    low, high = interval(sums["x"] / sums["n"])
    half = 1.96 * values.std() / 20
    # 4000 resamples know a percentile of the normal distribution to 4% of its standard deviation
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert interval(np.array([1.0, np.nan])) is None


def test_documents_share_blocks_where_their_sums_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = make_model("llama"), make_transcoders(), make_rows()
    whole = evaluate(model, transcoders, rows, n_graphs=0)
    monkeypatch.setattr("attrgraph.evaluation.statistics.MOST_BYTES_OF_SUMS", 3 * 8 * N_LAYERS * D_MODEL)
    blocked = evaluate(model, transcoders, rows, n_graphs=0)
    assert (whole.settings["n_blocks_of_documents"], blocked.settings["n_blocks_of_documents"]) == (7, 3)
    assert blocked.n_documents == whole.n_documents
    assert blocked.headline() == pytest.approx(whole.headline(), rel=1e-9)
