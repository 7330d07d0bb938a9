"""How a behaviour is put into sentences, in English and in the demo's words: which words they need, and a draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from attrgraph.demo import world
from attrgraph.prompts import english
from attrgraph.prompts.prompt_pairs import Draft

# of each kind of words that have to be one token, those that are
Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Wording:
    """One way to write a behaviour."""

    draw: Callable[[Random, Words], Draft]
    needs: Words = field(default_factory=dict)  # of which some are one token, and only those are used
    least: int = 4  # of each kind


def _swap(items: Sequence[str], i: int, j: int) -> list[str]:
    swapped = list(items)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def _indirect_object(templates: Sequence[str], places: Sequence[str], things: Sequence[str]) -> Wording:
    """Two names, one of them again: the answer is the other. In the corrupt twin the other one is repeated."""

    def draw(rng: Random, words: Words) -> Draft:
        place, thing = rng.choice(places), rng.choice(things)
        number, (first, second) = rng.randrange(len(templates)), rng.sample(words["names"], 2)
        giver, receiver = rng.choice([(first, second), (second, first)])
        clean, corrupt = (
            templates[number].format(first=first, second=second, giver=who, place=place, thing=thing)
            for who in (giver, receiver)
        )
        order = "ABBA" if giver == second else "BABA"
        return Draft(f"{number} {order}", clean, corrupt, [f" {receiver}"], [f" {giver}"])

    names = world.LISTS["names"] if templates != english.INDIRECT_OBJECTS else english.NAMES
    return Wording(draw, {"names": names})


def _draw_years(rng: Random, words: Words) -> Draft:
    """A later year ends it. In the corrupt twin it begins in the century's year 01, and any year is later."""
    century, year, event = rng.randint(11, 19), rng.randint(11, 89), rng.choice(english.EVENTS)
    clean, corrupt = (english.LASTED.format(event=event, century=century, year=f"{y:02d}") for y in (year, 1))
    later, others = [f"{y:02d}" for y in range(year + 1, 100)], [f"{y:02d}" for y in range(year + 1)]
    return Draft("0", clean, corrupt, later, others, is_first_token=True)


def _draw_docstring(rng: Random, words: Words) -> Draft:
    """Arguments are described in their order. In the corrupt twin the next one changes places with the one after."""
    chosen = rng.sample(words["arguments"], 6)
    name, arguments, fillers = chosen[0], chosen[1:], [rng.choice(words["words"]) for _ in range(7)]
    clean, corrupt = (
        english.DOCSTRING.format(
            name=name,
            signature=", ".join(listed),
            about=" ".join(fillers[:3]),
            first=arguments[0],
            second=arguments[1],
            of_first=" ".join(fillers[3:5]),
            of_second=" ".join(fillers[5:]),
        )
        for listed in (arguments, _swap(arguments, 2, 3))
    )
    return Draft("0", clean, corrupt, [f" {arguments[2]}"], [f" {arguments[3]}"])


def _agreement(
    template: str, prepositions: Sequence[str], *, singular: Sequence[str], plural: Sequence[str]
) -> Wording:
    """The verb goes by the first noun, not by the nearer one. The corrupt twin's first noun has the other number."""

    def draw(rng: Random, words: Words) -> Draft:
        places = rng.sample(range(len(words["nouns"])), 2)
        noun, other = (words["nouns"][i] for i in places)
        is_plural, other = rng.random() < 0.5, other + "s" * (rng.random() < 0.5)
        preposition = rng.choice(prepositions)
        clean, corrupt = (
            template.format(subject=noun + "s" * ends, preposition=preposition, other=other)
            for ends in (is_plural, not is_plural)
        )
        right, wrong = (plural, singular) if is_plural else (singular, plural)
        return Draft("0", clean, corrupt, right, wrong)

    return Wording(draw, {"nouns": english.NOUNS if template == english.AGREEMENT else world.LISTS["nouns"]})


def _two_hops(facts: Mapping[str, Mapping[str, str]]) -> Wording:
    """What is said of a city's state or country. In the corrupt twin the city is in another one."""
    templates = list(facts)

    def draw(rng: Random, words: Words) -> Draft:
        number = rng.randrange(len(templates))
        template, answers = templates[number], facts[templates[number]]
        city, other = rng.sample(list(answers), 2)
        clean, corrupt = template.format(city), template.format(other)
        return Draft(str(number), clean, corrupt, [f" {answers[city]}"], [f" {answers[other]}"])

    return Wording(draw)


_DEMO_FACTS = {
    f"in the state containing {{}} the {attribute} is": {
        city: world.STATES[state][attribute] for city, state in world.STATE_OF.items()
    }
    for attribute in world.ATTRIBUTES
}
_DEMO_VERBS = tuple(f" {verb}" for verb in world.LISTS["verbs"])
# the first wording that a tokenizer can hold is taken
WORDINGS: dict[str, tuple[Wording, ...]] = {
    "ioi": (
        _indirect_object(english.INDIRECT_OBJECTS, english.PLACES, english.THINGS),
        _indirect_object(
            [template.removesuffix(" {receiver}") for template in world.INDIRECT_OBJECT_TEMPLATES],
            world.LISTS["places"],
            world.LISTS["things"],
        ),
    ),
    "greater-than": (Wording(_draw_years),),
    "docstring": (Wording(_draw_docstring, {"arguments": english.ARGUMENTS, "words": english.FILLERS}, least=8),),
    "agreement": (
        _agreement(
            english.AGREEMENT, english.PREPOSITIONS, singular=english.SINGULAR_VERBS, plural=english.PLURAL_VERBS
        ),
        _agreement(
            "the {subject} {preposition} the {other}",
            world.LISTS["prepositions"],
            singular=tuple(f"{verb}s" for verb in _DEMO_VERBS),
            plural=_DEMO_VERBS,
        ),
    ),
    "two-hop": (_two_hops(english.TWO_HOPS), _two_hops(_DEMO_FACTS)),
}
