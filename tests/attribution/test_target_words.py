"""Targets that are given as text: two tokens may be one word, and a word may be several tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from subwords import byte_level, sentencepiece, unigram, word_pieces
from tiny import FAMILY_CONFIGS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.target_words import token_id_of
from attrgraph.errors import TargetError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.viz.text import typed


def model_of_words() -> LanguageModel:
    """Its tokenizer's first tokens are the model's whole vocabulary; two of them are named as one word."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["Paris", " Paris"])
    model = LanguageModel(make_model("llama").hf_model, tokenizer)
    model.transcoders = make_transcoders()
    return model


def test_of_two_tokens_of_one_word_the_more_probable_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of_words()
    plain, spaced = model.d_vocab - 2, model.d_vocab - 1
    ids = {"Paris": [plain], " Paris": [spaced]}
    monkeypatch.setattr(model.tokenizer, "encode", lambda text, **_: ids.get(text, [5, 6]))
    names = {plain: "Paris", spaced: " Paris"}
    monkeypatch.setattr(LanguageModel, "token_text", lambda self, token_id: names.get(token_id, f"<{token_id}>"))
    logits = model.run(torch.tensor([5, 6, 7])).logits
    likelier = max((plain, spaced), key=lambda token_id: float(logits[token_id]))
    graph = ag.trace(model, [5, 6, 7], targets="Paris")
    assert graph.nodes.query("kind == 'logit'")["feature"].tolist() == [likelier]
    (note,) = graph.metadata["notes"]
    assert note.startswith(f"target 'Paris' is {names[likelier]!r} (") and "more probable than" in note
    # with its space written, there is nothing to choose
    graph = ag.trace(model, [5, 6, 7], targets=" Paris")
    assert graph.nodes.query("kind == 'logit'")["feature"].tolist() == [spaced] and "notes" not in graph.metadata
    for targets in (["Paris is", "Paris"], ag.At(1, "Paris is"), ag.LogitDifference("Paris", "Paris is")):
        with pytest.raises(
            TargetError, match=r"target 'Paris is' is not one token but 2: '<5>', '<6>'; explain the fir"
        ):
            ag.trace(model, [5, 6, 7], targets=targets)


@pytest.mark.parametrize("make", [sentencepiece, word_pieces])
def test_a_word_is_looked_for_in_the_vocabulary_too(make: Callable[[], Any]) -> None:
    """What these tokenizers make of a text alone has a space in front, whatever else the vocabulary has."""
    kind, config = FAMILY_CONFIGS["llama"]
    model = LanguageModel(create_hf_model(kind, seed=0, **config | {"vocab_size": 500}), make())
    word = next(text for i in range(5, 400) if (text := model.token_text(i)).isalpha() and _has(model, f" {text}"))
    plain, spaced = (next(i for i in range(500) if model.token_text(i) == text) for text in (word, f" {word}"))
    logits = torch.zeros(500)
    for likelier in (plain, spaced):
        logits[likelier] = logits.max() + 1
        assert token_id_of(model, word, logits) == likelier
    assert token_id_of(model, f" {word}", logits) == spaced
    assert token_id_of(model, r"\n") == token_id_of(model, "\n") if make is sentencepiece else True


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram, word_pieces])
def test_what_is_printed_can_be_given_back(make: Callable[[], Any]) -> None:
    """Also where a vocabulary has both a line break and a backslash with an n, which are printed alike."""
    tokenizer = make()
    if make is byte_level:
        tokenizer.add_tokens([r"\n", " ", "   ", "\n  ", "  odd", r"\t"])
    model = _model_with(tokenizer)
    for token_id in range(len(tokenizer)):
        logits = torch.zeros(len(tokenizer))
        logits[token_id] = 1
        printed = typed(model.token_text(token_id))
        assert printed and token_id_of(model, printed, logits) == token_id, printed


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram, word_pieces])
def test_only_one_space_in_front_of_a_word_may_be_another(make: Callable[[], Any]) -> None:
    model = _model_with(make())
    word = next(
        text for i in range(4, model.d_vocab) if (text := model.token_text(i).strip()).isalpha() and text.isascii()
    )
    assert model.token_text(token_id_of(model, word)).strip() == word
    for wrong in (f"\n{word}", f"\t{word}", f"  {word}", f"{word}\n"):
        with pytest.raises(TargetError, match="is not "):
            token_id_of(model, wrong)


@pytest.mark.refusal
@pytest.mark.parametrize("text", ["", "ab" * 3_000, "ab" * 50_000])
def test_no_text_and_a_long_one_are_refused_in_a_short_line(text: str) -> None:
    model = _model_with(byte_level())
    model.transcoders = make_transcoders()
    for targets in (text, ag.LogitDifference("a", text)):
        with pytest.raises(TargetError, match=f"a target has {len(text)} characters|is not one token but") as found:
            ag.trace(model, [5, 6, 7], targets=targets)
        assert len(str(found.value)) < 300


def test_which_of_two_tokens_that_are_printed_alike_was_taken_is_said() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([r"\n"])
    model = _model_with(tokenizer)
    model.transcoders = make_transcoders()
    graph = ag.trace(model, [5, 6, 7], targets=r"\n")
    (note,) = graph.metadata["notes"]
    both = [f"{text!r} (" for text in ("\n", r"\n")]
    assert note.startswith(r"target '\\n' is ") and all(one in note for one in both)


def _model_with(tokenizer: Any) -> LanguageModel:
    kind, config = FAMILY_CONFIGS["llama"]
    hf_model = create_hf_model(kind, seed=0, **config | {"vocab_size": len(tokenizer)})
    return LanguageModel(hf_model.requires_grad_(False), tokenizer)


def _has(model: LanguageModel, text: str) -> bool:
    return any(model.token_text(i) == text for i in range(500))
