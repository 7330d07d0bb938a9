"""What tokens are called, and what is put in front of prompts."""

from collections import Counter
from typing import Any

import pytest
from subwords import byte_level, sentencepiece, unigram, word_pieces
from tiny import make_model
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import attrgraph as ag
from attrgraph.errors import PromptError
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.tokens import text_of, token_text, tokens_with_text

STRANGE = "日本語 🐶 é The capital\n"


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram])
def test_tokens_show_spaces_and_bytes_and_join_to_the_text(make: Any) -> None:
    tokenizer = make()
    texts = [token_text(tokenizer, i) for i in tokenizer.encode(STRANGE, add_special_tokens=False)]
    assert "".join(texts).endswith(" capital\n")
    joined = "".join(texts).removeprefix(" ").encode().decode("unicode_escape").encode("latin-1")
    assert "\\xe6" in texts and joined == STRANGE.encode()
    every = Counter(token_text(tokenizer, i) for i in range(len(tokenizer)))
    assert max(every.values()) == 1 and not any("\ufffd" in text for text in every)
    assert token_text(tokenizer, len(tokenizer) + 7) == f"<{len(tokenizer) + 7}>"


def with_added(*contents: str, inside: PreTrainedTokenizerFast | None = None, **how: bool) -> PreTrainedTokenizerFast:
    tokenizer = inside or byte_level("<|end|>")
    tokenizer.add_tokens([AddedToken(content, normalized=False, **how) for content in contents])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        # as Pythia's, whose vocabulary has runs of spaces that were added once more
        (with_added("  ", "    ", inside=byte_level(more=["a    b\n        c"] * 30)), "a  b    c\n        d  "),
        (with_added("a b\x1b[31m", " the", "日", "<mask>"), "a b\x1b[31mx the 日<mask> the"),
        (with_added("\n\n", "\t", "  ", inside=sentencepiece()), "a\n\nb  c\td"),
        (with_added("<|a|>", special=True), "the<|a|>the <|a|> \r\n\x00"),
        (word_pieces(), "playing the player played"),
        (word_pieces(ends=True), "playing the player played"),
    ],
    ids=["runs of spaces", "strange contents", "line breaks", "special", "word pieces", "word ends"],
)
def test_tokens_of_every_kind_join_to_the_text_and_are_told_apart(tokenizer: Any, text: str) -> None:
    every = [token_text(tokenizer, i) for i in range(len(tokenizer) + 3)]
    assert len(set(every)) == len(every) and not any("\ufffd" in each for each in every) and all(every)
    ids = tokenizer.encode(text, add_special_tokens=False)
    joined = "".join(every[i] for i in ids)
    assert (joined if joined.startswith(text[0]) else joined.removeprefix(" ")).removesuffix(" ") == text.removesuffix(
        " "
    )


@pytest.mark.parametrize(
    "make",
    [
        byte_level,
        sentencepiece,
        unigram,
        word_pieces,
        lambda: word_pieces(ends=True),
        lambda: with_added("  ", "    ", inside=byte_level(more=["a    b\n        c"] * 30)),
        lambda: with_added("a b\x1b[31m", " the", "日", "<mask>", "\ufffd", "<7>", r"\x61"),
    ],
    ids=["bytes", "sentencepiece", "unigram", "word pieces", "word ends", "runs of spaces", "strange contents"],
)
def test_every_token_is_found_by_what_it_is_called(make: Any) -> None:
    tokenizer = make()
    for token_id in range(len(tokenizer) + 3):
        assert tokens_with_text(tokenizer, token_text(tokenizer, token_id)) == [token_id]
    assert tokens_with_text(None, "<12>") == [12] and tokens_with_text(None, "x<12>") == []


def test_the_sign_for_what_is_no_character_is_shown_as_bytes() -> None:
    shown = r"\xef\xbf\xbd"
    tokenizer = with_added("\ufffd")
    assert token_text(tokenizer, len(tokenizer) - 1) == shown
    assert "".join(token_text(byte_level(), i) for i in byte_level().encode("\ufffd")) == shown
    # ids that end within a character
    ids = byte_level().encode("a 日")
    assert text_of(byte_level(), ids) == "a 日" and text_of(byte_level(), ids[:-1]) == r"a \xe6\x97"


def model_with(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A model that reads no token: only its tokenizer is asked."""
    return LanguageModel(make_model("llama").hf_model, tokenizer)


def test_tokens_are_put_in_front_as_asked() -> None:
    tokenizer = byte_level("<|pad|>", "<|end|>", "<|im_start|>")
    model = model_with(tokenizer)
    pad, end, start = (tokenizer.convert_tokens_to_ids(name) for name in ("<|pad|>", "<|end|>", "<|im_start|>"))
    assert model.front_token("auto") is None and model.front_token("none") is None
    tokenizer.eos_token = "<|end|>"
    assert model.front_token("circuit-tracer") == end
    tokenizer.pad_token = "<|pad|>"
    assert model.front_token("circuit-tracer") == pad
    tokenizer.bos_token = "<|im_start|>"
    assert model.front_token("circuit-tracer") == model.front_token("auto") == start
    assert model.tokenize([5, 6], prepend="<|end|>").tolist() == [end, 5, 6]
    assert model.tokenize([5, 6], prepend="none").tolist() == [5, 6]
    assert model.tokenize([end, 6], prepend="circuit-tracer").tolist() == [end, 6]  # it begins with a special token
    with pytest.raises(PromptError, match=r"prepend is 'AUTO', which is \d tokens; .* Did you mean 'auto'"):
        model.tokenize([5, 6], prepend="AUTO")
    with pytest.raises(PromptError, match=r"prepend is 'The capital', which is \d tokens; expected one token"):
        model.front_token("The capital")
    demo = ag.load_model("demo")
    for wrong, said in (("zzz", ""), ("NONE", " Did you mean 'none'"), ("texs", " Did you mean 'texas'")):
        with pytest.raises(
            PromptError, match=rf"prepend is '{wrong}', which is not in the vocabulary; .*token.*\.{said}"
        ):
            demo.front_token(wrong)


def test_white_space_is_a_prompt_and_half_a_pair_is_none() -> None:
    model = model_with(byte_level())
    assert model._token_ids("\n\n")
    with pytest.raises(PromptError, match="half a surrogate pair, at character 2"):
        model.tokenize("I \ud83d end")
    with pytest.raises(PromptError, match="the prompt is empty"):
        model.tokenize("")
