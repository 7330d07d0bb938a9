"""Targets that are given as text: which token of the vocabulary is meant, or which tokens."""

import re
from typing import NoReturn

from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import TargetError, as_whole
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.tokens import check_pairs, text_ids, tokens_with_text

# how characters that cannot be seen are written where tokens are printed, as in Python
_ESCAPE = re.compile(r"\\(?:[abfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
# of a text that may be one token, which has some hundred; and of the tokens of one that is not, how many are named
_MOST_CHARACTERS, _MOST_NAMED = 10_000, 8


def token_id_of(model: LanguageModel, token: str | int, logits: Tensor | None = None) -> int:
    """The id of a token given as text or as an id.

    Text without a leading space may be a token with and one without it: then the one with the larger logit is meant, or
    if there are no logits, the one that is written as the text.

    Raises:
        TargetError: the text is not one token of the vocabulary, or the id lies outside it.
    """
    whole = as_whole(token)
    if whole is not None:
        if not 0 <= whole < model.d_vocab:
            raise TargetError(f"target {whole} is outside the vocabulary (0 to {model.d_vocab - 1}).")
        return whole
    if not isinstance(token, str):
        raise TargetError(f"target {token!r:.60} is a {type(token).__name__}; expected a token's text or id.")
    if not 0 < len(token) <= _MOST_CHARACTERS:
        raise TargetError(f"a target has {len(token)} characters; expected one token's text, or its id.")
    found = _tokens_written(model, token)
    if not found:
        _refuse(model, token)
    return found[0] if logits is None else max(found, key=lambda token_id: float(logits[token_id]))


def _tokens_written(model: LanguageModel, text: str) -> list[int]:
    """The tokens that are called so, or so but for a space; if there is none, what the tokenizer makes of the text.

    Nothing if that is not one token.

    A token of a line break and one of a backslash and an n are printed alike, so that both are called so.
    """
    check_pairs(text, f"target {text!r:.60}")
    tokenizer = model.tokenizer
    plain = _ESCAPE.sub(lambda escape: escape[0].encode().decode("unicode_escape"), text)
    names = [text] if plain.isprintable() and plain.strip() else [text, plain]
    written = [form for name in names for form in ([name] if name[:1] == " " else [name, f" {name}", f"{name} "])]
    called = [i for each in written for i in tokens_with_text(tokenizer, each) if i < model.d_vocab]
    if called:
        return called
    if tokenizer is None:
        raise TargetError(f"target {text!r:.60}: the model has no tokenizer; give the token's id.")
    found = list[int]()
    for each in (text, f" {text}", text.removeprefix(" ")):
        ids = text_ids(tokenizer, each, f"target {text!r:.60}")
        is_known = len(ids) == 1 and (ids[0] != tokenizer.unk_token_id or text == tokenizer.unk_token)
        if is_known and ids[0] < model.d_vocab and _has_its_spaces(model.token_text(ids[0]), text):
            found.append(int(ids[0]))
            if text.startswith(" "):
                break
    if not found and plain != text:
        return _tokens_written(model, plain)
    return list(dict.fromkeys(found))


def _refuse(model: LanguageModel, text: str) -> NoReturn:
    """Raise TargetError for a text that is not one token."""
    parts = [model.token_text(i) for i in _known_ids(model, text)]
    named = ", ".join(map(repr, parts[:_MOST_NAMED])) + (", ..." if len(parts) > _MOST_NAMED else "")
    count = "that token" if len(parts) == 1 else f"one token but {len(parts)}"
    raise TargetError(
        f"target {text!r:.60} is not {count}: {named}; explain the first of them, or give a token's id. As the only "
        "target of a trace a text may have several tokens."
    )


def _known_ids(model: LanguageModel, text: str) -> list[int]:
    """The tokens of a text; raises TargetError if the model does not know one of them."""
    tokenizer = model.tokenizer
    assert tokenizer is not None  # else it has been refused before
    ids = text_ids(tokenizer, text, f"target {text!r:.60}")
    if not ids or (tokenizer.unk_token_id in ids and str(tokenizer.unk_token) not in text):
        raise TargetError(f"target {text!r:.60} is not in the model's vocabulary; give another token, or its id.")
    return ids


def answer_ids(model: LanguageModel, text: str) -> list[int] | None:
    """The tokens of an answer that has several; None if it is one token, or nothing that can be read as several.

    As the text stands: a space in front belongs to its first token. Some tokenizers put one there themselves.

    Raises:
        TargetError: a token that the model does not know.
    """
    if not 0 < len(text) <= _MOST_CHARACTERS or _tokens_written(model, text):
        return None
    for form in (text, text.removeprefix(" ")):
        ids = _known_ids(model, form)
        if len(ids) > 1 and text in (model.text_of(ids), "".join(map(model.token_text, ids))):
            return ids
    ids = _known_ids(model, text)
    return ids if len(ids) > 1 else None


def _has_its_spaces(token: str, text: str) -> bool:
    """Whether a token has the space that a text has at its ends, but for one that words may have in front."""
    fronts = {each[: len(each) - len(each.lstrip())] for each in (token, text)}
    ends = [each[len(each.rstrip()) :] for each in (token, text)]
    return (len(fronts) == 1 or fronts == {"", " "}) and ends[1] in ("", ends[0])


def notes_on(model: LanguageModel, token: str | int, taken: int, probabilities: Float[Tensor, " d_vocab"]) -> list[str]:
    """Which of two tokens was taken for a text, if both exist."""
    notes = list[str]()
    for other in _tokens_written(model, token) if isinstance(token, str) else ():
        if other != taken:
            named = [f"{model.token_text(i)!r} ({float(probabilities[i]):.3g})" for i in (taken, other)]
            notes.append(f"target {token!r} is {named[0]}, which is more probable than {named[1]}")
    return notes
