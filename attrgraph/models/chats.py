"""Chat messages as text, by the chat template of a tokenizer, which is a program that somebody else wrote."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Any

from jinja2 import meta, nodes
from transformers import PreTrainedTokenizerBase

from attrgraph.errors import PromptError
from attrgraph.models.bounded import bounded
from attrgraph.models.templates import is_plain, parsed

# for all ways to fill it in; one that fills in a thousand messages takes 0.1 s
_MOST_SECONDS = 5.0
# of the text: ten million tokens have half of it
_MOST_CHARACTERS = 10**8
# of messages, as transformers names them: written in front of the text, if there is one
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# of messages, of which more is known than whether the text changes without them
_KNOWN = frozenset(("role", "content", "tool_calls", *_THOUGHTS))
# an entry of parts that a template takes no notice of, unless it writes them as they lie
_MARK = "attrgraph:part"
# what closes a thought or another section, at the end of a text
_CLOSED = re.compile(r"(?:\s{0,9}(?:<[^<>\s]{1,40}>|\[/\w{1,40}\])){1,9}\Z")


@dataclass
class _Template:
    """A tokenizer's chat template with its options, and until when it may run."""

    tokenizer: PreTrainedTokenizerBase
    options: Mapping[str, Any]
    is_continued: bool = False
    end: float = field(default_factory=lambda: monotonic() + _MOST_SECONDS)
    sign: str = field(default_factory=lambda: f"attrgraph{token_hex(4)}x")  # which no text has

    def rendered(self, messages: list[Any]) -> str:
        how = dict[str, Any](add_generation_prompt=not self.is_continued, continue_final_message=self.is_continued)
        try:
            with _limited(self.end):
                return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **how, **self.options))
        # templates are programs that run in a sandbox: what they raise is as various as what messages hold
        except Exception as e:
            first, *_ = str(e).splitlines() or [type(e).__name__]
            first = "it takes too much memory." if isinstance(e, MemoryError) else first
            raise PromptError(f"the chat template cannot be filled with these messages: {first:.200}") from e

    def rendered_or_none(self, messages: list[Any]) -> str | None:
        """None where the template refuses messages; what it says of those that are given has been heard."""
        try:
            return self.rendered(messages)
        except PromptError:
            return None

    def whole(self, messages: list[Any]) -> str:
        """The text of messages, of which nothing is lost."""
        text = self.rendered(shown := [_marked(message) for message in messages])
        left_out = "that a message has parts" if _MARK in text else _left_out(self, messages)
        left_out = left_out or _unread(self, shown, text)
        if left_out is not None:
            raise PromptError(
                f"the chat template leaves out {left_out}, so that the model would never see it. Take it out, put it "
                "into another message, or give the prompt as text."
            )
        if self.is_continued and not self._keeps_last(messages, text):
            raise PromptError(
                f"the chat template changes the last message, {_text_of(messages[-1])!r:.60}: most take away the "
                "spaces at its ends. Leave them out."
            )
        return text

    def _keeps_last(self, messages: list[Any], text: str) -> bool:
        """Whether the text ends with the last message, of which no space is the template's own."""
        content = messages[-1]["content"]
        last = content if isinstance(content, str) else content[-1]["text"]
        bare = last.lstrip()
        if bare == last or not text.endswith(last):
            return text.endswith(last)
        content = bare if isinstance(content, str) else [*content[:-1], {**content[-1], "text": bare}]
        without = self.rendered([*messages[:-1], {**messages[-1], "content": content}])
        return len(text) - len(without) == len(last) - len(bare)


def chat_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> str:
    """Chat messages as text, by the tokenizer's chat template; a last message of the assistant is continued.

    Several parts of a message are given to the template as they are, and put together if it does not know parts. Text
    is given as a part if the template knows nothing else.

    Args:
        tokenizer: with a chat template.
        messages: {"role": ..., "content": ...}. A last one of the assistant that is empty is as none.
        options: for the template, such as `enable_thinking`.

    Raises:
        PromptError: no chat template, or it refuses, changes or leaves out something of the messages or options.
    """
    if tokenizer.chat_template is None:
        raise PromptError("the tokenizer has no chat template; give the prompt as text.")
    check_options(tokenizer, options)
    template = _Template(tokenizer, options)
    filled = [_checked(message, number) for number, message in enumerate(messages)]
    if filled[-1]["role"] == "assistant":
        _check_continued(filled[-1])
        template.is_continued = bool(_text_of(filled[-1]))
        filled = filled if template.is_continued else filled[:-1]
    source = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    return _run(source, partial(_filled, template, filled))


def _run(source: str, work: Callable[[], str]) -> str:
    """What comes of work with a template: the time of its loops is limited as they run, that of one operation is not.

    Operations with constants are done before it runs, whatever asks for its program.
    """
    return work() if is_plain(source) else bounded(work, 1.5 * _MOST_SECONDS)


def _filled(template: _Template, filled: list[Any]) -> str:
    joined = [{**each, "content": _text_of(each)} if each.get("content") else each for each in filled]
    refusals = list[PromptError]()
    for form in (filled, joined, [_in_parts(message) for message in filled]):
        try:
            return template.whole(form)
        except PromptError as e:
            refusals.append(e)
    raise refusals[1]


@contextmanager
def _limited(end: float) -> Iterator[None]:
    """While the context lasts, a template may not run for long or write much: the sandbox bounds each loop alone."""
    size = 0

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


def check_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Raise PromptError for an option that the chat template does not read: it would do nothing."""
    # other arguments of `apply_chat_template` are for tokens, or decided here
    own = {"chat_template"}
    if not options:
        return
    try:
        with _limited(monotonic() + _MOST_SECONDS):
            source = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
            program = parsed(source)
            known = {*_run(source, lambda: " ".join(meta.find_undeclared_variables(program))).split()}
    except Exception:  # what is wrong with the template is said when it is filled in
        return
    unknown = next((name for name in options if name not in own | known), None)
    if unknown is not None:
        given = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", *tokenizer.special_tokens_map}
        # what a template sets in a branch is its own, unless it asks first whether it is there
        asked = {each.node.name for each in program.find_all(nodes.Test) if isinstance(each.node, nodes.Name)}
        local = {each.name for each in program.find_all(nodes.Name) if each.ctx != "load"} - asked
        options_read = ", ".join(sorted(known - given - local)) or "none"
        raise PromptError(f"the chat template does not read the option {unknown!r:.60}; it reads {options_read:.300}.")


def _checked(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A message whose content is text, or parts that are text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise PromptError(f"message {number} has no role; expected such as user or assistant.")
    message = {name: list(value) if isinstance(value, tuple) else value for name, value in message.items()}
    content, calls = message.get("content"), message.get("tool_calls")
    if calls and not (isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)):
        raise PromptError(f"message {number} has {calls!r:.60} as its tool_calls; expected a list of objects.")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return message
    elif isinstance(content, str) or "tool_calls" in message:
        return message
    found = "parts that are not text" if isinstance(content, list) else f"{content!r:.60}"
    raise PromptError(f"message {number} has {found} as its content; expected text.")


def _check_continued(message: Mapping[str, Any]) -> None:
    """Raise PromptError for a last message of the assistant with something that is lost where its text goes on."""
    thoughts = [name for name in _THOUGHTS if not (_text_of(message) and isinstance(message.get(name), str))]
    lost = [name for name in ("tool_calls", *thoughts) if message.get(name)]
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
    return {**message, "content": [{**part, _MARK: ""} for part in content] if isinstance(content, list) else content}


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _left_out(template: _Template, messages: list[Any], *, is_last_marked: bool = True) -> str | None:
    """The first text, thought, or call of a function that the template does not write, or None: each is marked.

    The last message's text need not be, if it is continued: whether it is there is seen at the end of the text.
    """
    marks: dict[str, tuple[str, str]] = {}

    def mark(what: str, or_else: str = "") -> str:
        marks[name := f"{template.sign}{len(marks)}end"] = what, or_else
        return name

    def marked(text: str, what: str) -> str:
        """A text with a mark behind its last word, and in front where no thought can stand: that may be left out."""
        if not text.strip():
            return text
        words = _CLOSED.sub("", text.rstrip()) or text.rstrip()
        start = "" if "<" in text or "[" in text else mark(what)
        return start + words + mark(what) + text.rstrip()[len(words) :]

    def with_marks(message: Mapping[str, Any], number: int) -> dict[str, Any]:
        of, found = f"of message {number} ({message['role']})", dict(message)
        content, calls = found.get("content"), found.get("tool_calls")
        is_continued = template.is_continued and number == len(messages) - 1
        if is_continued and not is_last_marked:
            pass
        elif isinstance(content, str):
            found["content"] = marked(content, f"the text {of}")
        elif content:
            found["content"] = [{**part, "text": marked(part["text"], f"a part {of}")} for part in content]
        if calls:
            found["tool_calls"] = [_marked_call(call, mark, of) for call in calls]
        if is_continued:  # thoughts of earlier messages are left out by design
            # transformers gives one thought several names
            thoughts = {name: found[name] for name in _THOUGHTS if found.get(name)}
            once = {text: marked(text, f"the {name} {of}") for name, text in thoughts.items()}
            found |= {name: once[text] for name, text in thoughts.items()}
        return found

    filled = [with_marks(message, number) for number, message in enumerate(messages)]
    try:
        text = template.rendered(filled)
    except PromptError as e:
        if template.is_continued and is_last_marked:  # a template may take a thought away only where text follows
            return _left_out(template, messages, is_last_marked=False)
        raise PromptError(f"what of these messages the chat template leaves out cannot be told: {e}") from e
    written = {*re.findall(rf"{template.sign}\d+end", text)}
    missing = (what for mark, (what, or_else) in marks.items() if mark not in written and (or_else or mark) not in text)
    return next(missing, None)


def _unread(template: _Template, messages: list[Any], text: str) -> str | None:
    """The first other field of a message without which the text is the same, or None."""
    called = [(call.get("function") or call).get("name") for each in messages for call in each.get("tool_calls") or ()]
    fields = [
        (number, name)
        for number, message in enumerate(messages)
        for name, value in message.items()
        if value and name not in _KNOWN
        # which call a result is of is there by its place, and its function by that call
        if message["role"] != "tool" or (name != "tool_call_id" and (name, value in called) != ("name", True))
    ]
    filled = [{**message} for message in messages]
    for i, (number, name) in enumerate(fields):
        if isinstance(value := messages[number][name], str):
            filled[number][name] = f"{value}{template.sign}{i}end"
    written = template.rendered_or_none(filled) if fields else ""
    for i, (number, name) in enumerate(fields):
        if written is None or f"{template.sign}{i}end" not in written:
            less = {key: value for key, value in messages[number].items() if key != name}
            if template.rendered_or_none([*messages[:number], less, *messages[number + 1 :]]) == text:
                return f"the field {name!r:.60} of message {number} ({less['role']})"
    return None


def _marked_call(call: Mapping[str, Any], mark: Callable[..., str], of: str) -> dict[str, Any]:
    """A tool call with marks at its function's name and arguments, which stand at the top or one level below."""
    is_below = isinstance(call.get("function"), Mapping)
    function = {**(call["function"] if is_below else call)}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise PromptError(f"a tool call {of} is {dict(call)!r:.60}; expected the name of a function.")
    # some templates write the id alone, which then holds the name: functions.NAME:0
    call_id = call.get("id")
    is_named = isinstance(call_id, str) and name in call_id
    function["name"] = name + mark(f"a tool call {of}", call_id if is_named else "")
    for key in ("arguments", "parameters"):
        if (given := function.get(key)) in (None, "", "{}", {}):
            continue
        last = mark(what := f"the arguments of a tool call {of}")
        if isinstance(given, Mapping):
            function[key] = {**given, last: last}
        elif isinstance(given, str):
            start, brace, end = given.rpartition("}")
            function[key] = start + last + brace + end
        else:
            raise PromptError(f"{what} are {given!r:.60}; expected an object or JSON text.")
    return {**call, "function": function} if is_below else function
