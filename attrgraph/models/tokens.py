r"""What tokens are called.

A token's text is what it adds to a text: a word keeps the space in front of it, and a token that is a part of a
character shows its bytes, as in Python: \xe6. Two tokens have one text only where a tokenizer has both, such as a
special token and the same letters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from attrgraph.errors import PromptError

# a byte as tokenizers of SentencePiece's kind name it
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
# how a byte and a token's number are written; see `token_text`
_ESCAPED, _NUMBERED = re.compile(rb"\\x([0-9a-f]{2})"), re.compile(r"<([0-9]{1,9})>$")
# that a token stands for on average; no text comes near to it
_MOST_CHARACTERS = 100
_MOST_COMPARED = 10_000  # tokens of a vocabulary in which a misspelt one is looked for


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text of one token; its number in angle brackets if the tokenizer does not have it.

    A token whose text is read as another, such as runs of spaces that were added to a vocabulary that has them, shows
    its number too.
    """
    raw: Any = tokenizer.convert_ids_to_tokens(token_id)
    if raw is None:
        return f"<{token_id}>"
    added = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
    text = _text_of_raw(tokenizer, token_id, str(raw), added)
    if token_id not in added and text in added.values():
        text = f"{text}<{token_id}>"
    # the sign for what is no character would look like one
    return text.replace("\ufffd", r"\xef\xbf\xbd")


def _text_of_raw(tokenizer: PreTrainedTokenizerBase, token_id: int, raw: str, added: Mapping[int, str]) -> str:
    """What a token of the vocabulary stands for."""
    kinds = _decoders(tokenizer)
    if "ByteFallback" in kinds and (byte := _BYTE.fullmatch(raw)):
        value = int(byte[1], 16)
        # a line break may be in the vocabulary as a byte only; a letter is there as itself too
        as_letter = tokenizer.convert_tokens_to_ids(chr(value).replace(" ", _SPACE))
        is_only_byte = value < 0x80 and as_letter in (None, tokenizer.unk_token_id)
        return chr(value) if is_only_byte else f"\\x{value:02x}"
    if token_id in added:
        return added[token_id]
    if "ByteLevel" in kinds:
        letters = _bytes_of_letters()
        if all(letter in letters for letter in raw):
            return bytes(letters[letter] for letter in raw).decode("utf-8", errors="backslashreplace")
        return raw
    if kinds & {"Replace", "Metaspace"}:
        return raw.replace(_SPACE, " ")
    if "WordPiece" in kinds:
        return raw[2:] if raw.startswith("##") else f" {raw}"
    if "BPEDecoder" in kinds:
        return raw.replace("</w>", " ")
    return str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


def tokens_with_text(tokenizer: PreTrainedTokenizerBase | None, text: str) -> list[int]:
    """The tokens that `token_text` calls so, whatever a tokenizer would make of the text."""
    numbered = _NUMBERED.search(text)
    if tokenizer is None:
        return [int(numbered[1])] if numbered and numbered[0] == text else []
    plain = _ESCAPED.sub(lambda byte: bytes([int(byte[1], 16)]), text.encode())
    as_letters = {byte: letter for letter, byte in _bytes_of_letters().items()}
    forms = [text, plain.decode(errors="ignore"), "".join(as_letters[byte] for byte in plain), f"##{text}", text[1:]]
    forms += [form.replace(" ", _SPACE) for form in forms[:2]]
    forms += [re.sub(" $", "</w>", text), *(f"<0x{byte:02X}>" for byte in plain[:1])]
    found: list[Any] = [tokenizer.convert_tokens_to_ids(form) for form in forms if form]
    found += [int(numbered[1])] if numbered else []
    return [
        token_id
        for token_id in dict.fromkeys(found)
        if token_id is not None and token_text(tokenizer, token_id) == text
    ]


def check_characters(n_characters: int, n_context: int) -> None:
    """Raise PromptError for a text that no context can hold: the tokens of 10 MB take gigabytes of memory."""
    if n_characters > _MOST_CHARACTERS * n_context:
        raise PromptError(
            f"the prompt has {n_characters} characters, the model's context {n_context} tokens; shorten the prompt."
        )


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, what: str = "the prompt") -> list[int]:
    """The tokens of a text, and no special ones that it does not have.

    Raises:
        PromptError: half a surrogate pair; `what` is the text.
    """
    check_pairs(text, what)
    return list(tokenizer.encode(text, add_special_tokens=False))


def check_pairs(text: str, what: str) -> None:
    """Raise PromptError for half a surrogate pair, which tokenizers do not take."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise PromptError(f"{what} holds half a surrogate pair, at character {e.start}.") from e


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text that tokens make together; where they end within a character, its bytes."""
    text = str(tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
    return "".join(token_text(tokenizer, token_id) for token_id in token_ids) if "\ufffd" in text else text


def is_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether the tokenizer sets the token apart from text, such as <|im_start|>; unknown words are text."""
    added = tokenizer.added_tokens_decoder.get(token_id)
    return added is not None and bool(added.special) and token_id != tokenizer.unk_token_id


def front_token(tokenizer: PreTrainedTokenizerBase, prepend: str) -> int | None:
    """The token that is put in front of prompts, if any; see `LanguageModel.tokenize`.

    Raises:
        PromptError: the text is not one token of the vocabulary.
    """
    bos: int | None = tokenizer.bos_token_id
    if prepend == "auto":
        return bos
    if prepend == "circuit-tracer":
        ends = (bos, tokenizer.pad_token_id, tokenizer.eos_token_id)
        return next((token_id for token_id in ends if token_id is not None), None)
    ids = text_ids(tokenizer, prepend, "prepend")
    is_unknown = tokenizer.unk_token_id in ids and prepend != tokenizer.unk_token
    if len(ids) != 1 or is_unknown:
        found = "not in the vocabulary" if is_unknown else f"{len(ids)} tokens"
        vocabulary = tokenizer.get_vocab() if len(tokenizer) <= _MOST_COMPARED else ()
        known = dict.fromkeys(("auto", "none", "circuit-tracer", *tokenizer.all_special_tokens, *vocabulary))
        close = get_close_matches(prepend[:_MOST_CHARACTERS].lower(), list(known))
        meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise PromptError(
            f'prepend is {prepend!r:.60}, which is {found}; expected one token, "auto", "none" or "circuit-tracer".'
            f"{meant}"
        )
    return int(ids[0])


@lru_cache(maxsize=8)
def _decoders(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The types of the steps by which the tokenizer turns tokens into text; none if it does not say."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return frozenset()
    state = json.loads(decoder.__getstate__())
    return frozenset(step["type"] for step in state.get("decoders", [state]))


@lru_cache(maxsize=1)
def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter stands for in byte-level vocabularies.

    Bytes that are printable in Latin-1 are their own letters; the others, in order, those from U+0100 on.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", the tokenizer of GPT-2
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
