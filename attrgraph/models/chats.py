"""Chat messages as text, by the chat template of a tokenizer, which is a program that somebody else wrote."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from transformers import PreTrainedTokenizerBase

from attrgraph.errors import PromptError

# one that fills in a thousand messages takes 0.1 s
_MOST_SECONDS = 5.0
# of the text: ten million tokens have half of it
_MOST_CHARACTERS = 10**8
# of messages, as transformers names them: written in front of the text, if there is one
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# an entry of parts that a template takes no notice of, unless it writes them as they lie
_MARK = "attrgraph:part"


def chat_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> str:
    """Chat messages as text, by the tokenizer's chat template; a last message of the assistant is continued.

    Several parts of a message are given to the template as they are, and put together if it does not know parts.

    Args:
        tokenizer: with a chat template.
        messages: {"role": ..., "content": ...}. A last one of the assistant that is empty is as none.
        options: for the template, such as `enable_thinking`.

    Raises:
        PromptError: no chat template, messages that it cannot be filled with, or an answer that it changes.
    """
    if tokenizer.chat_template is None:
        raise PromptError("the tokenizer has no chat template; give the prompt as text.")
    filled = [_checked(message, number) for number, message in enumerate(messages)]
    is_continued = filled[-1]["role"] == "assistant"
    if is_continued:
        _check_continued(filled[-1])
        if not _text_of(filled[-1]):
            filled.pop()
            is_continued = False
    texts = [_text_of(message) for message in filled]
    joined = [
        {**each, "content": text} if each.get("content") else each for each, text in zip(filled, texts, strict=True)
    ]
    if any(isinstance(message.get("content"), list) for message in filled):
        try:
            text = _rendered(tokenizer, [_marked(message) for message in filled], is_continued, options)
        except PromptError:
            text = _MARK
        last = filled[-1].get("content") or [{"text": ""}]
        is_whole = not is_continued or text.endswith(last if isinstance(last, str) else last[-1]["text"])
        if _MARK not in text and is_whole and _left_out(tokenizer, filled, is_continued, options) is None:
            return text
    text = _rendered(tokenizer, joined, is_continued, options)
    left_out = _left_out(tokenizer, joined, is_continued, options)
    if left_out is not None:
        raise PromptError(
            f"the chat template leaves out {left_out}, so that the model would never see it. Take it out, put it into "
            "another message, or give the prompt as text."
        )
    if is_continued and not text.endswith(texts[-1]):
        raise PromptError(
            f"the chat template changes the last message, {texts[-1]!r:.60}: most take away the spaces at its ends. "
            "Leave them out."
        )
    return text


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[Any], is_continued: bool, options: Mapping[str, Any]
) -> str:
    how: dict[str, Any] = {"add_generation_prompt": not is_continued, "continue_final_message": is_continued}
    try:
        with _limited():
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **how, **options))
    # templates are programs that run in a sandbox: what they raise is as various as what messages hold
    except Exception as e:
        first, *_ = str(e).splitlines() or [type(e).__name__]
        raise PromptError(f"the chat template cannot be filled with these messages: {first:.200}") from e


@contextmanager
def _limited() -> Iterator[None]:
    """While the context lasts, a template may not run for long or write much: the sandbox bounds each loop alone."""
    end, size = monotonic() + _MOST_SECONDS, 0

    def watch(frame: Any, event: str, value: Any) -> Any:
        nonlocal size
        if monotonic() > end:
            raise PromptError(f"it runs for more than {_MOST_SECONDS:g} s.")
        if frame.f_code.co_filename != "<template>":
            return None
        size += len(value) if event == "return" and isinstance(value, str) else 0
        if size > _MOST_CHARACTERS:
            raise PromptError(f"it writes more than {_MOST_CHARACTERS:,} characters.")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def _checked(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A message whose content is text, or parts that are text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise PromptError(f"message {number} has no role; expected such as user or assistant.")
    content = message.get("content")
    if isinstance(content, list):
        if all(isinstance(part, Mapping) and part.get("type") == "text" for part in content) and all(
            isinstance(part.get("text"), str) for part in content
        ):
            return {**message}
    elif isinstance(content, str) or "tool_calls" in message:
        return {**message}
    found = "parts that are not text" if isinstance(content, list) else f"{content!r:.60}"
    raise PromptError(f"message {number} has {found} as its content; expected text.")


def _check_continued(message: Mapping[str, Any]) -> None:
    """Raise PromptError for a last message of the assistant with something that is lost where its text goes on."""
    lost = [name for name in ("tool_calls", *(() if _text_of(message) else _THOUGHTS)) if message.get(name)]
    if lost:
        raise PromptError(
            f"the last message is the assistant's and has {' and '.join(lost)}, which a continuation of its text would "
            f"lose; add the message that follows it, or leave out {' and '.join(lost)}."
        )


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _marked(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return (
        {**message, "content": [{**part, _MARK: ""} for part in content]} if isinstance(content, list) else {**message}
    )


def _left_out(
    tokenizer: PreTrainedTokenizerBase, messages: list[Any], is_continued: bool, options: Mapping[str, Any]
) -> str | None:
    """The first text or call of a function that the template does not write, or None: each is marked at its end."""
    marks: dict[str, str] = {}

    def marked(text: str, what: str) -> str:
        if not text.strip():
            return text
        mark = f"attrgraph{len(marks)}end"
        marks[mark] = what
        return text.rstrip() + mark

    def with_marks(message: Mapping[str, Any], number: int) -> dict[str, Any]:
        of, found = f"of message {number} ({message['role']})", dict(message)
        content, calls = found.get("content"), found.get("tool_calls")
        if isinstance(content, str):
            found["content"] = marked(content, f"the text {of}")
        elif content:
            found["content"] = [{**part, "text": marked(part["text"], f"a part {of}")} for part in content]
        if isinstance(calls, list):
            found["tool_calls"] = [_renamed(call, lambda name: marked(name, f"a tool call {of}")) for call in calls]
        return found

    filled = [with_marks(message, number) for number, message in enumerate(messages)]
    try:
        text = _rendered(tokenizer, filled, is_continued, options)
    except PromptError:  # of what the marks have changed; what the template says of the messages has been heard
        return None
    return next((what for mark, what in marks.items() if mark not in text), None)


def _renamed(call: Any, rename: Callable[[str], str]) -> Any:
    """A tool call with another name of its function, which stands at the top or, as OpenAI has it, one level below."""
    if not isinstance(call, Mapping):
        return call
    return {
        **call,
        **({"name": rename(call["name"])} if isinstance(call.get("name"), str) else {}),
        **({"function": _renamed(call["function"], rename)} if "function" in call else {}),
    }
