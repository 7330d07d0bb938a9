"""Ready-made experiments on one or two prompts: dose curves, and swapping features of one prompt into another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Unpack

import pandas as pd

from attrgraph.attribution.direction import Direction
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import InterventionError, checked
from attrgraph.graph.graph import Graph
from attrgraph.interventions.intervene import Effect, effects_of, needs_transcoders
from attrgraph.interventions.intervention import Intervention, named, places_of, resolve
from attrgraph.interventions.node_names import Component, Node
from attrgraph.interventions.take_apart import take_apart
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions, counted
from attrgraph.transcoders.transcoders import FeatureKey

SCALES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
ALIGNMENTS = ("end", "start")


@checked
def dose_response(
    model: LanguageModel,
    prompt: Prompt,
    nodes: Node | Iterable[Node],
    *,
    scales: Sequence[float] = SCALES,
    mode: str = "constrained",
    upto_layer: int | None = None,
    **options: Unpack[PromptOptions],
) -> pd.DataFrame:
    """What follows when nodes are scaled together, dose by dose.

    Args:
        model: as for `intervene`.
        prompt: as for `trace`.
        nodes: as for `Intervention`.
        scales: multiples of what the nodes are; 1 changes nothing.
        mode, upto_layer: as for `intervene`.
        options: prepend and skip_positions, as for `trace`.

    Returns:
        A row a scale, index `scale`: `logit_change` (of the token that was the most probable one, before soft-capping,
        about the mean over the vocabulary), `probability` of that token, `kl` (nats), `top` (the most probable token).

    Raises:
        As `intervene`.
    """
    scales, one = list(scales), Intervention(nodes, scale=1.0)
    needs = mode.startswith("frozen") or needs_transcoders([one])
    local = take_apart(model, prompt, needs_transcoders=needs, **options)
    changes = [resolve(local, [replace(one, scale=scale)]) for scale in scales]
    answer = int(local.run.logits.argmax())
    rows = []
    for effect in effects_of(model, local, changes, mode=mode, upto_layer=upto_layer):
        change = effect.uncapped_change.double()
        rows.append(
            {
                "logit_change": float(change[answer] - change.mean()),
                "probability": float(effect.logits_after.double().softmax(-1)[answer]),
                "kl": effect.kl,
                "top": effect.top_after[0][0],
            }
        )
    return pd.DataFrame(rows, index=pd.Index(scales, name="scale", dtype="float64"))


@dataclass(frozen=True)
class Swap:
    """What followed when features of one prompt took the place of features of another."""

    effect: Effect  # on the first prompt
    answer_a: str  # each prompt's own most probable token
    answer_b: str

    @property
    def is_swapped(self) -> bool:
        """Whether the first prompt's answer has become the second one's, which is another."""
        return self.answer_a != self.answer_b and self.effect.top_after[0][0] == self.answer_b


class FeaturesAt(NamedTuple):
    """A graph's features at one position, by node ids, the most influential first."""

    kept: list[str]  # those that pruning keeps
    others: list[str]


@checked
def features_at(graph: Graph, pos: int, *, node_threshold: float = 0.8) -> FeaturesAt:
    """What a graph itself picks at a position, and the other active features there to compare with.

    Args:
        graph: unpruned.
        pos: the position, from the end if negative.
        node_threshold: of the pruning that picks.

    Raises:
        PromptError: the prompt does not have the position.
        InterventionError: the graph has no features at the position, or pruning keeps none.
    """
    nodes, pos = graph.nodes, counted(pos, len(graph.prompt_tokens), "pos")
    here = nodes[(nodes["kind"] == "feature") & (nodes["pos"] == pos)]
    ids = here.sort_values("influence", ascending=False, kind="stable").index.tolist()
    picked = set(graph.prune(node_threshold).nodes.index)
    found = FeaturesAt([node for node in ids if node in picked], [node for node in ids if node not in picked])
    if not found.kept:
        raise InterventionError(
            f"of {len(ids)} features at position {pos}, pruning to {node_threshold} of influence keeps none."
        )
    return found


@checked
def swap(
    model: LanguageModel,
    prompt_a: Prompt,
    prompt_b: Prompt,
    features_a: Node | Iterable[Node],
    features_b: Node | Iterable[Node],
    *,
    dose: float = 1.0,
    align: str = "end",
    mode: str = "constrained",
    upto_layer: int | None = None,
    **options: Unpack[PromptOptions],
) -> Swap:
    """Take features out of one prompt's run and put another prompt's in their place.

    In the run of `prompt_a` each activation `a` becomes `a - dose * a_A + dose * a_B`, where `a_A` is the feature's
    activation in `prompt_a` if it is one of `features_a`, and `a_B` that in `prompt_b` if it is one of `features_b`.

    Args:
        model: a language model with transcoders.
        prompt_a, prompt_b: as for `trace`.
        features_a, features_b: features, each by its place in its own prompt. They must be active there.
        dose: 1 swaps them; more takes out and puts in more than there was.
        align: which positions of the prompts correspond when their lengths differ: counted from the "end" or "start".
        mode, upto_layer: as for `intervene`.
        options: prepend and skip_positions, as for `trace`.

    Raises:
        InterventionError: as `intervene`; a node that is no active feature, or one that has no place in `prompt_a`.

    Example:
        >>> import attrgraph as ag
        >>> model = ag.load_model("demo")
        >>> prompts = [f"in the state containing {city} the capital is" for city in ("dallas", "chicago")]
        >>> groups = [ag.features_at(ag.trace(model, prompt), 5).kept for prompt in prompts]
        >>> ag.swap(model, *prompts, *groups).effect.top_after[0][0]
        'springfield'
    """
    if align not in ALIGNMENTS:
        raise InterventionError(f"align is {align!r}; expected {' or '.join(ALIGNMENTS)}.")
    a, b = (take_apart(model, prompt, **options) for prompt in (prompt_a, prompt_b))
    shift = a.run.n_pos - b.run.n_pos if align == "end" else 0
    taken, given = _active(a, features_a, "prompt_a"), _active(b, features_b, "prompt_b")
    activations = {key: (1 - dose) * value for key, value in taken.items()}
    places = [(layer, feature, pos + shift) for layer, feature, pos in given]
    wrong = next((pos for _, _, pos in places if not 0 <= pos < a.run.n_pos), None)
    if wrong is not None:
        raise InterventionError(
            f"position {wrong - shift} of prompt_b has no counterpart in prompt_a, aligned by {align!r}."
        )
    for key, now, value in zip(places, a.active.at(places), given.values(), strict=True):
        activations[key] = activations.get(key, now) + dose * value
    changes = resolve(a, [Intervention(key, value=value) for key, value in activations.items()])
    (effect,) = effects_of(model, a, [changes], mode=mode, upto_layer=upto_layer)
    answers = [model.token_text(int(local.run.logits.argmax())) for local in (a, b)]
    return Swap(effect, *answers)


def _active(local: LocalReplacement, nodes: Node | Iterable[Node], name: str) -> dict[FeatureKey, float]:
    """Activations of features by their places."""
    one = Intervention(nodes, scale=1.0)
    others = [node for node in one.each() if isinstance(node, Component | Direction)]
    if others:
        raise InterventionError(f"{name}: {named(others[0])} is no feature; only active features can be swapped.")
    places = places_of(local, one)
    features = [key for key in places if not isinstance(key, str) and key[1] != -1]
    found = dict(zip(features, local.active.at(features), strict=True))
    for node in places:
        if isinstance(node, str) or not found.get(node):
            raise InterventionError(
                f"{name}: node {node} is no active feature of this prompt; only these can be swapped."
            )
    return found
