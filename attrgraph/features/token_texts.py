"""The texts of tokens, with the blanks that a tokenizer of whole words leaves out."""

from collections.abc import Sequence

from attrgraph.models.language_model import LanguageModel


class TokenTexts:
    """Of each token its text, made once; and of tokens in a row such texts that together they can be read.

    Args:
        model: whose tokens.
        sample: ids of ordinary tokens, by which it is known whether the tokenizer puts blanks between tokens.
    """

    def __init__(self, model: LanguageModel, sample: Sequence[int]) -> None:
        self._model, self._texts = model, dict[int, str]()
        self._blank = " " if any(model.text_of([i, i]) == f"{self[i]} {self[i]}" for i in sample) else ""

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._texts:
            self._texts[token_id] = self._model.token_text(token_id)
        return self._texts[token_id]

    def in_row(self, token_ids: Sequence[int]) -> list[str]:
        """Of tokens one after another; those of whole words begin with a blank."""
        return [self._blank + self[token_id] for token_id in token_ids]

    def joined(self, token_ids: Sequence[int]) -> str:
        """What they are together, as one text; a single one keeps its blanks."""
        return "".join(self.in_row(token_ids))[len(self._blank) :]
