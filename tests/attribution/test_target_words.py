"""Targets that are given as text: two tokens may be one word, and a word may be several tokens."""

import pytest
import torch
from subwords import byte_level
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.errors import TargetError
from attrgraph.models.language_model import LanguageModel


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
    with pytest.raises(TargetError, match=r"target 'Paris is' is not one token but 2: '<5>', '<6>'"):
        ag.trace(model, [5, 6, 7], targets="Paris is")
