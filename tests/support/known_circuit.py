"""A model set by hand that answers in two hops, and its attribution graph worked out in plain numpy.

The stream is written in 16 named directions. Direction k is +1 at coordinate 2k and -1 at 2k + 1, so the stream's mean
is always 0, and a LayerNorm (weight 1, bias and epsilon 0) does nothing but divide a position's 16 coefficients by
their root mean square. A neuron (ReLU) is a feature; transcoders reading after it (`mlp.hook_in`) have no error.

    embedding       a token writes 1 into its own direction; every position has `one` = 1 (the position embedding)
    MLP 0           texas          reads dallas + houston - one/2,  writes texas
                    california     reads oakland - one/2,           writes california
                    fish           reads fish - one/2,              writes animal, which nothing reads
    attention 1     head 0 averages over all positions; moves sqrt(2) texas to heard_texas, and so for california
                    head 1 looks three times as hard at cities; moves dallas to say_austin: a shortcut
    MLP 1           say austin     reads 2 capital + heard_texas - 5/2 one,       writes 3 say_austin
                    say sacramento reads 2 capital + heard_california - 5/2 one,  writes 3 say_sacramento
                    say a capital  reads capital - one/2,           writes say_austin + say_sacramento
    unembedding     austin reads say_austin, sacramento reads say_sacramento,
                    texas reads heard_texas + one/4

By hand, "bos dallas the capital": a scale is the norm's factor, 4 / the root of a position's sum of squares. At first
that sum is 1 + 1 everywhere: scale sqrt(8), so texas = sqrt(8) (1 - 1/2) = sqrt(2) at dallas. There the sum is now 4:
scale 2. At the last of four positions heard_texas = sqrt(2) 1/4 2 sqrt(2) = 1, and say_austin = 3/6 2 = 1. With capital
and one the sum is 4: scale 2, so say austin = 2 (2 + 1 - 5/2) = 1 and say a capital = 2 (1 - 1/2) = 1. At the end
say_austin = 1 + 3 + 1 = 5 and say_sacramento = 1; the sum is 29, and the logits are 4 / sqrt(29) times 5, 1, and
5/4 (texas).
"""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import torch

from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import LayerWeights, TranscoderConfig, Transcoders
from attrgraph.transcoders.config import PER_LAYER

N_CONTEXT = 16


@dataclass(frozen=True)
class Layer:
    """One block in coefficients: two heads, and an MLP whose neurons are the features.

    A head's pattern is the softmax over earlier positions k of `keys[h] . c[k]`, whoever asks, with c what the norm
    gives; or, of a layer with `scores`, at position q of `c[q] @ scores[h] @ c[k]`. It moves `c[k] @ moves[h]`.
    """

    keys: np.ndarray  # [2, n]
    moves: np.ndarray  # [2, n, n]
    reads: np.ndarray  # [n_features, n]
    writes: np.ndarray  # [n_features, n]
    scores: np.ndarray | None = None  # [2, n, n]


def vectors(names: list[str], *rows: dict[str, float]) -> np.ndarray:
    """[n_rows, n]: each row the coefficients of some of the named directions."""
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def to_stream(coefficients: np.ndarray) -> torch.Tensor:
    """Vectors that write these coefficients."""
    return torch.from_numpy(np.kron(coefficients, [1.0, -1.0]))


def to_read(coefficients: np.ndarray) -> torch.Tensor:
    """Vectors whose product with a stream is the product of these coefficients with the stream's."""
    return to_stream(coefficients) / 2


@torch.no_grad()
def make_hand_built(
    embedding: np.ndarray, position: np.ndarray, layers: list[Layer], unembedding: np.ndarray
) -> LanguageModel:
    """A float64 GPT-2 with these parts and nothing else; token 0 is BOS.

    Args:
        embedding, unembedding: [n_tokens, n] coefficients.
        position: [n] what every position has besides, or [N_CONTEXT, n] what each has.
    """
    n = embedding.shape[1]
    hf_model = create_hf_model(
        "gpt2",
        seed=0,
        vocab_size=len(embedding),
        n_layer=len(layers),
        n_embd=2 * n,
        n_head=2,
        n_positions=N_CONTEXT,
        n_inner=len(layers[0].reads),
        activation_function="relu",
        layer_norm_epsilon=0.0,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
    ).double()
    for name, parameter in hf_model.named_parameters():
        is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
        parameter.fill_(1.0 if is_norm_weight else 0.0)
    body = hf_model.transformer
    body.wte.weight.copy_(to_stream(embedding))
    body.wpe.weight.copy_(to_stream(position))
    hf_model.lm_head.weight.copy_(to_read(unembedding))
    for block, layer in zip(body.h, layers, strict=True):
        for head in range(2):  # queries, keys and values lie in three parts of 2n columns, n of them a head's
            first = head * n
            # the root takes back the division by that of the head's size
            if layer.scores is None:
                block.attn.c_attn.bias[first] = sqrt(n)
                block.attn.c_attn.weight[:, 2 * n + first] = to_read(layer.keys[head])
            else:
                block.attn.c_attn.weight[:, first : first + n] = sqrt(n) * to_read(layer.scores[head].T).T
                block.attn.c_attn.weight[:, 2 * n + first : 3 * n + first] = to_read(np.eye(n)).T
            block.attn.c_attn.weight[:, 4 * n + first : 5 * n + first] = to_read(np.eye(n)).T
            block.attn.c_proj.weight[first : first + n] = to_stream(layer.moves[head])
        block.mlp.c_fc.weight.copy_(to_read(layer.reads).T)
        block.mlp.c_proj.weight.copy_(to_stream(layer.writes))
    return LanguageModel(hf_model.requires_grad_(False))


def neurons_as_features(layers: list[Layer]) -> Transcoders:
    """Per-layer transcoders without error."""
    weights = [
        LayerWeights(
            W_enc=to_read(layer.reads),
            b_enc=torch.zeros(len(layer.reads), dtype=torch.float64),
            W_dec=to_stream(layer.writes)[:, None],
            b_dec=torch.zeros(2 * layer.reads.shape[1], dtype=torch.float64),
        )
        for layer in layers
    ]
    return Transcoders(weights, TranscoderConfig(model_kind=PER_LAYER, feature_input_hook="mlp.hook_in"))


PROMPT_TOKENS = "bos dallas houston oakland capital fish the of".split()
TOKENS = [*PROMPT_TOKENS, "austin", "sacramento", "texas"]
DIRECTIONS = [
    *PROMPT_TOKENS,
    *"one texas california animal heard_texas heard_california say_austin say_sacramento".split(),
]
N = len(DIRECTIONS)
EMBEDDING = np.eye(len(TOKENS), N) * (np.arange(len(TOKENS)) < len(PROMPT_TOKENS))[:, None]
(POSITION,) = vectors(DIRECTIONS, {"one": 1})
UNEMBEDDING = np.zeros((len(TOKENS), N))
UNEMBEDDING[-3:] = vectors(DIRECTIONS, {"say_austin": 1}, {"say_sacramento": 1}, {"heard_texas": 1, "one": 0.25})
_AVERAGED = {"texas": {"heard_texas": sqrt(2)}, "california": {"heard_california": sqrt(2)}}
_SHORTCUT = {"dallas": {"say_austin": 1.0}}
LAYERS = [
    Layer(
        keys=np.zeros((2, N)),
        moves=np.zeros((2, N, N)),
        reads=vectors(
            DIRECTIONS, {"dallas": 1, "houston": 1, "one": -0.5}, {"oakland": 1, "one": -0.5}, {"fish": 1, "one": -0.5}
        ),
        writes=vectors(DIRECTIONS, {"texas": 1}, {"california": 1}, {"animal": 1}),
    ),
    Layer(
        # at a city the norm gives 2, so that its score is log 3
        keys=log(3) / 2 * vectors(DIRECTIONS, {}, {"dallas": 1, "houston": 1, "oakland": 1}),
        moves=np.array(
            [vectors(DIRECTIONS, *(m.get(name, {}) for name in DIRECTIONS)) for m in (_AVERAGED, _SHORTCUT)]
        ),
        reads=vectors(
            DIRECTIONS,
            {"capital": 2, "heard_texas": 1, "one": -2.5},
            {"capital": 2, "heard_california": 1, "one": -2.5},
            {"capital": 1, "one": -0.5},
        ),
        writes=vectors(DIRECTIONS, {"say_austin": 3}, {"say_sacramento": 3}, {"say_austin": 1, "say_sacramento": 1}),
    ),
]


def make_known_circuit() -> LanguageModel:
    """The model of this module's docstring, with its transcoders."""
    model = make_hand_built(EMBEDDING, POSITION, LAYERS, UNEMBEDDING)
    model.transcoders = neurons_as_features(LAYERS)
    return model


def token_ids(text: str) -> list[int]:
    return [TOKENS.index(word) for word in text.split()]


@dataclass(frozen=True)
class TrueRun:
    """One prompt's run, by position."""

    tokens: list[int]
    scales: tuple[np.ndarray, ...]  # 1 / root mean square in front of MLP 0, attention 1, MLP 1, and at the end
    patterns: np.ndarray  # [head, query, key] of attention 1
    activations: tuple[np.ndarray, ...]  # [n_pos, n_features] of each layer
    logits: np.ndarray  # of the last position

    def features(self) -> dict[str, float]:
        """Activations of active features by node id."""
        by_layer = enumerate(self.activations)
        return {f"{at}_{f}_{p}": float(a[p, f]) for at, a in by_layer for p, f in zip(*a.nonzero(), strict=True)}


def true_run(tokens: list[int], *, off: tuple[int, int] | None = None, held: np.ndarray | None = None) -> TrueRun:
    """The circuit step by step.

    Args:
        off: a feature of layer 0 (position, feature) that is taken out.
        held: activations that layer 1 keeps, whatever it reads.
    """
    n_pos = len(tokens)
    stream = EMBEDDING[tokens] + POSITION
    scales = [_scale(stream)]
    lower = np.maximum(0, scales[0][:, None] * stream @ LAYERS[0].reads.T)
    if off is not None:
        lower[off] = 0
    stream = stream + lower @ LAYERS[0].writes
    scales.append(_scale(stream))
    normed = scales[1][:, None] * stream
    weights = np.exp(LAYERS[1].keys @ normed.T)[:, None] * np.tri(n_pos)  # [head, query, key]
    patterns = weights / weights.sum(-1, keepdims=True)
    stream = stream + sum(pattern @ normed @ moves for pattern, moves in zip(patterns, LAYERS[1].moves, strict=True))
    scales.append(_scale(stream))
    upper = np.maximum(0, scales[2][:, None] * stream @ LAYERS[1].reads.T) if held is None else held
    stream = stream + upper @ LAYERS[1].writes
    scales.append(_scale(stream))
    return TrueRun(tokens, tuple(scales), patterns, (lower, upper), scales[3][-1] * UNEMBEDDING @ stream[-1])


def true_edges(run: TrueRun, targets: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Every edge that is not zero, by the node ids of target and source.

    Args:
        targets: what each logit node reads after the final norm, in coefficients.
    """
    last, (lower, upper) = len(run.tokens) - 1, run.activations
    edges: dict[tuple[str, str], float] = {}
    below = [(f"E_{token}_{p}", p, EMBEDDING[token]) for p, token in enumerate(run.tokens)]
    for p, f in zip(*lower.nonzero(), strict=True):
        read = run.scales[0][p] * LAYERS[0].reads[f]
        edges[f"0_{f}_{p}", below[p][0]] = read @ EMBEDDING[run.tokens[p]]
        edges[f"0_{f}_{p}", "B"] = read @ POSITION
    below += [(f"0_{f}_{p}", p, lower[p, f] * LAYERS[0].writes[f]) for p, f in zip(*lower.nonzero(), strict=True)]
    readers = [(f"1_{f}_{q}", q, run.scales[2][q] * LAYERS[1].reads[f]) for q, f in zip(*upper.nonzero(), strict=True)]
    readers += [(node, last, run.scales[3][last] * read) for node, read in targets.items()]
    for target, q, read in readers:
        for source, p, written in below:
            edges[target, source] = _carried(run, written, p, q) @ read
        edges[target, "B"] = sum(_carried(run, POSITION, p, q) for p in range(q + 1)) @ read
    for target, read in targets.items():
        for f in upper[last].nonzero()[0]:
            edges[target, f"1_{f}_{last}"] = run.scales[3][last] * upper[last, f] * LAYERS[1].writes[f] @ read
    return {key: float(edge) for key, edge in edges.items() if abs(edge) > 1e-12}


def _scale(stream: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt((stream**2).mean(-1))


def _carried(run: TrueRun, written: np.ndarray, p: int, q: int) -> np.ndarray:
    """What reaches position q above attention 1 of what is written at p below it."""
    moved = sum(run.patterns[h, q, p] * run.scales[1][p] * written @ LAYERS[1].moves[h] for h in range(2))
    return moved + written * (p == q)
