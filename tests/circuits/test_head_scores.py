"""What heads attend to, against a loop over the patterns that the Hugging Face model gives."""

import math

import numpy as np
import pytest
import torch
from tiny import BOS, FAMILY_CONFIGS, MORE_FAMILIES, PROMPT, make_model

import attrgraph as ag
from attrgraph.errors import AttrGraphError, PromptError

ALL = sorted(FAMILY_CONFIGS | MORE_FAMILIES)
TEXTS = [PROMPT, [BOS, 5, 5, 5, 9], [BOS, 30, 31, 30, 31, 30, 7, 7, 30], [BOS, 4, 5]]


def by_a_loop(model: ag.LanguageModel, texts: list[list[int]], special: set[int]) -> dict[tuple[int, int], list[float]]:
    """Induction, previous-token and duplicate-token scores of every head, one number of a pattern after another."""
    found: dict[tuple[int, int], list[list[float]]] = {}
    model.hf_model.set_attn_implementation("eager")
    for ids in texts:
        out = model.hf_model(torch.tensor([ids]), output_attentions=True)
        for layer, patterns in enumerate(out.attentions):
            for head, pattern in enumerate(patterns[0].double().tolist()):
                lists = found.setdefault((layer, head), [[], [], []])
                for query, token in enumerate(ids):
                    if token in special:
                        continue
                    earlier = [key for key in range(query) if ids[key] == token]
                    if earlier:
                        lists[0].append(sum(pattern[query][key + 1] for key in earlier if ids[key + 1] not in special))
                        lists[2].append(sum(pattern[query][key] for key in earlier))
                    if query and ids[query - 1] not in special:
                        lists[1].append(pattern[query][query - 1])
    return {at: [sum(values) / len(values) for values in lists] for at, lists in found.items()}


@pytest.mark.parametrize("name", ALL)
def test_scores_are_means_of_the_model_s_own_patterns(name: str) -> None:
    model = make_model(name)
    scores = ag.head_scores(model, TEXTS)
    assert list(scores.columns) == ["layer", "head", "induction", "previous_token", "duplicate_token"]
    expected = by_a_loop(model, TEXTS, set())
    assert [tuple(at) for at in scores[["layer", "head"]].to_numpy().tolist()] == list(expected)
    np.testing.assert_allclose(scores.iloc[:, 2:].to_numpy(), list(expected.values()), rtol=1e-5)


def test_special_tokens_are_left_out() -> None:
    model = ag.load_model("demo")
    texts = ["<bos> dallas dallas <pad> dallas", "the dog near the dog"]
    ids = [model.tokenize(text).tolist() for text in texts]
    scores = ag.head_scores(model, texts)
    np.testing.assert_allclose(scores.iloc[:, 2:].to_numpy(), list(by_a_loop(model, ids, {0, 1}).values()), rtol=1e-5)


def test_the_demo_s_induction_heads_come_out_and_induction_breaks_without_them() -> None:
    model, pairs = ag.load_model("demo"), ag.prompts_of("induction", ag.load_model("demo"), 40, seed=11)
    scores = ag.head_scores(model)
    heads = scores[scores["induction"] > 0.9][["layer", "head"]].to_numpy().tolist()
    previous = scores[scores["previous_token"] > 0.9][["layer", "head"]].to_numpy().tolist()
    assert heads == [[3, head] for head in range(4)] and previous == [[2, 1]]

    def share_right(off: list[list[int]]) -> float:
        """Of answers without some heads: what they mix is set to 0 by torch's own hooks."""
        d_head = model.d_model // 4
        hooks = []
        for layer, head in off:

            def zero(_: torch.nn.Module, args: tuple[torch.Tensor], head: int = head) -> tuple[torch.Tensor]:
                x = args[0].clone()
                x[..., head * d_head : (head + 1) * d_head] = 0
                return (x,)

            module = model.hf_model.model.layers[layer].self_attn.o_proj
            hooks.append(module.register_forward_pre_hook(zero))
        answers = [int(model.hf_model(torch.tensor([pair.clean])).logits[0, -1].argmax()) for pair in pairs]
        for hook in hooks:
            hook.remove()
        return sum(answer in pair.answers for answer, pair in zip(answers, pairs, strict=True)) / len(pairs)

    assert share_right([]) > 0.95
    assert share_right(heads) < 0.2
    assert share_right([[2, 0], [1, 0], [1, 1], [0, 2]]) > 0.85


def test_without_repeated_tokens_there_is_nothing_to_measure() -> None:
    scores = ag.head_scores(make_model("gpt2"), [[3, 4, 5]])
    assert scores["induction"].isna().all() and scores["duplicate_token"].isna().all()
    assert scores["previous_token"].between(0, 1).all()
    assert not math.isnan(scores["previous_token"].sum())


@pytest.mark.refusal
def test_no_texts_and_one_text_are_refused() -> None:
    with pytest.raises(PromptError, match="no text is given; expected at least one"):
        ag.head_scores(make_model("gpt2"), [])
    with pytest.raises(AttrGraphError, match="texts is 'a text'; expected a list"):
        ag.head_scores(make_model("gpt2"), "a text")  # type: ignore[arg-type]
