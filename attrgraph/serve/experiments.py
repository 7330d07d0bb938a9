"""What is asked of the model about a graph: nodes set to something else, measured beside predicted; a validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import AttrGraphError
from attrgraph.files import plain
from attrgraph.graph.graph import Graph
from attrgraph.graph.origin import check_traced_model
from attrgraph.interventions.generate import generate
from attrgraph.interventions.intervene import Effect, effects_of, held_layers, take_apart
from attrgraph.interventions.intervention import Changes, Intervention, places_of, resolve
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import same_options
from attrgraph.progress import Progress
from attrgraph.schema import node_id
from attrgraph.validation.predictions import predict


@dataclass(frozen=True)
class Experiment:
    """What followed when nodes of a graph's prompt were set, and what the graph predicted.

    Attributes:
        effect: as `intervene` gives it for the graph's tokens.
        answers: node_id, token, probability before and after, and the change of the logit about the vocabulary's mean,
            before soft-capping, which edges explain: predicted and measured; a row for each target that is a token
            after the prompt's end.
        texts: how the text goes on, `unchanged` and `changed`; empty where none was asked for.
        notes: what the prediction leaves out.
    """

    effect: Effect
    answers: pd.DataFrame
    texts: dict[str, str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("mode", "kl", "is_flipped", "top_before", "top_after")
        stated = {name: plain(getattr(self.effect, name)) for name in names}
        return {**stated, "answers": plain(self.answers.to_dict("records")), "texts": self.texts, "notes": self.notes}


def experiment(
    model: LanguageModel,
    graph: Graph,
    sets: Sequence[Intervention],
    *,
    mode: str = "constrained",
    max_new_tokens: int = 0,
    progress: Progress,
) -> Experiment:
    """Set nodes of a graph's prompt, and compare what follows with what the graph's edges predict.

    Features respond linearly in the prediction where they may in the mode: nowhere in frozen, above the layers that
    are held in constrained, else everywhere.

    Raises:
        AttrGraphError: the graph is of another model or does not say its tokens, or as `intervene` and `generate`.
    """
    check_traced_model(graph, model)
    token_ids, how = graph.metadata.get("token_ids"), same_options(graph.metadata)
    if not token_ids:
        raise AttrGraphError("the graph has no token ids, so its prompt cannot be run; trace the prompt again.")
    progress("intervene", 0, 1)
    local = take_apart(model, token_ids, **how)
    changes = resolve(local, sets)
    effect = next(effects_of(model, local, [changes], mode=mode))
    whole, n_layers = graph.without_bias(), local.run.n_layers
    relative, notes = _relative(whole, local, sets, changes)
    first = n_layers if mode == "frozen" else held_layers(n_layers, changes.layers, mode, None)
    predicted = predict(whole, relative, responds_from=first).total[:, 0]
    texts = dict[str, str]()
    for name, each in (("unchanged", ()), ("changed", sets)) if max_new_tokens else ():
        going: dict[str, Any] = {"max_new_tokens": max_new_tokens, "mode": mode, "progress": progress}
        texts[name] = generate(model, token_ids, each, **going, **how).text
    return Experiment(effect, _answers(whole, effect, predicted), texts, notes)


def _relative(
    graph: Graph, local: LocalReplacement, sets: Sequence[Intervention], changes: Changes
) -> tuple[Float[np.ndarray, "n_nodes 1"], list[str]]:
    """By how much of itself each node of the graph is changed, and what is set that the graph does not have."""
    rows = {name: row for row, name in enumerate(graph.nodes.index)}
    out, n_lacking = np.zeros((len(rows), 1)), len(changes.components)
    for one in sets:
        for key in places_of(local, one):
            name = key if isinstance(key, str) else node_id("feature", key[0], key[2], key[1])
            before, after = (1.0, one.scale) if isinstance(key, str) or key[1] == -1 else changes.features[key]
            if name in rows and before:
                out[rows[name]] = (after or 0.0) / before - 1
            else:
                n_lacking += 1
    notes = ["the graph is pruned, so the prediction lacks what was dropped"] if "pruning" in graph.metadata else []
    if n_lacking:
        notes.append(f"{n_lacking} of the nodes that are set are not in the graph, and not in the prediction")
    return out, notes


def _answers(graph: Graph, effect: Effect, predicted: Float[np.ndarray, " n_nodes"]) -> pd.DataFrame:
    d_vocab = len(effect.logits_before)
    is_measured = graph.nodes["pos"] == len(graph.prompt_tokens) - 1  # elsewhere the effect is not known
    is_token = ((graph.nodes["kind"] == "logit") & (graph.nodes["feature"] < d_vocab) & is_measured).to_numpy()
    nodes = graph.nodes[is_token]
    at, change = nodes["feature"].to_numpy(), effect.uncapped_change.double().cpu()
    shares = {
        name: logits.double().softmax(-1).cpu().numpy()[at]
        for name, logits in (("before", effect.logits_before), ("after", effect.logits_after))
    }
    measured = (change - change.mean()).numpy()[at]
    columns = {"token": nodes["token"], **shares, "predicted": predicted[is_token], "measured": measured}
    return pd.DataFrame(columns, index=nodes.index).rename_axis("node_id").reset_index()
