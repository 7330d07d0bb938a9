"""The demo world: short sentences whose last words are determined, so that answers and circuits can be checked.

A sentence is a tuple of words beginning with `<bos>`, together with the positions whose word follows from the words
before it. Some items of four tasks are held out: they are chosen by a digest of the item, so they never move.

Four of the seven cities of each state have invented two-word names made so that neither word tells the state. The
state of such a city has to be computed at its last word, which is what makes the two-hop circuit exist at all.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product, starmap

from attrgraph.demo import facts

BOS, PAD, UNKNOWN = "<bos>", "<pad>", "<unk>"
ATTRIBUTES = facts.ATTRIBUTES
LANGUAGES = ("english", "french", "spanish")
# Share of each task among sampled sentences. Geography comes first alone, because a model that sees everything from
# the start learns to read the state off the whole sentence at the last word and never computes it at the city.
GEOGRAPHY_MIX = {"location": 15, "greeting": 20, "one_hop": 15, "two_hop": 50}
FULL_MIX = {
    "location": 5,
    "greeting": 14,
    "one_hop": 5,
    "two_hop": 18,
    "opposite": 9,
    "translation": 10,
    "indirect_object": 9,
    "induction": 15,
    "addition": 17,
    "agreement": 4,
}
TASKS = tuple(FULL_MIX)


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
    names = list(product(facts.CITY_FIRST_WORDS, facts.CITY_SECOND_WORDS))
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


_STATE_ROWS = [line.split() for line in facts.STATES.strip().splitlines()]
STATES: dict[str, dict[str, str]] = {row[0]: dict(zip(ATTRIBUTES, row[1:6], strict=True)) for row in _STATE_ROWS}
CITIES: dict[str, list[str]] = {
    row[0]: row[6:] + invented for row, invented in zip(_STATE_ROWS, _invent_cities(len(_STATE_ROWS), 4), strict=True)
}
STATE_OF: dict[str, str] = {city: state for state, cities in CITIES.items() for city in cities}

_OPPOSITES = [line.split() for line in facts.OPPOSITES.strip().splitlines()]
# concept `c` in each language; its opposite is concept `c ^ 1`
CONCEPTS = {
    language: [word for row in _OPPOSITES for word in row[2 * i : 2 * i + 2]] for i, language in enumerate(LANGUAGES)
}
_N_CONCEPTS = len(CONCEPTS["english"])
_OPPOSITE_TEMPLATES = {
    "english": "the opposite of {} is {}",
    "french": "le contraire de {} est {}",
    "spanish": "el contrario de {} es {}",
}
_TRANSLATION_TEMPLATES = {
    ("english", "french"): "the french word for {} is {}",
    ("english", "spanish"): "the spanish word for {} is {}",
    ("french", "english"): "le mot anglais pour {} est {}",
    ("french", "spanish"): "le mot espagnol pour {} est {}",
    ("spanish", "english"): "la palabra inglesa para {} es {}",
    ("spanish", "french"): "la palabra francesa para {} es {}",
}
_INDIRECT_OBJECT_TEMPLATES = (
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
    text = _TRANSLATION_TEMPLATES[source, target].format(CONCEPTS[source][concept], CONCEPTS[target][concept])
    return _sentence("translation", text)


def indirect_object(template: int, first: str, second: str, *, giver: str, place: str, thing: str) -> Sentence:
    receiver = second if giver == first else first
    text = _INDIRECT_OBJECT_TEMPLATES[template].format(
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
    subject_word = facts.NOUNS[subject] + "s" * subject_plural
    distractor_word = facts.NOUNS[distractor] + "s" * distractor_plural
    verb_word = verb if subject_plural else verb + "s"
    text = f"the {subject_word} {preposition} the {distractor_word} {verb_word}"
    return _sentence("agreement", text, is_held_out=_is_chosen(f"agreement {subject} {distractor}", 10))


def is_right(sentence: Sentence, position: int, word: str) -> bool:
    """Whether `word` is a right answer at `position`: for agreement, any verb of the right number is."""
    expected = sentence.words[position]
    if sentence.task == "agreement":
        return word in _VERB_FORMS and (word in facts.VERBS) == (expected in facts.VERBS)
    return word == expected


_VERB_FORMS = frozenset(facts.VERBS) | {verb + "s" for verb in facts.VERBS}


def _fixed_sentences() -> Iterator[Sentence]:
    """Every sentence of the tasks that are small enough to list."""
    for city in STATE_OF:
        yield location(city)
        yield greeting(city)
    yield from starmap(one_hop, product(STATES, ATTRIBUTES))
    yield from starmap(two_hop, product(STATE_OF, ATTRIBUTES))
    yield from starmap(opposite, product(LANGUAGES, range(_N_CONCEPTS)))
    for (source, target), concept in product(_TRANSLATION_TEMPLATES, range(_N_CONCEPTS)):
        yield translation(source, target, concept)


def _vocabulary() -> list[str]:
    words = {word for sentence in _fixed_sentences() for word in sentence.words}
    for template in _INDIRECT_OBJECT_TEMPLATES:
        words.update(word for word in template.split() if "{" not in word)
    words.update(facts.NAMES, facts.PLACES, facts.THINGS, facts.PREPOSITIONS, _VERB_FORMS)
    words.update(noun + ending for noun in facts.NOUNS for ending in ("", "s"))
    words.update("0123456789", ("calc", ":", "+", "="))
    return [PAD, BOS, UNKNOWN, *sorted(words - {BOS})]


VOCABULARY = _vocabulary()
TOKEN_ID = {word: i for i, word in enumerate(VOCABULARY)}
_CITY_LIST, _STATE_LIST, _WORDS = list(STATE_OF), list(STATES), VOCABULARY[3:]


def _draw_indirect_object(rng: random.Random) -> Sentence:
    first, second = rng.sample(facts.NAMES, 2)
    return indirect_object(
        rng.randrange(len(_INDIRECT_OBJECT_TEMPLATES)),
        first,
        second,
        giver=rng.choice((first, second)),
        place=rng.choice(facts.PLACES),
        thing=rng.choice(facts.THINGS),
    )


def _draw_agreement(rng: random.Random) -> Sentence:
    return agreement(
        rng.randrange(len(facts.NOUNS)),
        rng.randrange(len(facts.NOUNS)),
        subject_plural=rng.random() < 0.5,
        distractor_plural=rng.random() < 0.5,
        preposition=rng.choice(facts.PREPOSITIONS),
        verb=rng.choice(facts.VERBS),
    )


_DRAWS: dict[str, Callable[[random.Random], Sentence]] = {
    "location": lambda rng: location(rng.choice(_CITY_LIST)),
    "greeting": lambda rng: greeting(rng.choice(_CITY_LIST)),
    "one_hop": lambda rng: one_hop(rng.choice(_STATE_LIST), rng.choice(ATTRIBUTES)),
    "two_hop": lambda rng: two_hop(rng.choice(_CITY_LIST), rng.choice(ATTRIBUTES)),
    "opposite": lambda rng: opposite(rng.choice(LANGUAGES), rng.randrange(_N_CONCEPTS)),
    "translation": lambda rng: translation(*rng.choice(list(_TRANSLATION_TEMPLATES)), rng.randrange(_N_CONCEPTS)),
    "indirect_object": _draw_indirect_object,
    "induction": lambda rng: induction(rng.sample(_WORDS, rng.randint(3, 8))),
    "addition": lambda rng: addition(rng.randrange(100), rng.randrange(100)),
    "agreement": _draw_agreement,
}


def sample(rng: random.Random, mix: dict[str, int], *, held_out: bool = False) -> Sentence:
    """Draw a sentence of a task drawn by `mix`: never a held-out item, or only held-out ones if `held_out`."""
    task = rng.choices(list(mix), list(mix.values()))[0]
    while True:
        sentence = _DRAWS[task](rng)
        if sentence.is_held_out == held_out:
            return sentence


def city_pairs(n_words: int, n_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of cities of `n_words` words that are in different states."""
    rng = random.Random(seed)
    cities = [city for city in STATE_OF if len(city.split()) == n_words]
    pairs: list[tuple[str, str]] = []
    while len(pairs) < n_pairs:
        first, second = rng.sample(cities, 2)
        if STATE_OF[first] != STATE_OF[second]:
            pairs.append((first, second))
    return pairs


def test_sets(n_each: int = 400, seed: int = 1) -> dict[str, list[Sentence]]:
    """Sentences to measure each task on; a name ending in `/held-out` has items never trained on."""
    rng = random.Random(seed)
    listed = list(_fixed_sentences())
    tasks = ("location", "greeting", "one_hop", "two_hop", "opposite", "translation")
    sets = {task: [s for s in listed if s.task == task and not s.is_held_out] for task in tasks}
    sets["two_hop/held-out"] = [s for s in listed if s.task == "two_hop" and s.is_held_out]
    sets["induction"] = [sample(rng, {"induction": 1}) for _ in range(n_each)]
    for task in ("indirect_object", "addition", "agreement"):
        sets[task] = [sample(rng, {task: 1}) for _ in range(n_each)]
        sets[f"{task}/held-out"] = [sample(rng, {task: 1}, held_out=True) for _ in range(n_each)]
    return sets
