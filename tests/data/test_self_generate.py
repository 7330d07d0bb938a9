"""Samples of the model: from its own distribution, repeatable, and without a trace elsewhere."""

import math

import pytest
import torch
from tiny import BOS, D_VOCAB, make_model

import attrgraph as ag
from attrgraph.data.self_generate import self_generate
from attrgraph.errors import CorpusError, ResultError
from attrgraph.models.language_model import LanguageModel


def probabilities_after(model: LanguageModel, token_ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.hf_model(input_ids=torch.tensor([token_ids])).logits[0, -1].softmax(-1)


def ids(model: LanguageModel, n_tokens: int = 100, **settings: object) -> list[list[int]]:
    return [row.tolist() for row in self_generate(model, n_tokens, **settings).rows]


def test_the_narrowest_nucleus_follows_the_most_probable_tokens(family: str) -> None:
    """Also that keys and values kept from step to step say what the whole prefix says, sliding windows included."""
    model = make_model(family)
    (row,) = ids(model, 1, top_p=1e-6, batch_size=1, length=20)
    assert len(row) > 4
    for end in range(1, len(row)):
        assert row[end] == int(probabilities_after(model, row[:end]).argmax())


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_tokens_come_with_the_models_probabilities(top_p: float) -> None:
    model, n_samples = make_model("llama"), 4000
    expected = probabilities_after(model, [BOS])
    ranked = expected.sort(descending=True)
    is_in_nucleus = ranked.values.cumsum(0) - ranked.values < top_p
    expected[ranked.indices[~is_in_nucleus]] = 0
    expected[BOS] = 0  # it would end the sample at its beginning, which is then no sample
    expected /= expected.sum()
    settings = {"top_p": top_p, "length": 2, "batch_size": 500}
    counts = torch.bincount(torch.tensor(ids(model, n_samples, **settings))[:, 1], minlength=D_VOCAB)
    assert int(counts.sum()) == n_samples
    assert not counts[expected == 0].any()
    # four standard deviations of a binomial count, plus one for rare tokens
    bounds = 4 * (n_samples * expected * (1 - expected)).sqrt() + 1
    assert ((counts - n_samples * expected).abs() <= bounds).all()


def test_the_same_seed_gives_the_same_rows() -> None:
    model = make_model("gpt2")
    first = self_generate(model, 500, seed=3)
    again = self_generate(model, 500, seed=3)
    assert [row.tolist() for row in first.rows] == [row.tolist() for row in again.rows]
    assert first.sources == again.sources == {"self-generated": first.digest()}
    assert first.digest() != self_generate(model, 500, seed=4).digest()


def test_rows_do_not_depend_on_pytorchs_default_type() -> None:
    model = make_model("gpt2")
    expected = ids(model)
    torch.set_default_dtype(torch.float64)
    try:
        assert ids(model) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_more_tokens_continue_the_same_rows() -> None:
    model = make_model("llama")
    few, many = ids(model, 50, batch_size=4, length=8), ids(model, 200, batch_size=4, length=8)
    assert many[: len(few)] == few and len(many) > len(few)


def test_the_global_random_state_and_the_model_stay_as_they_were() -> None:
    model = make_model("llama")
    state = torch.get_rng_state()
    self_generate(model, 100)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    one = ids(model)
    torch.manual_seed(8)
    assert ids(model) == one
    assert not model.hf_model.training and not any(m._forward_hooks for m in model.hf_model.modules())


def test_each_sample_is_a_document_that_begins_with_bos() -> None:
    rows = self_generate(make_model("llama"), 300, length=10, batch_size=8)
    assert rows.document == list(range(len(rows.rows)))
    assert all(row[0] == BOS and BOS not in row[1:] and 2 <= len(row) <= 10 for row in rows.rows)
    assert all(row.dtype == torch.int64 for row in rows.rows)
    assert 300 <= rows.n_tokens < 300 + 9  # no more samples than are needed


def test_a_sample_ends_before_eos() -> None:
    model = make_model("llama")
    free = ids(model, 2000)
    model.hf_model.generation_config.eos_token_id = [7, 9]
    bound = ids(model, 2000)
    assert not {7, 9} & {token for row in bound for token in row}
    # the batch draws the same numbers until all of its samples are over
    assert bound[0] == free[0][: len(bound[0])] and any(len(row) < model.n_context for row in bound)


def test_the_models_generation_settings_do_not_bend_the_samples() -> None:
    model = make_model("llama")
    before = ids(model)
    model.hf_model.generation_config.update(top_k=1, repetition_penalty=5.0, do_sample=True, max_length=3)
    assert ids(model) == before


def test_without_bos_a_sample_begins_with_any_token() -> None:
    model = make_model("llama")
    model.config.bos_token_id = None
    rows = self_generate(model, 600, length=3, batch_size=50)
    assert rows.n_tokens == sum(len(row) - 1 for row in rows.rows)
    assert len({int(row[0]) for row in rows.rows}) > D_VOCAB // 2


def test_the_shipped_demo_writes_words_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    model = ag.load_model("demo")
    rows = self_generate(model, 50, length=8)
    assert model.tokenizer.decode(rows.rows[0][1:]).split()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_sampled_too(dtype: torch.dtype) -> None:
    assert self_generate(make_model("qwen3", dtype=dtype), 40, length=6).n_tokens >= 40


def test_length_of_models_with_long_contexts_is_bounded() -> None:
    model = make_model("llama")
    model.config.max_position_embeddings = 100_000
    rows = self_generate(model, 1, batch_size=1, top_p=1e-6)
    assert max(len(row) for row in rows.rows) <= 512


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "length is 1; expected 2 to 64, the model's context"),
        ({"length": 65}, "length is 65"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"batch_size": 0}, "batch_size 0; expected at least 1"),
        ({"top_p": 0.0}, r"top_p is 0\.0; expected above 0 and at most 1"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        self_generate(make_model("llama"), **({"n_tokens": 10} | settings))


@pytest.mark.refusal
def test_models_that_write_nothing_are_refused() -> None:
    model = make_model("llama")
    model.hf_model.generation_config.eos_token_id = list(range(D_VOCAB))
    with pytest.raises(CorpusError, match=r"ended all of \d+ samples at their first token"):
        self_generate(model, 10)


@pytest.mark.refusal
def test_logits_that_are_not_finite_are_refused() -> None:
    model = make_model("llama")
    model.hf_model.lm_head.weight.data[3] = math.nan
    with pytest.raises(ResultError, match="logits are not finite"):
        self_generate(model, 10)
