"""Sentences of the demo world as they are drawn: for training, and to measure each task on."""

import random
from collections.abc import Callable

from attrgraph.demo import world

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
_CITY_LIST, _STATE_LIST, _WORDS = list(world.STATE_OF), list(world.STATES), world.VOCABULARY[3:]


def _draw_indirect_object(rng: random.Random) -> world.Sentence:
    first, second = rng.sample(world.LISTS["names"], 2)
    return world.indirect_object(
        rng.randrange(len(world.INDIRECT_OBJECT_TEMPLATES)),
        first,
        second,
        giver=rng.choice((first, second)),
        place=rng.choice(world.LISTS["places"]),
        thing=rng.choice(world.LISTS["things"]),
    )


def _draw_agreement(rng: random.Random) -> world.Sentence:
    return world.agreement(
        rng.randrange(len(world.LISTS["nouns"])),
        rng.randrange(len(world.LISTS["nouns"])),
        subject_plural=rng.random() < 0.5,
        distractor_plural=rng.random() < 0.5,
        preposition=rng.choice(world.LISTS["prepositions"]),
        verb=rng.choice(world.LISTS["verbs"]),
    )


_DRAWS: dict[str, Callable[[random.Random], world.Sentence]] = {
    "location": lambda rng: world.location(rng.choice(_CITY_LIST)),
    "greeting": lambda rng: world.greeting(rng.choice(_CITY_LIST)),
    "one_hop": lambda rng: world.one_hop(rng.choice(_STATE_LIST), rng.choice(world.ATTRIBUTES)),
    "two_hop": lambda rng: world.two_hop(rng.choice(_CITY_LIST), rng.choice(world.ATTRIBUTES)),
    "opposite": lambda rng: world.opposite(rng.choice(world.LANGUAGES), rng.randrange(world.N_CONCEPTS)),
    "translation": lambda rng: world.translation(
        *rng.choice(list(world.TRANSLATION_TEMPLATES)), rng.randrange(world.N_CONCEPTS)
    ),
    "indirect_object": _draw_indirect_object,
    "induction": lambda rng: world.induction(rng.sample(_WORDS, rng.randint(3, 8))),
    "addition": lambda rng: world.addition(rng.randrange(100), rng.randrange(100)),
    "agreement": _draw_agreement,
}


def sample(rng: random.Random, mix: dict[str, int], *, held_out: bool = False) -> world.Sentence:
    """Draw a sentence of a task drawn by `mix`: never a held-out item, or only held-out ones if `held_out`."""
    task = rng.choices(list(mix), list(mix.values()))[0]
    while True:
        sentence = _DRAWS[task](rng)
        if sentence.is_held_out == held_out:
            return sentence


def city_pairs(n_words: int, n_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of cities of `n_words` words that are in different states."""
    rng = random.Random(seed)
    cities = [city for city in world.STATE_OF if len(city.split()) == n_words]
    pairs: list[tuple[str, str]] = []
    while len(pairs) < n_pairs:
        first, second = rng.sample(cities, 2)
        if world.STATE_OF[first] != world.STATE_OF[second]:
            pairs.append((first, second))
    return pairs


def test_sets(n_each: int = 400, seed: int = 1) -> dict[str, list[world.Sentence]]:
    """Sentences to measure each task on; a name ending in `/held-out` has items never trained on."""
    rng = random.Random(seed)
    listed = list(world.fixed_sentences())
    tasks = ("location", "greeting", "one_hop", "two_hop", "opposite", "translation")
    sets = {task: [s for s in listed if s.task == task and not s.is_held_out] for task in tasks}
    sets["two_hop/held-out"] = [s for s in listed if s.task == "two_hop" and s.is_held_out]
    sets["induction"] = [sample(rng, {"induction": 1}) for _ in range(n_each)]
    for task in ("indirect_object", "addition", "agreement"):
        sets[task] = [sample(rng, {task: 1}) for _ in range(n_each)]
        sets[f"{task}/held-out"] = [sample(rng, {task: 1}, held_out=True) for _ in range(n_each)]
    return sets
