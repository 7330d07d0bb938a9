"""Why one answer and not another: the graph of the difference of two logits."""

from typing import Any

from attrgraph.attribution.target_words import token_id_of
from attrgraph.attribution.targets import LogitDifference
from attrgraph.attribution.trace import trace
from attrgraph.errors import checked
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt


@checked
def contrast(model: LanguageModel, prompt: Prompt, positive: str | int, negative: str | int, **settings: Any) -> Graph:
    """The graph of the logit of one answer minus that of another, at the prompt's end.

    Its one logit node reads the difference. An edge into it is positive if the source is for `positive`, negative if it
    is for `negative`; what promotes both alike, such as that a name of a city follows, cancels. Effects on features
    have their own signs, as in any graph. Influence is without sign: on what decides between the two, whichever way.

    Args:
        model: a language model with transcoders.
        prompt: as for `trace`.
        positive, negative: tokens by text or id.
        settings: of `trace`, but for `targets`.

    Returns:
        The graph; `metadata["contrast"]` has both tokens' text and id, and `difference`: how far the logit of
        `positive` is above that of `negative`, before soft-capping.

    Raises:
        As `trace`.

    Example:
        >>> import attrgraph as ag
        >>> model = ag.load_model("demo")
        >>> graph = ag.contrast(model, "in the state containing dallas the capital is", "austin", "springfield")
        >>> graph.metadata["contrast"]["difference"] > 0
        True
    """
    graph = trace(model, prompt, targets=LogitDifference(positive, negative), **settings)
    sides = {}
    for side, token in (("positive", positive), ("negative", negative)):
        token_id = token_id_of(model, token)
        sides[side] = {"token": model.token_text(token_id), "token_id": token_id}
    difference = float(graph.nodes.loc[graph.nodes["kind"] == "logit", "activation"].iloc[0])
    graph.metadata["contrast"] = {**sides, "difference": difference}
    return graph
