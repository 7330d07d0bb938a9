"""Pairs of a behaviour: what they are, that the demo answers them, and which tokenizers cannot hold them."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from subwords import byte_level
from tiny import make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import attrgraph as ag
from attrgraph.errors import PromptError, TargetError
from attrgraph.models.create import create_hf_model
from attrgraph.prompts.english import AGREEMENT, INDIRECT_OBJECTS, LASTED, TWO_HOPS
from attrgraph.prompts.prompt_pairs import PromptPair
from attrgraph.prompts.prompts_of import BEHAVIOURS

OF_THE_DEMO = ("ioi", "induction", "agreement", "two-hop")


@cache
def demo() -> ag.LanguageModel:
    return ag.load_model("demo")


@cache
def english(*, digits: bool = False) -> ag.LanguageModel:
    """A model whose tokens are the words of the English sentences, each with its space; a year is two tokens, or four.

    Made from the lists that the package draws from, so that words are tokens; not from how it draws.
    """
    from attrgraph.prompts import english as lists

    words = {word for value in vars(lists).values() if isinstance(value, tuple) for word in " ".join(value).split()}
    words |= {word for facts in TWO_HOPS.values() for pair in facts.items() for word in " ".join(pair).split()}
    words |= {f"{noun}s" for noun in lists.NOUNS}
    texts = [f" {word}" for word in words if word.isalpha()] * 5
    texts += [" ".join((*INDIRECT_OBJECTS, AGREEMENT, LASTED, *TWO_HOPS)).replace("{", " ").replace("}", " ")] * 5
    texts += [f"{i:02d}" for i in range(100)] * 50 + [f" {i}" for i in range(11, 20)] * 5000
    inner = Tokenizer(models.BPE())
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    inner.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), *parts]) if digits else parts[0]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    return tiny_with(PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>"))


def tiny_with(tokenizer: Any) -> ag.LanguageModel:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    hf_model = create_hf_model(
        "llama", seed=0, vocab_size=len(tokenizer), num_attention_heads=2, max_position_embeddings=128, **sizes
    )
    return ag.load_model(hf_model.requires_grad_(False), tokenizer=tokenizer)


def share_right(model: ag.LanguageModel, pairs: list[PromptPair], *, of_twins: bool = False) -> float:
    """Share of pairs whose most probable token is a right answer, or for the twin a wrong one."""
    right = 0
    for pair in pairs:
        ids, answers = (pair.corrupt, pair.wrong_answers) if of_twins else (pair.clean, pair.answers)
        right += int(model.hf_model(torch.tensor([ids])).logits[0, -1].argmax()) in answers
    return right / len(pairs)


@pytest.mark.parametrize("behaviour", OF_THE_DEMO)
def test_the_demo_answers_both_prompts_of_a_pair(behaviour: str) -> None:
    pairs = ag.prompts_of(behaviour, demo(), 50, seed=5)
    assert share_right(demo(), pairs) > 0.95
    assert share_right(demo(), pairs, of_twins=True) > 0.95


HELD = [(behaviour, language) for language in ("english", "digits") for behaviour in BEHAVIOURS]


@pytest.mark.parametrize(("behaviour", "language"), [*HELD, *((behaviour, "demo") for behaviour in OF_THE_DEMO)])
def test_pairs_are_of_one_length_and_their_texts_are_their_tokens(behaviour: str, language: str) -> None:
    model = demo() if language == "demo" else english(digits=language == "digits")
    pairs = ag.prompts_of(behaviour, model, 60, seed=3)
    assert len({(pair.clean, pair.corrupt) for pair in pairs}) == 60
    for pair in pairs:
        assert len(pair.clean) == len(pair.corrupt) and pair.clean != pair.corrupt
        assert pair.behaviour == behaviour and pair.clean[0] == model.bos_token_id
        assert pair.answers and pair.wrong_answers and not set(pair.answers) & set(pair.wrong_answers)
        assert [model.token_text(i) for i in pair.answers] == list(pair.answer_texts)
        assert [model.token_text(i) for i in pair.wrong_answers] == list(pair.wrong_texts)
        if behaviour != "induction":  # whose tokens need not be what a tokenizer makes of their text
            for ids, text in ((pair.clean, pair.clean_text), (pair.corrupt, pair.corrupt_text)):
                assert model.tokenize(text).tolist() == list(ids)


def test_a_seed_gives_the_same_pairs_and_fewer_are_the_first_of_more() -> None:
    for behaviour in OF_THE_DEMO:
        twenty = ag.prompts_of(behaviour, demo(), 20, seed=1)
        assert twenty == ag.prompts_of(behaviour, demo(), 20, seed=1)
        assert twenty[:7] == ag.prompts_of(behaviour, demo(), 7, seed=1)
        assert twenty != ag.prompts_of(behaviour, demo(), 20, seed=2)


@pytest.mark.parametrize("model", [english, demo])
def test_indirect_objects_are_the_name_that_is_said_once(model: Any) -> None:
    pairs = ag.prompts_of("ioi", model(), 80)
    assert len({pair.template for pair in pairs}) >= 6
    assert {pair.template[-4:] for pair in pairs} == {"ABBA", "BABA"}
    for pair in pairs:
        words, twin = (re.findall(r"\w+", text) for text in (pair.clean_text, pair.corrupt_text))
        ((answer,), (wrong,)) = pair.answer_texts, pair.wrong_texts
        assert (words.count(answer.strip()), words.count(wrong.strip())) == (1, 2)
        assert (twin.count(answer.strip()), twin.count(wrong.strip())) == (2, 1)
        names = [word for word in words if word in (answer.strip(), wrong.strip())]
        assert (names[1] == names[2]) == (pair.template[-4:] == "ABBA")


def test_lists_go_on_as_they_did_before() -> None:
    for pair in ag.prompts_of("induction", demo(), 50):
        for ids, answer in ((pair.clean, pair.answers[0]), (pair.corrupt, pair.wrong_answers[0])):
            assert ids[ids.index(ids[-1]) + 1] == answer
            assert ids.index(ids[-1]) < len(ids) - 1


@pytest.mark.parametrize("digits", [False, True])
def test_later_years_are_right(digits: bool) -> None:
    for pair in ag.prompts_of("greater-than", english(digits=digits), 50):
        century, year = re.findall(r"(\d\d)(\d\d)", pair.clean_text)[0]
        assert pair.clean_text.endswith(century) and f" {century}01 " in pair.corrupt_text
        right, wrong = ({text for text in texts} for texts in (pair.answer_texts, pair.wrong_texts))
        tens = int(year[0])
        if digits:  # of the year's own ten, some may be right and some wrong: then its digit is neither
            is_over = year.endswith("9")
            assert right == {str(d) for d in range(tens + 1, 10)}
            assert wrong == {str(d) for d in range(tens + is_over)}
        else:
            assert right == {f"{y:02d}" for y in range(int(year) + 1, 100)}
            assert wrong == {f"{y:02d}" for y in range(int(year) + 1)}


def test_arguments_are_described_in_their_order() -> None:
    for pair in ag.prompts_of("docstring", english(), 30):
        for text, answers in ((pair.clean_text, pair.answer_texts), (pair.corrupt_text, pair.wrong_texts)):
            arguments = re.findall(r"\w+", text.split("(self,")[1].split(")")[0])
            assert re.findall(r":param (\w+)", text) == arguments[:2]
            assert [answer.strip() for answer in answers] == arguments[2:3]


def test_verbs_have_the_number_of_the_first_noun() -> None:
    for pair in ag.prompts_of("agreement", english(), 40):
        is_plural = pair.clean_text.split()[1].endswith("s")
        assert (" are" in pair.answer_texts) == is_plural == (" is" in pair.wrong_texts)
        assert pair.clean_text.split()[2:] == pair.corrupt_text.split()[2:]


def test_pairs_of_ones_own_prompts() -> None:
    texts = [f"in the state containing {city} the capital is" for city in ("dallas", "oakland")]
    pair = ag.PromptPair.of(demo(), *texts, "austin", ["sacramento"])
    assert pair.clean == tuple(demo().tokenize(texts[0]).tolist())
    assert (pair.clean_text, pair.corrupt_text, pair.answer_texts) == (*texts, ("austin",))
    graph = ag.trace(demo(), list(pair.clean), targets=pair.difference)
    assert graph.nodes[graph.nodes["kind"] == "logit"]["token"].tolist() == ["austin - sacramento"]
    ids = ag.PromptPair.of(make_model("llama"), [1, 2, 3], [1, 4, 3], 5, 6)
    assert (ids.clean, ids.answers, ids.wrong_answers) == ((1, 2, 3), (5,), (6,))


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("clean", "corrupt", "answers", "wrong", "said"),
    [
        ("in texas", "in the texas", "the", "in", "the clean prompt has 3 tokens, the corrupt one 4"),
        ("in texas", "in texas", "the", "in", "the clean and the corrupt prompt are the same: .*in texas"),
        ("in texas", "in utah", "the", ["the", "in"], "and none that is both"),
        ("in texas", "in utah", [], "in", "expected at least one right and one wrong answer"),
        ("in texas", "in utah", "the", "xyzzy", "target 'xyzzy' is not in the model's vocabulary"),
    ],
)
def test_pairs_that_are_none_are_refused(clean: str, corrupt: str, answers: Any, wrong: Any, said: str) -> None:
    with pytest.raises((PromptError, TargetError), match=said):
        ag.PromptPair.of(demo(), clean, corrupt, answers, wrong)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("behaviour", "model", "said"),
    [
        ("ioi", lambda: tiny_with(byte_level()), r"has 0 of 60 names as one token \(splits 'Mary' into ' ', 'M', 'a'"),
        ("docstring", demo, r"has 4 of \d+ arguments as one token \(does not know 'load'\)"),
        ("greater-than", demo, "has no tokens for all words of 'The .* lasted from the year"),
        ("two-hop", lambda: make_model("llama"), "the model has no tokenizer, .*take induction"),
        ("colours", demo, "behaviour 'colours' is not known; expected one of ioi, greater-than, induction"),
    ],
)
def test_what_a_tokenizer_cannot_hold_is_refused_with_the_reason(behaviour: str, model: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        ag.prompts_of(behaviour, model(), 5)


@pytest.mark.refusal
def test_more_than_there_are_is_refused_with_how_many_there_are() -> None:
    few = make_model("llama")
    few.is_special = lambda token_id: token_id >= 8  # type: ignore[method-assign]
    with pytest.raises(PromptError, match=r"two-hop: \d+ different pairs were found .*; ask for fewer"):
        ag.prompts_of("two-hop", english(), 10**6)
    with pytest.raises(PromptError, match="induction: the vocabulary has 7 tokens to list; expected at least 8"):
        ag.prompts_of("induction", few)
    with pytest.raises(PromptError, match="n is 0; expected a whole number of at least 1"):
        ag.prompts_of("ioi", demo(), 0)
