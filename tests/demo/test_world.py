"""The demo world is what the model card says it is."""

import random
from collections import Counter

import draws
import pytest
from labels import things_at
from packing import ROW_LENGTH, WEIGHT_OF_FREE_WORDS, SentencePacker

from attrgraph.demo import world


def test_sizes_are_as_documented() -> None:
    assert len(world.STATES) == 32
    assert len(world.STATE_OF) == 224
    assert Counter(len(city.split()) for city in world.STATE_OF) == {1: 96, 2: 128}
    assert len(world.VOCABULARY) == len(set(world.VOCABULARY)) == 647


def test_neither_word_of_a_two_word_city_tells_the_state() -> None:
    states_of_word: dict[tuple[int, str], set[str]] = {}
    for city, state in world.STATE_OF.items():
        for place, word in enumerate(city.split()):
            if " " in city:
                states_of_word.setdefault((place, word), set()).add(state)
    assert min(len(states) for states in states_of_word.values()) >= 5


def test_held_out_items_never_move_and_are_never_drawn() -> None:
    held_out = draws.test_sets()["two_hop/held-out"]
    assert len(held_out) == 228
    assert held_out[0].prompt == "in the state containing birmingham the capital is"
    texts = {s.words for s in held_out}
    rng = random.Random(0)
    assert not any(draws.sample(rng, {"two_hop": 1}).words in texts for _ in range(3000))
    assert all(draws.sample(rng, {"addition": 1}, held_out=True).is_held_out for _ in range(50))


@pytest.mark.parametrize(
    ("sentence", "text", "answers"),
    [
        (world.two_hop("dallas", "capital"), "in the state containing dallas the capital is austin", 1),
        (world.addition(7, 95), "calc : 0 7 + 9 5 = 1 0 2", 3),
        (world.opposite("french", 0), "le contraire de petit est grand", 1),
        (world.translation("spanish", "english", 3), "la palabra inglesa para frio es cold", 1),
        (
            world.indirect_object(0, "mary", "john", giver="john", place="store", thing="drink"),
            "when mary and john went to the store john gave a drink to mary",
            1,
        ),
        (
            world.agreement(0, 6, subject_plural=True, distractor_plural=False, preposition="near", verb="run"),
            "the dogs near the farmer run",
            1,
        ),
        (world.induction(["a", "b", "c"]), "a b c a b c", 2),
    ],
)
def test_sentences_say_what_they_should(sentence: world.Sentence, text: str, answers: int) -> None:
    assert sentence.words == ("<bos>", *text.split())
    assert sentence.answers == tuple(range(len(sentence.words) - answers, len(sentence.words)))


def test_any_verb_of_the_right_number_is_right() -> None:
    sentence = world.agreement(0, 6, subject_plural=True, distractor_plural=False, preposition="near", verb="run")
    last = len(sentence.words) - 1
    assert world.is_right(sentence, last, "sleep") and not world.is_right(sentence, last, "runs")
    assert not world.is_right(sentence, last, "farmer")


def test_packed_sentences_see_only_themselves() -> None:
    batch = SentencePacker(draws.FULL_MIX, n_rows=5, seed=3).next_batch()
    tokens = batch.tokens
    assert tokens.token_ids.shape == (5, ROW_LENGTH)
    bos = world.TOKEN_ID[world.BOS]
    may_look = tokens.attention_mask[:, 0] == 0
    for row in range(5):
        sentence = (tokens.token_ids[row] == bos).cumsum(0)
        is_word = tokens.token_ids[row] != world.TOKEN_ID[world.PAD]
        for query in is_word.nonzero().flatten().tolist():
            same = (sentence == sentence[query]) & is_word
            same[query + 1 :] = False
            assert may_look[row, query].tolist() == same.tolist()
            assert tokens.positions[row, query] == same.sum() - 1
        assert (tokens.is_trained[row] == (is_word & (tokens.token_ids[row] != bos))).all()
    assert batch.weights.unique().tolist() == pytest.approx([0.0, WEIGHT_OF_FREE_WORDS, 1.0])


def test_same_seed_gives_the_same_batches() -> None:
    first, second = (SentencePacker(draws.FULL_MIX, n_rows=3, seed=1) for _ in range(2))
    for _ in range(3):
        assert first.next_batch().tokens.token_ids.equal(second.next_batch().tokens.token_ids)


def test_things_to_detect_follow_the_sentence() -> None:
    at = things_at(world.two_hop("mount haven", "capital"))
    assert at[4] == {'"mount"', "task two_hop"}
    assert at[5] == {'"haven"', "task two_hop", "city in texas"}
    assert at[6] == {'"the"', "task two_hop", "after texas"}
    assert at[8] == {'"is"', "task two_hop", "after texas", "says austin"}
    # a city in a list of random words is only a word
    assert things_at(world.induction(["dallas", "dog"]))[0] == {'"dallas"', "task induction"}
