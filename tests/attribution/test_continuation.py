"""An answer of several tokens: the prompt goes on with it, and each token is explained where it comes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from subwords import byte_level, sentencepiece, unigram, word_pieces
from tiny import FAMILY_CONFIGS, make_transcoders

import attrgraph as ag
from attrgraph.attribution.continuation import continued
from attrgraph.errors import TargetError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel


def model_with(tokenizer: Any, family: str = "llama") -> LanguageModel:
    kind, config = FAMILY_CONFIGS[family]
    hf_model = create_hf_model(kind, seed=0, **config | {"vocab_size": len(tokenizer)})
    return LanguageModel(hf_model.requires_grad_(False), tokenizer, transcoders=make_transcoders())


def test_every_token_of_an_answer_is_a_target_where_it_comes() -> None:
    model = model_with(byte_level(), "gemma2")
    prompt, answer = [5, 6, 7], " zq zq"
    graph = ag.trace(model, prompt, targets=answer, prepend="none")
    tokens = graph.metadata["answer"]["token_ids"]
    assert len(tokens) > 2 and "".join(map(model.token_text, tokens)) == answer
    run = [*prompt, *tokens[:-1]]
    assert graph.metadata["token_ids"] == run and len(graph.prompt_tokens) == len(run)
    nodes = graph.nodes[graph.nodes["kind"] == "logit"]
    assert nodes["feature"].tolist() == tokens and nodes["pos"].tolist() == list(range(2, 2 + len(tokens)))
    with torch.no_grad():
        shares = model.hf_model(input_ids=torch.tensor([run])).logits[0].double().softmax(-1)
    each = [float(shares[2 + i, token]) for i, token in enumerate(tokens)]
    np.testing.assert_allclose(nodes["probability"], each, rtol=1e-4)
    assert graph.metadata["answer"]["probability"] == pytest.approx(np.prod(each), rel=1e-4)
    assert graph.metadata["answer"]["text"] == answer
    assert graph.metadata["answer"]["appended"] == model.text_of(tokens[:-1])
    assert "was put after the prompt" in graph.metadata["notes"][0]
    # each row is that of the token as the only target after a prompt that ends there
    for i, token in enumerate(tokens):
        alone = ag.trace(model, run[: 3 + i], targets=[token], prepend="none", skip_positions=[0])
        row = alone.adjacency[np.flatnonzero(alone.nodes["kind"] == "logit")].toarray()[0]
        whole = ag.trace(model, prompt, targets=[answer], prepend="none", skip_positions=[0])
        theirs = whole.adjacency[[whole.nodes.index.get_loc(nodes.index[i])]].toarray()[0]
        at = whole.nodes.index.get_indexer(alone.nodes.index)
        np.testing.assert_allclose(row, theirs[at], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram, word_pieces])
def test_an_answers_tokens_are_its_text(make: Callable[[], Any]) -> None:
    """With its space in front, which some tokenizers write themselves."""
    model = model_with(make())
    words = [model.token_text(i) for i in range(5, model.d_vocab)]
    known = [word.strip() for word in words if word.strip().isalpha() and word.strip().isascii()][-2:]
    text = f" {known[0]} {known[1]}"
    asked = continued(model, [5, 6], text, "none")
    assert "".join(map(model.token_text, asked.answer)) == text
    assert asked.prompt == [5, 6, *asked.answer[:-1]]
    assert [at.target for at in asked.targets] == asked.answer and asked.targets[0].pos == 1


def test_one_token_and_lists_are_as_they_were() -> None:
    model = ag.load_model("demo")
    for targets in (None, "austin", ["austin", "springfield"], 45, [45], ["austin"], ag.At(-2, "dallas")):
        asked = continued(model, "in texas the capital is", targets, "auto")
        assert asked.prompt == "in texas the capital is" and asked.targets is targets and not asked.answer
    prompt = "in the state containing dallas"
    graph = ag.trace(model, prompt, targets="the capital is")
    nodes = graph.nodes.query("kind == 'logit'")
    assert [(one.token, one.pos) for one in nodes.itertuples()] == [("the", 5), ("capital", 6), ("is", 7)]
    assert graph.metadata["prompt"] == prompt and graph.metadata["answer"]["appended"] == "the capital"
    assert ag.estimate(model, prompt, targets="the capital is").n_nodes == len(graph.nodes)
    # the same as naming each token at its place in the whole text
    ids = graph.metadata["token_ids"]
    names = ["the", "capital", "is"]
    placed = ag.trace(model, ids, targets=[ag.At(len(ids) - 3 + i, name) for i, name in enumerate(names)])
    assert placed.nodes.equals(graph.nodes) and (placed.adjacency != graph.adjacency).nnz == 0


@pytest.mark.refusal
def test_answers_that_no_model_gives_are_refused() -> None:
    model = ag.load_model("demo")
    with pytest.raises(TargetError, match="target 'austin zebra' is not in the model's vocabulary"):
        ag.trace(model, "in texas the capital is", targets="austin zebra")
    n = model.n_context
    with pytest.raises(
        TargetError, match=rf"is not one token but {n}: with the prompt's 6 they are more than .* context"
    ):
        ag.trace(model, "in texas the capital is", targets=" ".join(["austin"] * n))
