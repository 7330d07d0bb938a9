"""The demo world: short sentences whose last words are determined, so that answers and circuits can be checked.

A sentence is a tuple of words beginning with `<bos>`, together with the positions whose word follows from the words
before it. Some items of four tasks are held out: they are chosen by a digest of the item, so they never move.

Four of the seven cities of each state have invented two-word names made so that neither word tells the state. The
state of such a city has to be computed at its last word, which is what makes the two-hop circuit exist at all.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any

BOS, PAD, UNKNOWN = "<bos>", "<pad>", "<unk>"
# Places and what they are known for, adjectives in three languages, names, things. States, capitals, birds, flowers,
# trees and nicknames are real (long names are run together); cities of two words are invented. A row of states has its
# name, its attributes and three cities; a row of opposites two adjectives in each language.
LISTS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "words.json").read_text(encoding="utf-8"))
ATTRIBUTES = tuple(LISTS["attributes"])
LANGUAGES = ("english", "french", "spanish")


@dataclass(frozen=True)
class Sentence:
    task: str
    words: tuple[str, ...]
    answers: tuple[int, ...]  # positions whose word is determined by the words before
    is_held_out: bool = False

    @property
    def prompt(self) -> str:
        """The words before the first answer, without `<bos>`."""
        return " ".join(self.words[1 : self.answers[0]])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _is_chosen(item: str, percent: int) -> bool:
    return _digest(item) % 100 < percent


def _invent_cities(n_states: int, n_each: int) -> list[list[str]]:
    """Give every state `n_each` two-word names: no word twice within a state, no name twice at all."""
    names = list(product(LISTS["city_first_words"], LISTS["city_second_words"]))
    salt = 0
    while True:
        left = sorted(names, key=lambda name: _digest(f"{salt} {name}"))
        cities: list[list[str]] = []
        for _ in range(n_states):
            chosen: list[tuple[str, str]] = []
            for first, second in left:
                is_new = all(first != other[0] and second != other[1] for other in chosen)
                if len(chosen) < n_each and is_new:
                    chosen.append((first, second))
            left = [name for name in left if name not in chosen]
            cities.append([" ".join(name) for name in chosen])
        if all(len(chosen) == n_each for chosen in cities):
            return cities
        salt += 1


_STATE_ROWS: list[list[str]] = LISTS["states"]
STATES: dict[str, dict[str, str]] = {row[0]: dict(zip(ATTRIBUTES, row[1:6], strict=True)) for row in _STATE_ROWS}
CITIES: dict[str, list[str]] = {
    row[0]: row[6:] + invented for row, invented in zip(_STATE_ROWS, _invent_cities(len(_STATE_ROWS), 4), strict=True)
}
STATE_OF: dict[str, str] = {city: state for state, cities in CITIES.items() for city in cities}

# concept `c` in each language; its opposite is concept `c ^ 1`
CONCEPTS = {
    language: [word for row in LISTS["opposites"] for word in row[2 * i : 2 * i + 2]]
    for i, language in enumerate(LANGUAGES)
}
N_CONCEPTS = len(CONCEPTS["english"])
_OPPOSITE_TEMPLATES = {
    "english": "the opposite of {} is {}",
    "french": "le contraire de {} est {}",
    "spanish": "el contrario de {} es {}",
}
TRANSLATION_TEMPLATES = {
    ("english", "french"): "the french word for {} is {}",
    ("english", "spanish"): "the spanish word for {} is {}",
    ("french", "english"): "le mot anglais pour {} est {}",
    ("french", "spanish"): "le mot espagnol pour {} est {}",
    ("spanish", "english"): "la palabra inglesa para {} es {}",
    ("spanish", "french"): "la palabra francesa para {} es {}",
}
INDIRECT_OBJECT_TEMPLATES = (
    "when {first} and {second} went to the {place} {giver} gave a {thing} to {receiver}",
    "after {first} and {second} left the {place} {giver} handed a {thing} to {receiver}",
    "then {first} and {second} met at the {place} and {giver} sent a {thing} to {receiver}",
)


def _sentence(task: str, text: str, *, n_answers: int = 1, is_held_out: bool = False) -> Sentence:
    words = (BOS, *text.split())
    return Sentence(task, words, tuple(range(len(words) - n_answers, len(words))), is_held_out)


def location(city: str) -> Sentence:
    return _sentence("location", f"{city} is in {STATE_OF[city]}")


def greeting(city: str) -> Sentence:
    return _sentence("greeting", f"greetings from {city} {STATE_OF[city]}")


def one_hop(state: str, attribute: str) -> Sentence:
    return _sentence("one_hop", f"in {state} the {attribute} is {STATES[state][attribute]}")


def two_hop(city: str, attribute: str) -> Sentence:
    text = f"in the state containing {city} the {attribute} is {STATES[STATE_OF[city]][attribute]}"
    return _sentence("two_hop", text, is_held_out=_is_chosen(f"two_hop {city} {attribute}", 20))


def opposite(language: str, concept: int) -> Sentence:
    words = CONCEPTS[language]
    return _sentence("opposite", _OPPOSITE_TEMPLATES[language].format(words[concept], words[concept ^ 1]))


def translation(source: str, target: str, concept: int) -> Sentence:
    text = TRANSLATION_TEMPLATES[source, target].format(CONCEPTS[source][concept], CONCEPTS[target][concept])
    return _sentence("translation", text)


def indirect_object(template: int, first: str, second: str, *, giver: str, place: str, thing: str) -> Sentence:
    receiver = second if giver == first else first
    text = INDIRECT_OBJECT_TEMPLATES[template].format(
        first=first, second=second, giver=giver, place=place, thing=thing, receiver=receiver
    )
    return _sentence("indirect_object", text, is_held_out=_is_chosen(f"indirect_object {first} {second}", 10))


def induction(words: list[str]) -> Sentence:
    """A list of different words, twice; from the second word of the repeat on, every word is determined."""
    n_words = len(words)
    return Sentence("induction", (BOS, *words, *words), tuple(range(n_words + 2, 2 * n_words + 1)))


def addition(a: int, b: int) -> Sentence:
    """Two-digit addends and a three-digit sum, a token a digit."""
    digits = " ".join(f"{a + b:03d}")
    text = f"calc : {a // 10} {a % 10} + {b // 10} {b % 10} = {digits}"
    return _sentence("addition", text, n_answers=3, is_held_out=_is_chosen(f"addition {min(a, b)} {max(a, b)}", 10))


def agreement(
    subject: int,
    distractor: int,
    *,
    subject_plural: bool,
    distractor_plural: bool,
    preposition: str,
    verb: str,
) -> Sentence:
    subject_word = LISTS["nouns"][subject] + "s" * subject_plural
    distractor_word = LISTS["nouns"][distractor] + "s" * distractor_plural
    verb_word = verb if subject_plural else verb + "s"
    text = f"the {subject_word} {preposition} the {distractor_word} {verb_word}"
    return _sentence("agreement", text, is_held_out=_is_chosen(f"agreement {subject} {distractor}", 10))


def is_right(sentence: Sentence, position: int, word: str) -> bool:
    """Whether `word` is a right answer at `position`: for agreement, any verb of the right number is."""
    expected = sentence.words[position]
    if sentence.task == "agreement":
        return word in _VERB_FORMS and (word in LISTS["verbs"]) == (expected in LISTS["verbs"])
    return word == expected


_VERB_FORMS = frozenset(LISTS["verbs"]) | {verb + "s" for verb in LISTS["verbs"]}


def fixed_sentences() -> Iterator[Sentence]:
    """Every sentence of the tasks that are small enough to list."""
    for city in STATE_OF:
        yield location(city)
        yield greeting(city)
    yield from starmap(one_hop, product(STATES, ATTRIBUTES))
    yield from starmap(two_hop, product(STATE_OF, ATTRIBUTES))
    yield from starmap(opposite, product(LANGUAGES, range(N_CONCEPTS)))
    for (source, target), concept in product(TRANSLATION_TEMPLATES, range(N_CONCEPTS)):
        yield translation(source, target, concept)


def _vocabulary() -> list[str]:
    words = {word for sentence in fixed_sentences() for word in sentence.words}
    for template in INDIRECT_OBJECT_TEMPLATES:
        words.update(word for word in template.split() if "{" not in word)
    words.update(LISTS["names"], LISTS["places"], LISTS["things"], LISTS["prepositions"], _VERB_FORMS)
    words.update(noun + ending for noun in LISTS["nouns"] for ending in ("", "s"))
    words.update("0123456789", ("calc", ":", "+", "="))
    return [PAD, BOS, UNKNOWN, *sorted(words - {BOS})]


VOCABULARY = _vocabulary()
TOKEN_ID = {word: i for i, word in enumerate(VOCABULARY)}
