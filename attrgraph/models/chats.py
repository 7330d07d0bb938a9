"""Chat messages as text, by the chat template of a tokenizer, which is a program that somebody else wrote."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from jinja2 import Environment, meta, nodes
from transformers import PreTrainedTokenizerBase

from attrgraph.errors import PromptError

# for all ways to fill it in; one that fills in a thousand messages takes 0.1 s
_MOST_SECONDS = 5.0
# of the text: ten million tokens have half of it
_MOST_CHARACTERS = 10**8
# of messages, as transformers names them: written in front of the text, if there is one
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
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

    def rendered(self, messages: list[Any]) -> str:
        how = dict[str, Any](add_generation_prompt=not self.is_continued, continue_final_message=self.is_continued)
        try:
            with _limited(self.end):
                return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **how, **self.options))
        # templates are programs that run in a sandbox: what they raise is as various as what messages hold
        except Exception as e:
            first, *_ = str(e).splitlines() or [type(e).__name__]
            raise PromptError(f"the chat template cannot be filled with these messages: {first:.200}") from e

    def whole(self, messages: list[Any]) -> str:
        """The text of messages, of which nothing is lost."""
        text = self.rendered([_marked(message) for message in messages])
        left_out = "that a message has parts" if _MARK in text else _left_out(self, messages)
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
    own = {*inspect.signature(tokenizer.apply_chat_template).parameters} - {"tools", "documents", "kwargs"}
    if not options:
        return
    try:
        with _limited(monotonic() + _MOST_SECONDS):
            source = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
            # tags of transformers, which name nothing
            source = re.sub(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}", "", source)
            parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
            known = meta.find_undeclared_variables(parsed)
    except Exception:  # what is wrong with the template is said when it is filled in
        return
    unknown = next((name for name in options if name not in own | known), None)
    if unknown is not None:
        given = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", *tokenizer.special_tokens_map}
        # what a template sets in a branch is its own, unless it asks first whether it is there
        asked = {each.node.name for each in parsed.find_all(nodes.Test) if isinstance(each.node, nodes.Name)}
        local = {each.name for each in parsed.find_all(nodes.Name) if each.ctx != "load"} - asked
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


def _left_out(template: _Template, messages: list[Any]) -> str | None:
    """The first text, thought, or call of a function that the template does not write, or None: each is marked."""
    marks: dict[str, str] = {}

    def mark(what: str) -> str:
        marks[name := f"attrgraph{len(marks)}end"] = what
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
        if isinstance(content, str):
            found["content"] = marked(content, f"the text {of}")
        elif content:
            found["content"] = [{**part, "text": marked(part["text"], f"a part {of}")} for part in content]
        if calls:
            found["tool_calls"] = [_marked_call(call, mark, of) for call in calls]
        if template.is_continued and number == len(messages) - 1:  # thoughts of earlier messages are left out by design
            # transformers gives one thought several names
            thoughts = {name: found[name] for name in _THOUGHTS if found.get(name)}
            once = {text: marked(text, f"the {name} {of}") for name, text in thoughts.items()}
            found |= {name: once[text] for name, text in thoughts.items()}
        return found

    filled = [with_marks(message, number) for number, message in enumerate(messages)]
    try:
        written = {*re.findall(r"attrgraph\d+end", template.rendered(filled))}
    except PromptError:  # of what the marks have changed; what the template says of the messages has been heard
        return None
    return next((what for mark, what in marks.items() if mark not in written), None)


def _marked_call(call: Mapping[str, Any], mark: Callable[[str], str], of: str) -> dict[str, Any]:
    """A tool call with marks at its function's name and arguments, which stand at the top or one level below."""
    is_below = isinstance(call.get("function"), Mapping)
    function = {**(call["function"] if is_below else call)}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise PromptError(f"a tool call {of} is {dict(call)!r:.60}; expected the name of a function.")
    function["name"] = name + mark(f"a tool call {of}")
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
    found = {**call, "function": function} if is_below else function
    # some templates write the id alone, which then holds the name: functions.NAME:0
    return {**found, "id": call["id"].replace(name, function["name"])} if isinstance(call.get("id"), str) else found
