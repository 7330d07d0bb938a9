"""Chat templates of every style, rebuilt: what they make of messages, and which positions stand before the text."""

import re
import resource
import sys
from typing import Any

import pytest
from subwords import byte_level
from tiny import FAMILY_CONFIGS

from attrgraph.errors import PromptError
from attrgraph.models.chats import chat_text
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.load_model import load_model
from attrgraph.models.special import find_special
from attrgraph.models.templates import is_plain

_ASK = "{% if add_generation_prompt %}"
QWEN_2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}" + _ASK + "<|im_start|>assistant\n{% endif %}"
)
QWEN_3 = (
    "{% for m in messages %}{% set text = m['content'] %}{% if m['role'] == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if m['role'] == 'assistant' and loop.last %}{% set text = '<think>\n\n</think>\n\n' + text %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ text }}<|im_end|>\n{% endfor %}"
    + _ASK
    + "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    + _ASK
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA_TURNS = (
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ first }}{{ m['content'] | trim }}"
    "<end_of_turn>\n{% set first = '' %}{% endfor %}" + _ASK + "<start_of_turn>model\n{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}" + _GEMMA_TURNS
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}" + _GEMMA_TURNS
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}{{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# these know parts of a message: some trim each, some take text alone and leave other content out
GEMMA_3_PARTS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] | trim }}{% else %}{% for part in m['content'] %}{{ part['text'] | trim }}{% endfor %}{% endif %}"
    "{% if not loop.last %}<end_of_turn>\n{% endif %}{% endfor %}"
)
ONLY_TEXT = (
    "{% for m in messages %}<|im_start|>{% if m['content'] is string %}{{ m['content'] }}{% endif %}<|im_end|>"
    "{% endfor %}"
)
AS_JSON = (
    "{% for m in messages %}<|im_start|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{{ m['content'] | tojson }}{% endif %}<|im_end|>{% endfor %}"
)
_CHATML, _TURNS = ["<|im_start|>", "<|im_end|>"], ["<bos>", "<start_of_turn>", "<end_of_turn>"]
# family, template, tokens, BOS, the prompt of one question, positions that have no features
STYLES: dict[str, tuple[str, str, list[str], str | None, str, list[int]]] = {
    "Qwen2": (
        "qwen2",
        QWEN_2,
        _CHATML,
        None,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nCapital?<|im_end|>\n"
        "<|im_start|>assistant\n",
        [0],
    ),
    "Qwen3": (
        "qwen3",
        QWEN_3,
        [*_CHATML, "<think>", "</think>"],
        None,
        "<|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\n",
        [0],
    ),
    "Llama 3": (
        "llama",
        LLAMA_3,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nCapital?<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\n",
        [0],
    ),
    "Gemma 2": (
        "gemma2",
        GEMMA_2,
        _TURNS,
        "<bos>",
        "<bos><start_of_turn>user\nCapital?<end_of_turn>\n<start_of_turn>model\n",
        [0],
    ),
    "Gemma 3": (
        "gemma3",
        GEMMA_3,
        _TURNS,
        "<bos>",
        "<bos><start_of_turn>user\nCapital?<end_of_turn>\n<start_of_turn>model\n",
        [0, 1, 2, 3],
    ),
    "Mistral": ("mistral", MISTRAL, ["<s>", "</s>"], "<s>", "<s>[INST] Capital? [/INST]", [0]),
}
USER = {"role": "user", "content": "Capital?"}


def answered(text: str) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", "content": text}]


def model_of(style: str, **options: Any) -> LanguageModel:
    family, template, special, bos, *_ = STYLES[style]
    kind, config = FAMILY_CONFIGS[family]
    tokenizer = byte_level(*special, bos=bos, template=template, more=["user model assistant system"] * 30)
    tokenizer.eos_token = special[-1]
    hf_model = create_hf_model(kind, seed=0, **config | {"vocab_size": len(tokenizer), "max_position_embeddings": 128})
    return LanguageModel(hf_model, tokenizer, chat_template_kwargs=options)


def text_of(model: LanguageModel, messages: list[dict[str, Any]], **how: str) -> str:
    return "".join(map(model.token_text, model.tokenize(messages, **how).tolist()))


@pytest.mark.parametrize("style", STYLES)
def test_a_chat_is_what_its_template_makes_of_it(style: str) -> None:
    *_, expected, skipped = STYLES[style]
    model = model_of(style)
    assert text_of(model, [USER]) == expected
    # an answer is continued; one that is empty begins
    thought = "<think>\n\n</think>\n\n" if style == "Qwen3" else ""
    assert text_of(model, answered("It is")) == f"{expected}{thought}It is"
    assert text_of(model, answered("")) == expected
    parts = [{"type": "text", "text": "Cap"}, {"type": "text", "text": "ital?"}]
    assert text_of(model, [{"role": "user", "content": parts}]) == expected
    # BOS is there once, and what stands before the text has no features
    for prepend in ("auto", "none"):
        assert text_of(model, [USER], prepend=prepend) == expected
        run = model.run(model.tokenize([USER], prepend=prepend))
        assert sorted(find_special(model, run, prepend=prepend)) == skipped


def test_options_go_to_the_template() -> None:
    *_, expected, _ = STYLES["Qwen3"]
    assert text_of(model_of("Qwen3", enable_thinking=True), [USER]) == expected
    assert text_of(model_of("Qwen3", enable_thinking=False), [USER]) == f"{expected}<think>\n\n</think>\n\n"


def test_parts_are_the_templates_own_or_put_together() -> None:
    def text(template: str, *parts: str, role: str = "user") -> str:
        content = [{"type": "text", "text": part} for part in parts]
        return chat_text(byte_level("<bos>", bos="<bos>", template=template), [{"role": role, "content": content}], {})

    assert text(GEMMA_3_PARTS, "Cap ", " ital?") == "<bos><start_of_turn>user\nCapital?"
    assert text(GEMMA_3_PARTS, "It ", "is", role="assistant") == "<bos><start_of_turn>assistant\nItis"
    for template in (ONLY_TEXT, AS_JSON, QWEN_2.replace("{{ m['content'] }}", "{{ '' + m['content'] }}")):
        assert "Cap ital?<|im_end|>" in text(template, "Cap ", "ital?")


CALLS = "{{ m.tool_calls | tojson if m.tool_calls }}"
WHOLE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + CALLS + "</{{ m.role }}>{% endfor %}"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        (WHOLE, None),
        (WHOLE.replace("if m.tool_calls", "if m.tool_calls and not m.content"), "a tool call of message 2 (assistant)"),
        (WHOLE.replace("if m.tool_calls", "if m.tool_calls and loop.last"), "a tool call of message 2 (assistant)"),
        (WHOLE.replace("{{ m.content }}", "{{ m.content if m.role != 'system' }}"), "the text of message 0 (system)"),
        (WHOLE.replace("{{ m.content }}", "{{ m.content if not m.tool_calls }}"), "the text of message 2 (assistant)"),
    ],
)
def test_what_a_template_leaves_out_is_named(template: str, left_out: str | None) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "s"}]},
        {"role": "assistant", "content": "I add.", "tool_calls": [CALL]},
        {"role": "tool", "content": " 2 "},
        {"role": "user", "content": " "},
    ]
    tokenizer = byte_level("<bos>", bos="<bos>", template=template)
    if left_out is None:
        assert "<user>s</user>" in (text := chat_text(tokenizer, messages, {})) and '"name": "add"' in text
        return
    with pytest.raises(PromptError, match=re.escape(f"leaves out {left_out}, so that")):
        chat_text(tokenizer, messages, {})


# each writes something of a message, and not all of it
NO_THOUGHTS = WHOLE.replace("m.content", "(m.content or '').split('</think>')[-1]")
NO_ARGUMENTS = WHOLE.replace(CALLS, "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}")
ONLY_NAMED = WHOLE.replace(
    CALLS, "{% for call in m.tool_calls or [] %}{{ call.id }}{{ call.function.arguments }}{% endfor %}"
)


def said(template: str, *messages: dict[str, Any], **options: Any) -> str:
    return chat_text(byte_level("<bos>", bos="<bos>", template=template), messages, options)


def assistant(content: str = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def calling(**function: Any) -> dict[str, Any]:
    return assistant(tool_calls=[{"id": "functions.add:0", "function": {"name": "add", **function}}])


def test_a_thought_may_be_left_out_but_not_all_of_a_text() -> None:
    thought, alone = assistant("<think>\nSo\n</think>\n\nIt is."), assistant("<think>\nIt is.\n</think>")
    assert "<assistant>\n\nIt is.</assistant>" in said(NO_THOUGHTS, USER, thought, USER)
    assert "It is.\n</think></assistant>" in said(WHOLE, USER, alone, USER)
    # also where an empty thought is put in its place
    for template in (NO_THOUGHTS, NO_THOUGHTS.replace("<{{ m.role }}>", "<{{ m.role }}><think></think>")):
        with pytest.raises(PromptError, match=r"leaves out the text of message 1 \(assistant\)"):
            said(template, USER, alone, USER)
    with pytest.raises(PromptError, match=r"leaves out the text of message 0 \(user\)"):
        said(WHOLE.replace("m.content", "m.content[3:]"), USER)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_before_the_text_that_goes_on_is_written_or_named(name: str) -> None:
    writes = WHOLE.replace("{{ m.content }}", "{{ m.reasoning_content or '' }}|{{ m.content }}")
    last = assistant("It", **{name: "So"})
    assert said(writes, USER, last).endswith("<assistant>So|It")
    assert "So" not in said(WHOLE, USER, last, USER)  # templates leave out earlier ones by design
    with pytest.raises(PromptError, match=rf"leaves out the {name} of message 1 \(assistant\)"):
        said(WHOLE, USER, last)
    with pytest.raises(PromptError, match=f"has {name}, which a continuation of its text would lose"):
        said(writes, USER, assistant("It", **{name: ["So"]}))


def test_an_empty_thought_is_continued_where_it_would_be_written_otherwise_before_a_text() -> None:
    parts = (
        "{{ '<think>\\n\\n</think>\\n\\n' if '</think>' in m.content }}{{ m.content.split('</think>')[-1].lstrip() }}"
    )
    thought = "<think>\n\n</think>\n\n"
    assert said(WHOLE.replace("{{ m.content }}", parts), USER, assistant(thought)).endswith(f"<assistant>{thought}")
    alone = "{% if m.role == 'assistant' %}" + parts + "{% endif %}"
    with pytest.raises(PromptError, match=r"leaves out the text of message 0 \(user\)"):
        said(WHOLE.replace("{{ m.content }}", alone), USER, assistant(thought))


def test_a_call_is_written_with_its_name_and_arguments() -> None:
    for arguments in ({"a": 1}, '{"a": 1}'):
        call = calling(arguments=arguments)
        assert '"a' in said(WHOLE, USER, call, USER).replace("\\", "")
        assert "functions.add:0{" in said(ONLY_NAMED, USER, call, USER)
        assert said(WHOLE, USER, {**call, "tool_calls": tuple(call["tool_calls"])}, USER) == said(
            WHOLE, USER, call, USER
        )
        with pytest.raises(PromptError, match=r"leaves out the arguments of a tool call of message 1 \(assistant\)"):
            said(NO_ARGUMENTS, USER, call, USER)
        unnamed = {**call, "tool_calls": [{**call["tool_calls"][0], "id": "0"}]}
        with pytest.raises(PromptError, match=r"leaves out a tool call of message 1 \(assistant\)"):
            said(ONLY_NAMED, USER, unnamed, USER)
    for nothing in ({}, "{}", None):
        assert "<assistant>add<" in said(NO_ARGUMENTS, USER, calling(arguments=nothing), USER)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("message", "message_says"),
    [
        (assistant(tool_calls=CALL), "message 1 has .* as its tool_calls; expected a list of objects"),
        (assistant(tool_calls=["add"]), r"message 1 has \['add'\] as its tool_calls; expected a list of objects"),
        (assistant(tool_calls=[{"function": {"arguments": {}}}]), "expected the name of a function"),
        (calling(arguments=[1]), r"arguments of .* are \[1\]; expected an object or JSON text"),
    ],
)
def test_calls_that_are_none_are_refused(message: dict[str, Any], message_says: str) -> None:
    with pytest.raises(PromptError, match=message_says) as found:
        said(WHOLE, USER, message, USER)
    assert "\n" not in str(found.value)


def test_text_is_a_part_for_a_template_that_knows_nothing_else() -> None:
    loop = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    first = "{{ m.content[0].text }}"
    for writes in (loop, first, "{{ m.content[0]['type'] | upper }}" + loop):
        template = WHOLE.replace("{{ m.content }}", writes)
        assert "<user>Capital?</user>" in said(template, USER, assistant("It"), USER).replace("TEXT", "")
        assert said(template, USER, assistant("It")).replace("TEXT", "").endswith("<assistant>It")
    parts = {"role": "user", "content": [{"type": "text", "text": "Cap"}, {"type": "text", "text": "ital?"}]}
    assert said(WHOLE.replace("{{ m.content }}", loop), parts, USER).count("<user>Capital?</user>") == 2


def test_an_option_that_the_template_does_not_read_is_refused() -> None:
    own = "{% if messages %}{% set n = 1 %}{% endif %}{{ n if not n }}"
    brief = "{% if not brief is defined %}{% set brief = true %}{% endif %}{{ brief }}"
    reads = own + "{% generation %}" + brief + "{% endgeneration %}"
    assert said(reads + WHOLE, USER, brief=False).startswith("False<user>")
    assert said(reads + WHOLE, USER, chat_template=WHOLE) == "<user>Capital?</user>"
    for name in ("breif", "tools", "documents"):
        with pytest.raises(PromptError, match=f"does not read the option '{name}'; it reads brief[.]"):
            said("{{ bos_token }}" + reads + WHOLE, USER, **{name: []})
    with pytest.raises(PromptError, match="it reads none"):
        said(WHOLE, USER, brief=True)
    hf_model, tokenizer = model_of("Qwen3").hf_model, byte_level("<bos>", bos="<bos>", template=reads + WHOLE)
    with pytest.raises(PromptError, match="does not read the option 'breif'"):
        load_model(hf_model, tokenizer=tokenizer, chat_template_kwargs={"breif": True})


BOMBS = {
    "output": "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "none": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "filters": "{% for a in range(9999) %}{% set b = range(9999) | map('string') | list %}{% endfor %}",
}


@pytest.mark.refusal
@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_a_template_that_does_not_end_or_writes_without_end_is_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrgraph.models.chats._MOST_SECONDS", 0.3)
    monkeypatch.setattr("attrgraph.models.chats._MOST_CHARACTERS", 10**6)
    before = sys.gettrace()
    with pytest.raises(PromptError, match=r"cannot be filled with these messages: it (runs for|writes) more than"):
        chat_text(byte_level(template=template), [USER], {})
    assert sys.gettrace() is before


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("style", "messages", "said"),
    [
        ("Gemma 2", [{"role": "system", "content": "Be short."}], "cannot be filled .* System role not supported"),
        ("Mistral", [USER, USER], "cannot be filled .* Conversation roles must alternate"),
        ("Gemma 2", [{"role": "user", "content": None}], "message 0 has None as its content"),
        ("Gemma 2", [{"role": "user"}], "message 0 has None as its content"),
        ("Gemma 2", [{"role": "user", "content": [{"type": "image"}]}], "message 0 has parts that are not text"),
        ("Gemma 2", [{"content": "Hi"}], "message 0 has no role"),
        ("Gemma 2", [USER, "Hi"], "message 1 has no role"),
        ("Qwen2", [{"role": "user", "content": "I \ud83d end"}], "half a surrogate pair"),
        # spaces at the ends would be lost without a word
        ("Llama 3", answered("It is "), "the chat template changes the last message, 'It is '"),
        ("Gemma 2", answered(" "), "the chat template changes the last message, ' '"),
        # the header ends with the same spaces
        ("Llama 3", answered("\n\nIt is"), r"the chat template changes the last message, '\\n\\nIt is'"),
        ("Gemma 2", answered("\nIt is"), r"the chat template changes the last message, '\\nIt is'"),
        ("Qwen3", answered("<think>Paris</think>"), "cannot be filled|changes the last message"),
        # so would what comes after the text of an answer, or stands for it
        (
            "Qwen2",
            [{"role": "assistant", "content": None, "tool_calls": [{}]}],
            "assistant's and has tool_calls, which",
        ),
        ("Qwen2", [USER, {"role": "assistant", "content": "", "tool_calls": [{}]}], "has tool_calls, which a contin"),
        ("Qwen2", [USER, {"role": "assistant", "content": "It", "tool_calls": [{}]}], "or leave out tool_calls"),
        ("Qwen2", [USER, {"role": "assistant", "content": "", "reasoning": "So"}], "has reasoning, which"),
    ],
)
def test_messages_that_no_template_takes_are_refused(style: str, messages: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said) as found:
        model_of(style).tokenize(messages)
    assert "\n" not in str(found.value)


HOSTILE = {
    "power": "{{ (10 ** (10 ** (messages|length + 7)))|string|length }}",
    "product": "{{ ('a' * 3000000000)|length }}",
    "doubled": "{% set ns = namespace(x='aaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "escaped": "{% set ns = namespace(x='\"' * 9) %}{% for i in range(40) %}{% set ns.x = ns.x|tojson %}{% endfor %}",
    "filled in": "{{ ('%3000000000d' % 1)|length }}",
    "widened": "{{ 'a'.ljust(3000000000)|length }}{{ 'a'|center(2000000000)|length }}",
    "joined": "{{ (range(99999)|list * 1000)|join(',') }}",
}


@pytest.mark.refusal
@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_one_operation_of_a_template_takes_no_more_than_it_may(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrgraph.models.chats._MOST_SECONDS", 0.2)
    monkeypatch.setattr("attrgraph.models.bounded._MOST_BYTES", 50 * 2**20)
    before, template = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, template + WHOLE
    with pytest.raises(PromptError, match=r"too much memory|takes more than|runs for more than") as found:
        chat_text(byte_level(template=template), [USER], {})
    assert "\n" not in str(found.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10
    with pytest.raises(PromptError):  # what holds for a template of the tokenizer, holds for one that is given
        chat_text(byte_level(template=WHOLE), [USER], {"chat_template": template})


def test_templates_whose_operations_are_harmless_need_no_process_of_their_own() -> None:
    for plain in (QWEN_2, QWEN_3, LLAMA_3, GEMMA_2, GEMMA_3, MISTRAL, WHOLE):
        assert is_plain(plain)
    for other in (
        *HOSTILE.values(),
        "{% set strip = 'a'.center %}{{ strip(9) }}",
        "{% set ns = namespace(strip=''.replace) %}{{ ns.strip('', 'b') }}",
        "{% set a = [a, a] %}",
        "{% set a = a + 'b' + a %}",
        "{{ '%9d' % messages }}",
        "{% for",
    ):
        assert not is_plain(other), other


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("role", "field"), [("user", {"name": "Bob"}), ("assistant", {"function_call": {"name": "add", "arguments": "{}"}})]
)
def test_a_field_of_a_message_is_written_or_named(role: str, field: dict[str, Any]) -> None:
    message = {"role": role, "content": "It is.", **field}
    (name,) = field
    with pytest.raises(PromptError, match=rf"leaves out the field '{name}' of message 1 \({role}\)"):
        said(WHOLE, USER, message, USER)
    for reads in (f"{{{{ m.{name} or '' }}}}", f"{{{{ '!' if m.{name} }}}}"):
        assert said(WHOLE.replace("{{ m.role }}>{{", f"{{{{ m.role }}}}>{reads}{{{{"), USER, message, USER)
    assert said(WHOLE, USER, {**message, name: None}, USER)


def test_to_which_call_a_result_belongs_need_not_be_written() -> None:
    result = {"role": "tool", "content": "2", "tool_call_id": "functions.add:0", "name": "add"}
    assert "<tool>2</tool>" in said(WHOLE, USER, calling(arguments={"a": 1}), result, USER)
    with pytest.raises(PromptError, match="leaves out the field 'name' of message 2"):
        said(WHOLE, USER, calling(arguments={"a": 1}), {**result, "name": "sum"}, USER)


STRICT = WHOLE.replace(
    CALLS,
    "{% for call in m.tool_calls or [] %}{{ raise_exception('bad id') if call.id | length != 9 }}{{ call | tojson }}"
    "{% endfor %}",
).replace("{{ m.content }}", "{{ m.content if m.role != 'system' }}")


def test_a_call_keeps_its_id_while_it_is_found_out_what_is_left_out() -> None:
    call = assistant(tool_calls=[{"id": "addabcdef", "function": {"name": "add", "arguments": {"a": 1}}}])
    assert "addabcdef" in said(STRICT, USER, call, USER)
    with pytest.raises(PromptError, match=r"leaves out the text of message 0 \(system\)"):
        said(STRICT, {"role": "system", "content": "Be"}, USER, call, USER)
    short = WHOLE.replace(
        "{{ m.content }}", "{{ raise_exception('too long') if m.content | length > 9 }}{{ m.content }}"
    )
    with pytest.raises(PromptError, match=r"leaves out cannot be told: .* too long"):
        said(short, USER)


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["max_length", "truncation", "padding", "return_dict", "tokenize"])
def test_options_for_tokens_are_refused(name: str) -> None:
    with pytest.raises(PromptError, match=f"does not read the option '{name}'; it reads none"):
        said(WHOLE, USER, **{name: 2})
