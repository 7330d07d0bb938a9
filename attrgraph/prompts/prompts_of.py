"""Prompts of a known behaviour with corrupted twins, made without a download for any tokenizer that can hold them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

from attrgraph.errors import PromptError, checked, whole_number
from attrgraph.models.language_model import LanguageModel
from attrgraph.prompts.prompt_pairs import PromptPair, Speller
from attrgraph.prompts.wordings import WORDINGS, Wording, Words

BEHAVIOURS = ("ioi", "greater-than", "induction", "docstring", "agreement", "two-hop")
# draws before a wording counts as one that a tokenizer cannot hold, and draws without a new pair that end the search
_FIRST_DRAWS, _MOST_IN_VAIN = 300, 1000
# words of a list of which a part is repeated: as many as the demo has read at most
_N_LISTED = 8
# tokens of a vocabulary that are looked at; and words among them that are enough to do without what is no word
_MOST_LOOKED_AT, _ENOUGH_WORDS = 4000, 64


@checked
def prompts_of(behaviour: str, model: LanguageModel, n: int = 100, *, seed: int = 0) -> list[PromptPair]:
    """Different pairs of a behaviour: a prompt and a corrupted twin of equal length.

    - ioi: two names, of which one is said again; the other is next. Twin: the other is said again. ABBA and BABA.
    - greater-than: a year after another. Twin: the first year ends in 01, so that every year is after it.
    - induction: a list of random tokens and a part of it again. Twin: another token follows in the first list.
    - docstring: the next argument of a function. Twin: the next two have changed places.
    - agreement: a verb for the first of two nouns. Twin: the first noun has the other number.
    - two-hop: what is said of a city's state or country. Twin: the city is in another one.

    But for greater-than, the wrong answers are right for the twin. Texts are English, or else of the demo's world, in
    whose words there are no years and no functions.

    Args:
        behaviour: one of those above.
        model: of whose tokens prompts are made.
        n: how many; the first ones of a seed are the same for every n.
        seed: of what is drawn.

    Raises:
        PromptError: an unknown behaviour, or a tokenizer that cannot hold it, such as one that splits all names.

    Example:
        >>> import attrgraph as ag
        >>> pair = ag.prompts_of("ioi", ag.load_model("demo"), n=1)[0]
        >>> pair.clean_text, pair.answer_texts
        ('when kevin and jack went to the garden jack gave a cake to', ('kevin',))
        >>> pair.corrupt_text, pair.wrong_texts
        ('when kevin and jack went to the garden kevin gave a cake to', ('jack',))
    """
    n, seed = whole_number("n", n, least=1, error=PromptError), whole_number("seed", seed, least=0, error=PromptError)
    if behaviour not in BEHAVIOURS:
        raise PromptError(f"behaviour {behaviour!r:.60} is not known; expected one of {', '.join(BEHAVIOURS)}.")
    rng = Random(seed)
    draw = _drawn_lists(model, rng) if behaviour == "induction" else _drawn_sentences(Speller(model), behaviour, rng)
    found = _different(draw, n)
    if len(found) < n:
        raise PromptError(f"{behaviour}: {len(found)} different pairs were found in this model's words; ask for fewer.")
    return [replace(pair, behaviour=behaviour) for pair in found]


def _different(draw: Callable[[], PromptPair], n: int) -> list[PromptPair]:
    """The first `n` different pairs that are drawn, or fewer if no more come."""
    found, in_vain = dict[PromptPair, None](), 0
    while len(found) < n and in_vain < _MOST_IN_VAIN:
        in_vain += 1
        with suppress(PromptError):  # a word that does not fit into this sentence, or two cities of different length
            pair = draw()
            in_vain = in_vain if pair in found else 0
            found[pair] = None
    return list(found)


def _drawn_sentences(speller: Speller, behaviour: str, rng: Random) -> Callable[[], PromptPair]:
    """Draws of the first wording that the tokenizer can hold."""
    reasons = list[str]()
    for wording in WORDINGS[behaviour]:
        words, reason = _words_of(speller, wording)
        # drawn with numbers of their own, so that prompts do not depend on them
        reason = reason or _why_not(speller, wording, words, Random(0))
        if not reason:
            return lambda words=words, wording=wording: speller.pair(wording.draw(rng, words))  # type: ignore[misc]
        reasons.append(reason)
    raise PromptError(
        f"{behaviour}: this model's tokenizer cannot hold these prompts, because it "
        f"{'; and in the words of the demo, it '.join(reasons)}; take another behaviour, or make pairs of your own "
        "with PromptPair.of."
    )


def _words_of(speller: Speller, wording: Wording) -> tuple[Words, str]:
    """The words that are one token each, and why they are too few, if they are."""
    words = {kind: speller.of_one_token(needed) for kind, needed in wording.needs.items()}
    for kind, needed in wording.needs.items():
        if len(words[kind]) < wording.least:
            split = next(word for word in needed if word not in words[kind])
            return words, f"has {len(words[kind])} of {len(needed)} {kind} as one token ({speller.pieces(split)})"
    return words, ""


def _why_not(speller: Speller, wording: Wording, words: Words, rng: Random) -> str:
    """Why no prompt can be made, in an error's words; nothing if one can."""
    why = ""
    for _ in range(_FIRST_DRAWS):
        try:
            speller.pair(wording.draw(rng, words))
            return ""
        except PromptError as e:
            why = str(e)
    return f"can write none of {_FIRST_DRAWS} of them ({why})"


def _drawn_lists(model: LanguageModel, rng: Random) -> Callable[[], PromptPair]:
    """Draws of a list of tokens and its first few again; the next one of the list follows.

    In the twin, the next one and a later one have changed places in the list.
    """
    pool = _tokens_to_list(model, rng)
    if len(pool) < _N_LISTED:
        raise PromptError(f"induction: the vocabulary has {len(pool)} tokens to list; expected at least {_N_LISTED}.")
    front = model.front_token("auto")

    def draw() -> PromptPair:
        listed = rng.sample(pool, _N_LISTED)
        n_again = rng.randint(3, _N_LISTED - 2)
        later = rng.randrange(n_again + 1, _N_LISTED)
        swapped = list(listed)
        swapped[n_again], swapped[later] = listed[later], listed[n_again]
        clean, corrupt = ([*([] if front is None else [front]), *each, *each[:n_again]] for each in (listed, swapped))
        return PromptPair.of(model, clean, corrupt, listed[n_again], listed[later])

    return draw


def _tokens_to_list(model: LanguageModel, rng: Random) -> list[int]:
    """Words in lower case where the vocabulary has enough of them, else all that is text."""
    ids = range(model.d_vocab)
    looked_at = list(ids) if len(ids) <= _MOST_LOOKED_AT else rng.sample(ids, _MOST_LOOKED_AT)
    texts = {i: model.token_text(i) for i in looked_at if not model.is_special(i)}
    if model.tokenizer is not None:
        unknown = model.tokenizer.unk_token_id
        texts = {i: text for i, text in texts.items() if i != unknown and text != f"<{i}>"}
        words = [i for i, text in texts.items() if text[:1] == " " and text[1:].isascii() and text[1:].islower()]
        if len(words) >= _ENOUGH_WORDS:
            return words
    return [i for i in texts if i != model.bos_token_id]
