"""A prompt and its corrupted twin, with the answers that are right and wrong for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from attrgraph.attribution.targets import LogitDifference, token_id_of
from attrgraph.errors import PromptError, checked
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.tokens import text_ids


@dataclass(frozen=True)
class PromptPair:
    """Two prompts of one length. What is right for `clean` is not for `corrupt`.

    Token ids begin with the token that is put in front of prompts, if any; texts are without it. There is one answer,
    unless several are equally right, such as all years above another.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answers: tuple[int, ...]
    wrong_answers: tuple[int, ...]
    clean_text: str
    corrupt_text: str
    answer_texts: tuple[str, ...]
    wrong_texts: tuple[str, ...]
    behaviour: str = ""
    template: str = ""  # which sentence it is, and of indirect objects the order of names, ABBA or BABA

    @property
    def difference(self) -> LogitDifference:
        """The first right answer minus the first wrong one, as `trace` and `patch` take it."""
        return LogitDifference(self.answers[0], self.wrong_answers[0])

    @staticmethod
    @checked
    def of(
        model: LanguageModel,
        clean: Prompt,
        corrupt: Prompt,
        answers: str | int | Sequence[str | int],
        wrong_answers: str | int | Sequence[str | int],
    ) -> "PromptPair":
        """A pair of your own prompts.

        Args:
            model: whose tokens they are.
            clean, corrupt: as `trace` takes them.
            answers: the token, or tokens, that are right after `clean`: text or ids.
            wrong_answers: the token, or tokens, that are compared with them.

        Raises:
            PromptError: the prompts are not of one length or are the same, an answer is missing, or both right and
                wrong.
            TargetError: an answer is not one token.
        """
        ids = [tuple(model.tokenize(prompt).tolist()) for prompt in (clean, corrupt)]
        several = [[each] if isinstance(each, str | int) else list(each) for each in (answers, wrong_answers)]
        right, wrong = (tuple(dict.fromkeys(token_id_of(model, token) for token in tokens)) for tokens in several)
        return _pair(model, ids[0], ids[1], right, wrong)


def _pair(
    model: LanguageModel,
    clean: Sequence[int],
    corrupt: Sequence[int],
    answers: Sequence[int],
    wrong_answers: Sequence[int],
) -> PromptPair:
    if len(clean) != len(corrupt):
        raise PromptError(
            f"the clean prompt has {len(clean)} tokens, the corrupt one {len(corrupt)}; expected two of one length."
        )
    if tuple(clean) == tuple(corrupt):
        raise PromptError(f"the clean and the corrupt prompt are the same: {model.text_of(clean)!r:.100}.")
    if not answers or not wrong_answers or set(answers) & set(wrong_answers):
        raise PromptError("expected at least one right and one wrong answer, and none that is both.")
    front = model.front_token("auto")
    texts = [model.text_of(ids[1:] if ids[0] == front else ids) for ids in (clean, corrupt)]
    right, wrong = (tuple(model.token_text(i) for i in ids) for ids in (answers, wrong_answers))
    return PromptPair(
        tuple(clean), tuple(corrupt), tuple(answers), tuple(wrong_answers), texts[0], texts[1], right, wrong
    )


class Draft(NamedTuple):
    """A pair in words: how each prompt goes on, rightly and wrongly, begins with a space unless it goes on a word."""

    template: str
    clean: str
    corrupt: str
    answers: Sequence[str]
    wrong_answers: Sequence[str]
    is_first_token: bool = False  # answers may be more than one token: the first of each counts


class Speller:
    """How a model's tokenizer writes texts."""

    def __init__(self, model: LanguageModel) -> None:
        if model.tokenizer is None:
            raise PromptError(
                "the model has no tokenizer, so it cannot read words; load it with one, or take induction, whose "
                "prompts are random tokens."
            )
        self.model, self.tokenizer = model, model.tokenizer
        self.unknown: int | None = self.tokenizer.unk_token_id

    def next_token(self, text: str, more: str) -> int | None:
        """The one token by which `more` continues a text, or None if it takes several, or one that is unknown."""
        ids = self._continued(text, more)
        return ids[0] if ids is not None and len(ids) == 1 else None

    def _continued(self, text: str, more: str) -> list[int] | None:
        """The tokens that are added by `more`; None if it changes those before, or adds an unknown one."""
        before, whole = text_ids(self.tokenizer, text), text_ids(self.tokenizer, text + more)
        added = whole[len(before) :]
        return added if whole[: len(before)] == before and added and self.unknown not in added else None

    def of_one_token(self, words: Sequence[str], after: str = "Then") -> list[str]:
        """Those words that are one token each within a sentence."""
        return [word for word in words if self.next_token(after, f" {word}") is not None]

    def pieces(self, word: str, after: str = "Then") -> str:
        """How the tokenizer splits a word, in words for an error."""
        before, whole = text_ids(self.tokenizer, after), text_ids(self.tokenizer, f"{after} {word}")
        if self.unknown in whole[len(before) :]:
            return f"does not know {word!r}"
        return f"splits {word!r} into {', '.join(repr(self.model.token_text(i)) for i in whole[len(before) :])}"

    def pair(self, draft: Draft) -> PromptPair:
        """The pair of a draft.

        Raises:
            PromptError: the prompts have unknown words or two lengths, or no answer is one token.
        """
        ids = [self.model.tokenize(text).tolist() for text in (draft.clean, draft.corrupt)]
        for text, tokens in zip((draft.clean, draft.corrupt), ids, strict=True):
            if self.unknown is not None and self.unknown in tokens:
                raise PromptError(f"it has no tokens for all words of {text!r}")
        answers, wrong = (self._answers(draft, texts) for texts in (draft.answers, draft.wrong_answers))
        shared = answers.keys() & wrong.keys()  # of numbers written a digit a token, the first may be right and wrong
        answers, wrong = ({i: None for i in found if i not in shared} for found in (answers, wrong))
        if not answers or not wrong:
            raise PromptError(f"no answer to {draft.clean!r} is one token, such as {draft.answers[0]!r}")
        pair = _pair(self.model, ids[0], ids[1], list(answers), list(wrong))
        return replace(pair, template=draft.template, clean_text=draft.clean, corrupt_text=draft.corrupt)

    def _answers(self, draft: Draft, texts: Sequence[str]) -> dict[int, None]:
        continued = [self._continued(draft.clean, text) for text in texts]
        return {ids[0]: None for ids in continued if ids is not None and (len(ids) == 1 or draft.is_first_token)}
