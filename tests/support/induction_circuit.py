"""A model set by hand that goes on with what followed the last token before: an induction circuit in two layers.

The stream is written as in `known_circuit`, in 27 directions, so that a scale is the root of 27 / a position's sum of
squares. A prompt is "bos", then tokens a to d. `one` is 1 everywhere, and each position has a direction of its own.

    attention 0     head 0 looks at the position before; moves 1/3 of a token to prev_token
    MLP 0           "was a"  reads prev_a - one/2,   writes 4 / sqrt(27) was_a; and so for b, c and d
    attention 1     head 0 looks from a token to where it was the one before: from a to was_a; moves sqrt(5/27) of the
                    token there to heard_token. Where there is none, to all alike.
    MLP 1           "say a"  reads heard_a - one/2,  writes 4 / sqrt(4.5) say_a; and so for b, c and d
    unembedding     a token reads say_token

Head 1 of both layers does nothing. A head that looks somewhere does so 10 times the product of what the norm gives at
both ends: at least 50 more than elsewhere, which leaves others e^-50.

By hand, "bos a b c a": every sum of squares begins with 1 + 1 + 1 = 3: scale 3, so that prev_token = 1 at positions 2
to 4, where the sum is 4. There "was" fires with sqrt(27 / 4) (1 - 1/2), and writes 1: the sum is 5. The last token, a,
finds was_a at position 2, and moves b: heard_b = 1, the sum is 6. "say b" fires with sqrt(4.5) / 2 and writes
say_b = 2: the sum is 10. The logit of b is sqrt(2.7) times 2 = 3.286, the others' 0.

Without "was a" at 2, the last position looks at all five alike. heard_a is 1/5 of sqrt(5/27) 3 at 1 and of 1 at 4:
0.458; heard_b 1/5 of sqrt(5 / 4) = 0.224; heard_c 1/5: each below a half, so that nothing is said and all logits are 0.
"""

import numpy as np
from known_circuit import N_CONTEXT, Layer, make_hand_built, neurons_as_features, vectors

from attrgraph.models.language_model import LanguageModel

LETTERS = "abcd"
TOKENS = ["bos", *LETTERS]
PLACES = [f"pos{i}" for i in range(5)]
DIRECTIONS = [*TOKENS, *PLACES, "one", *(f"{what}_{t}" for what in ("prev", "was", "heard", "say") for t in LETTERS)]
N = len(DIRECTIONS)
_NOTHING, _SHARP = np.zeros((N, N)), 10.0


def _matrix(entries: dict[tuple[str, str], float]) -> np.ndarray:
    """[n, n]: from the first of two directions to the second."""
    matrix = np.zeros((N, N))
    for (start, end), value in entries.items():
        matrix[DIRECTIONS.index(start), DIRECTIONS.index(end)] = value
    return matrix


_before = _matrix({(f"pos{i + 1}", f"pos{i}"): _SHARP for i in range(4)})
_followed = _matrix({(t, f"was_{t}"): _SHARP for t in LETTERS})
LAYERS = [
    Layer(
        keys=np.zeros((2, N)),
        scores=np.array([_before, _NOTHING]),
        moves=np.array([_matrix({(t, f"prev_{t}"): 1 / 3 for t in LETTERS}), _NOTHING]),
        reads=vectors(DIRECTIONS, *({f"prev_{t}": 1, "one": -0.5} for t in LETTERS)),
        writes=vectors(DIRECTIONS, *({f"was_{t}": 4 / 27**0.5} for t in LETTERS)),
    ),
    Layer(
        keys=np.zeros((2, N)),
        scores=np.array([_followed, _NOTHING]),
        moves=np.array([_matrix({(t, f"heard_{t}"): (5 / 27) ** 0.5 for t in LETTERS}), _NOTHING]),
        reads=vectors(DIRECTIONS, *({f"heard_{t}": 1, "one": -0.5} for t in LETTERS)),
        writes=vectors(DIRECTIONS, *({f"say_{t}": 4 / 4.5**0.5} for t in LETTERS)),
    ),
]


def make_induction_circuit() -> LanguageModel:
    """The model of this module's docstring, with its neurons as features: numbers 0 to 3 are a to d."""
    position = vectors(DIRECTIONS, *({place: 1.0, "one": 1.0} for place in PLACES), *[{"one": 1.0}] * (N_CONTEXT - 5))
    embedding = vectors(DIRECTIONS, *({token: 1.0} for token in TOKENS))
    unembedding = vectors(DIRECTIONS, {}, *({f"say_{t}": 1.0} for t in LETTERS))
    model = make_hand_built(embedding, position, LAYERS, unembedding)
    model.transcoders = neurons_as_features(LAYERS)
    return model


def token_ids(text: str) -> list[int]:
    return [TOKENS.index(word) for word in text.split()]
