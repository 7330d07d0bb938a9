"""Everything that takes a prompt runs the same tokens and skips the same positions; see `models.special`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from subwords import byte_level
from tiny import FAMILY_CONFIGS, make_transcoders
from torch import Tensor

import attrgraph as ag
from attrgraph.errors import PromptError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANGE = ag.Intervention((1, 3, -2), value=1.0)
ARE_RUN: dict[str, Callable[..., Any]] = {
    "trace": ag.trace,
    "estimate": ag.estimate,
    "contrast": lambda model, prompt, **how: ag.contrast(model, prompt, 5, 6, **how),
    "intervene": lambda model, prompt, **how: ag.intervene(model, prompt, CHANGE, **how),
    "frozen": lambda model, prompt, **how: ag.intervene(model, prompt, CHANGE, mode="frozen", **how),
    "several": lambda model, prompt, **how: ag.intervene_many(model, prompt, [[CHANGE]] * 2, mode="free", **how),
    "generate": lambda model, prompt, **how: ag.generate(model, prompt, CHANGE, max_new_tokens=0, **how),
    "swap": lambda model, prompt, **how: ag.swap(model, prompt, prompt, *_active(model, prompt, how), **how),
    "doses": lambda model, prompt, **how: ag.dose_response(model, prompt, _active(model, prompt, how)[0], **how),
    "attention": lambda model, prompt, **how: ag.explain_attention(model, prompt, 2, 0, -1, -2, **how),
    "features": lambda model, prompt, **how: ag.features_at(ag.trace(model, prompt, **how), -2, node_threshold=1.0),
    "validate": lambda model, prompt, **how: ag.validate(
        model, prompt, modes=["free"], mode="free", n_nodes=2, n_controls=0, n_paths=0, n_resamples=2, **how
    ),
}
# (prompt, options) -> tokens put in front, positions skipped
TEXT, IDS, CHAT = "A dog, a cat", [300, 301, 302], [{"role": "user", "content": "A"}]
CASES: list[tuple[Any, dict[str, Any], list[str], list[int]]] = [
    (TEXT, {}, ["<bos>"], [0]),
    (TEXT, {"prepend": "<|end|>"}, ["<|end|>"], [0]),
    (TEXT, {"prepend": "circuit-tracer", "skip_positions": "none"}, ["<bos>"], []),
    (TEXT, {"skip_positions": [1, -1]}, ["<bos>"], [1, -1]),
    (IDS, {}, ["<bos>"], [0]),
    (IDS, {"prepend": "none"}, [], []),
    (torch.tensor(IDS), {"prepend": "none", "skip_positions": [-3]}, [], [0]),
    (CHAT, {"prepend": "none"}, [], [0]),  # <|im_start|> counts like a BOS
]


def _active(model: LanguageModel, prompt: Any, how: dict[str, Any]) -> list[list[str]]:
    return [ag.features_at(ag.trace(model, prompt, **how), -2, node_threshold=1.0).kept[:2]] * 2


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    tokenizer = byte_level("<bos>", "<|end|>", "<|im_start|>", "<|im_end|>", bos="<bos>", template=CHATML)
    kind, config = FAMILY_CONFIGS["llama"]
    hf_model = create_hf_model(kind, seed=0, **config | {"vocab_size": len(tokenizer)})
    return LanguageModel(hf_model.double(), tokenizer, transcoders=make_transcoders())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_all_run_the_same_tokens_and_skip_the_same_positions(
    case: int, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, options, front, positions = CASES[case]
    assert model.tokenizer is not None
    if isinstance(prompt, str):
        ids = model.tokenizer.encode(prompt)
    elif isinstance(prompt, list) and isinstance(prompt[0], dict):
        ids = model.tokenizer.encode("<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n")
    else:
        ids = IDS
    expected_ids = [*map(model.tokenizer.convert_tokens_to_ids, front), *ids]
    expected = [pos % len(expected_ids) for pos in positions]
    run, encode = LanguageModel.run, Transcoders.encode
    seen = list[tuple[str, list[int]]]()

    def seen_run(self: LanguageModel, token_ids: Tensor, **how: Any) -> Any:
        seen.append(("ids", token_ids.tolist()))
        return run(self, token_ids, **how)

    def seen_encode(self: Transcoders, reads: Any, is_skipped: Tensor) -> Any:
        seen.append(("skipped", is_skipped.nonzero().flatten().tolist()))
        return encode(self, reads, is_skipped)

    monkeypatch.setattr(LanguageModel, "run", seen_run)
    monkeypatch.setattr(Transcoders, "encode", seen_encode)
    for name, function in ARE_RUN.items():
        if name == "validate" and positions != [1, -1]:  # it takes a second
            continue
        seen.clear()
        function(model, prompt, **options)
        assert {kind for kind, _ in seen} == {"ids", "skipped"}, name
        assert all(found == (expected_ids if kind == "ids" else sorted(expected)) for kind, found in seen), name


@pytest.mark.refusal
@pytest.mark.parametrize("name", ARE_RUN)
def test_all_refuse_what_is_no_position_or_no_token(name: str, model: LanguageModel) -> None:
    for options, message in (
        ({"skip_positions": [9]}, "a position to skip is 9; expected 0 to 3"),
        ({"skip_positions": [-5]}, "a position to skip is -5; expected 0 to 3"),
        ({"skip_positions": [True]}, "a position to skip is True"),
        ({"skip_positions": 2}, "skip_positions is 2; expected"),
        ({"prepend": "A dog"}, r"prepend is 'A dog', which is \d tokens"),
    ):
        with pytest.raises(PromptError, match=message):
            ARE_RUN[name](model, IDS, **options)
