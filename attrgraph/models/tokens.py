r"""What tokens are called, and chat messages as tokens.

A token's text is what it adds to a text: a word keeps the space in front of it, and a token that is a part of a
character shows its bytes, as in Python: \xe6. Two tokens have one text only where a tokenizer has both, such as a
special token and the same letters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from attrgraph.errors import PromptError

# a byte as tokenizers of SentencePiece's kind name it
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
# that a token stands for on average; no text comes near to it
_MOST_CHARACTERS = 100


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text of one token; its number in angle brackets if the tokenizer does not have it."""
    raw: Any = tokenizer.convert_ids_to_tokens(token_id)
    if raw is None:
        return f"<{token_id}>"
    kinds = _decoders(tokenizer)
    if "ByteFallback" in kinds and (byte := _BYTE.fullmatch(raw)):
        value = int(byte[1], 16)
        # a line break may be in the vocabulary as a byte only; a letter is there as itself too
        as_letter = tokenizer.convert_tokens_to_ids(chr(value).replace(" ", _SPACE))
        is_only_byte = value < 0x80 and as_letter in (None, tokenizer.unk_token_id)
        return chr(value) if is_only_byte else f"\\x{value:02x}"
    added = tokenizer.added_tokens_decoder.get(token_id)
    if added is not None:
        return str(added.content)
    if "ByteLevel" in kinds:
        letters = _bytes_of_letters()
        if all(letter in letters for letter in raw):
            return bytes(letters[letter] for letter in raw).decode("utf-8", errors="backslashreplace")
        return str(raw)
    if kinds & {"Replace", "Metaspace"}:
        return str(raw).replace(_SPACE, " ")
    return str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


def check_characters(n_characters: int, n_context: int) -> None:
    """Raise PromptError for a text that no context can hold: the tokens of 10 MB take gigabytes of memory."""
    if n_characters > _MOST_CHARACTERS * n_context:
        raise PromptError(
            f"the prompt has {n_characters} characters, the model's context {n_context} tokens; shorten the prompt."
        )


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, what: str = "the prompt") -> list[int]:
    """The tokens of a text, and no special ones that it does not have.

    Raises:
        PromptError: half a surrogate pair, which tokenizers do not take; `what` is the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise PromptError(f"{what} holds half a surrogate pair, at character {e.start}.") from e
    return list(tokenizer.encode(text, add_special_tokens=False))


def is_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether the tokenizer sets the token apart from text, such as <|im_start|>; unknown words are text."""
    added = tokenizer.added_tokens_decoder.get(token_id)
    return added is not None and bool(added.special) and token_id != tokenizer.unk_token_id


def front_token(tokenizer: PreTrainedTokenizerBase, prepend: str) -> int | None:
    """The token that is put in front of prompts, if any; see `LanguageModel.tokenize`.

    Raises:
        PromptError: the text is not one token.
    """
    bos: int | None = tokenizer.bos_token_id
    if prepend == "auto":
        return bos
    if prepend == "circuit-tracer":
        ends = (bos, tokenizer.pad_token_id, tokenizer.eos_token_id)
        return next((token_id for token_id in ends if token_id is not None), None)
    ids = text_ids(tokenizer, prepend, "prepend")
    if len(ids) != 1:
        raise PromptError(
            f'prepend is {prepend!r:.60}, which is {len(ids)} tokens; expected one token, "auto", "none" or '
            '"circuit-tracer".'
        )
    return int(ids[0])


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    n_context: int | None = None,
) -> list[int]:
    """Chat messages as token ids, by the tokenizer's chat template; a last message of the assistant is continued.

    Args:
        tokenizer: with a chat template.
        messages: {"role": ..., "content": ...}.
        options: for the template, such as `enable_thinking`.
        n_context: refuse messages that are far longer than so many tokens.

    Raises:
        PromptError: no chat template, messages that it cannot be filled with, or an answer that it drops.
    """
    if tokenizer.chat_template is None:
        raise PromptError("the tokenizer has no chat template; give the prompt as text.")
    contents = [_content(message, number) for number, message in enumerate(messages)]
    texts = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
    if n_context is not None:
        check_characters(sum(len(content or "") for content in contents), n_context)
    is_continued = texts[-1]["role"] == "assistant"
    how: dict[str, Any] = {"add_generation_prompt": not is_continued, "continue_final_message": is_continued}
    try:
        ids: Any = tokenizer.apply_chat_template(texts, return_dict=False, **how, **options)
    # templates are programs that run in a sandbox: what they raise is as various as what messages hold
    except Exception as e:
        first, *_ = str(e).splitlines() or [type(e).__name__]
        raise PromptError(f"the chat template cannot be filled with these messages: {first:.200}") from e
    return [int(i) for i in ids]


def _content(message: Mapping[str, Any], number: int) -> Any:
    """A message's text; several parts are put together, since templates that know none would write a list."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise PromptError(f"message {number} has no role; expected such as user or assistant.")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        known = [text for text in texts if isinstance(text, str)]
        if len(known) == len(content):
            return "".join(known)
    elif isinstance(content, str) or "tool_calls" in message:
        return content
    found = "parts that are not text" if isinstance(content, list) else f"{content!r:.60}"
    raise PromptError(f"message {number} has {found} as its content; expected text.")


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
