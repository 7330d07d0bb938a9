"""What tokens are called, and chat templates of every style."""

from collections import Counter
from typing import Any

import pytest
from subwords import byte_level, sentencepiece
from tiny import make_model
from transformers import PreTrainedTokenizerFast

from attrgraph.errors import PromptError
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.tokens import chat_ids, token_text

STRANGE = "日本語 🐶 é The capital\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
STYLES: dict[str, tuple[str, list[str], str | None]] = {
    "ChatML": (CHATML, ["<|im_start|>", "<|im_end|>"], None),
    "Llama 3": (LLAMA_3, ["<|bos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|bos|>"),
    "Gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<bos>"),
}


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_tokens_show_spaces_and_bytes_and_join_to_the_text(make: Any) -> None:
    tokenizer = make()
    texts = [token_text(tokenizer, i) for i in tokenizer.encode(STRANGE, add_special_tokens=False)]
    assert texts[-2:] == [" capital", "\n"]
    joined = "".join(texts).removeprefix(" ").encode().decode("unicode_escape").encode("latin-1")
    assert "\\xe6" in texts and joined == STRANGE.encode()
    every = Counter(token_text(tokenizer, i) for i in range(len(tokenizer)))
    assert max(every.values()) == 1 and not any("\ufffd" in text for text in every)
    assert token_text(tokenizer, len(tokenizer) + 7) == f"<{len(tokenizer) + 7}>"


@pytest.mark.parametrize("style", STYLES)
def test_templates_of_every_style_are_filled_and_continued(style: str) -> None:
    template, special, bos = STYLES[style]
    tokenizer = byte_level(*special, bos=bos, template=template)

    def written(*messages: tuple[str, Any], **options: Any) -> str:
        ids = chat_ids(tokenizer, [{"role": role, "content": content} for role, content in messages], options)
        return "".join(token_text(tokenizer, i) for i in ids)

    asked = written(("user", "Capital?"))
    assert "Capital?" in asked and asked.rstrip("\n").endswith(("assistant", "<|end_header_id|>", "model"))
    assert written(("user", "Capital?"), ("assistant", "It is")) == f"{asked}It is"
    assert written(("user", [{"type": "text", "text": "Cap"}, {"type": "text", "text": "ital?"}])) == asked
    if style == "ChatML":
        assert written(("user", "Capital?"), enable_thinking=False) == f"{asked}<think></think>"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "system", "content": "Be short."}, "chat template cannot be filled .* System role not supported"),
        ({"role": "user", "content": None}, "message 0 has None as its content"),
        ({"role": "user"}, "message 0 has None as its content"),
        ({"role": "user", "content": [{"type": "image"}]}, "message 0 has parts that are not text"),
        ({"content": "Hi"}, "message 0 has no role"),
    ],
)
def test_messages_that_no_template_takes_are_refused(message: dict[str, Any], said: str) -> None:
    with pytest.raises(PromptError, match=said) as found:
        chat_ids(byte_level("<bos>", bos="<bos>", template=GEMMA), [message], {})
    assert "\n" not in str(found.value)


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
    with pytest.raises(PromptError, match=r"prepend is 'The capital', which is \d tokens; expected one token"):
        model.front_token("The capital")


def test_white_space_is_a_prompt_and_half_a_pair_is_none() -> None:
    model = model_with(byte_level())
    assert model._token_ids("\n\n")
    with pytest.raises(PromptError, match="half a surrogate pair, at character 2"):
        model.tokenize("I \ud83d end")
    with pytest.raises(PromptError, match="the prompt is empty"):
        model.tokenize("")
