"""What is validated: a graph, and the run of the model that it claims to explain."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import AttrGraphError
from attrgraph.graph.graph import Graph
from attrgraph.interventions.intervene import Effect, effects_of, take_apart
from attrgraph.interventions.intervention import Changes, Intervention, resolve
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import same_options
from attrgraph.transcoders.transcoders import FeatureKey


@dataclass(frozen=True)
class Subject:
    """A graph without its bias node, and its prompt split into features and errors in the model."""

    model: LanguageModel
    graph: Graph
    local: LocalReplacement
    memory_budget: int | str | None = None  # of batches of experiments

    @staticmethod
    def of(model: LanguageModel, graph: Graph, memory_budget: int | str | None = None) -> "Subject":
        """Run the graph's prompt.

        Raises:
            AttrGraphError: the graph does not say which prompt it is of, is pruned, does not explain the model's
                answer, or has features that are not active in the run.
        """
        token_ids = graph.metadata.get("token_ids")
        if not token_ids:
            raise AttrGraphError("the graph has no token ids, so its prompt cannot be run; trace the prompt again.")
        if "pruning" in graph.metadata:
            raise AttrGraphError(
                "the graph is pruned, so its predictions lack what was dropped; validate the whole graph."
            )
        logits = graph.nodes[graph.nodes["kind"] == "logit"]
        if not len(logits) or not (logits["feature"] < model.d_vocab).all():
            raise AttrGraphError(
                "the graph explains a direction, a difference or a feature; only graphs of tokens can be validated."
            )
        earlier = logits.index[logits["pos"] < len(token_ids) - 1]
        if len(earlier):
            raise AttrGraphError(
                f"the graph explains {earlier[0]}, which is read before the prompt's end; experiments measure the "
                "answer at its end only. Validate a graph of the prompt up to that position."
            )
        local = take_apart(model, token_ids, memory_budget=memory_budget, **same_options(graph.metadata))
        top, answer = logits.loc[logits["probability"].idxmax()], int(local.run.logits.argmax())
        if top["feature"] != answer:
            raise AttrGraphError(
                f"the graph explains {top['token']!r}, the model's answer is {model.token_text(answer)!r}; whether "
                "features are necessary for an answer can be tested only on graphs of the answer."
            )
        features = graph.nodes.loc[graph.nodes["kind"] == "feature", ["layer", "feature", "pos"]]
        now = local.active.at(list(features.itertuples(index=False, name=None)))
        for node, activation in zip(features.index, now, strict=True):
            if not activation:
                raise AttrGraphError(
                    f"feature {node} of the graph is not active when the model runs its prompt; the graph is of "
                    "another model, has been altered, or was traced on hardware that rounds otherwise. Trace it again."
                )
        return Subject(model, graph.without_bias(), local, memory_budget)

    @property
    def is_marked(self) -> bool:
        """Whether the graph is one that says itself that it is not exact."""
        return not self.graph.metadata.get("checks", {}).get("is_exact", True)

    @cached_property
    def kinds(self) -> np.ndarray:
        return np.asarray(self.graph.nodes["kind"])

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each node."""
        return {node: i for i, node in enumerate(self.graph.nodes.index)}

    @cached_property
    def features(self) -> np.ndarray:
        """Rows of features."""
        return np.flatnonzero(self.kinds == "feature")

    @cached_property
    def answer(self) -> int:
        """Row of the most probable logit."""
        logits = np.flatnonzero(self.kinds == "logit")
        return int(logits[self.graph.nodes["probability"].to_numpy()[logits].argmax()])

    @cached_property
    def can_act(self) -> Bool[np.ndarray, " n_nodes"]:
        """Whether a node can change the answer at all: what the top MLP writes stays at its position."""
        layer, pos = (self.graph.nodes[name].to_numpy() for name in ("layer", "pos"))
        can = (layer < self.local.run.n_layers - 1) | (pos == pos[self.answer])
        errors = np.flatnonzero(self.kinds == "error")
        is_there = (self.local.errors != 0).any(-1).cpu().numpy()  # none at positions that are skipped
        can[errors] &= is_there[layer[errors], pos[errors]]
        able: np.ndarray = np.isin(self.kinds, ("feature", "error", "embedding")) & can
        return able

    @cached_property
    def by_influence(self) -> np.ndarray:
        """Rows of features that can act, the most influential first."""
        able = self.features[self.can_act[self.features]]
        order: np.ndarray = able[np.argsort(-self.graph.nodes["influence"].to_numpy()[able], kind="stable")]
        return order

    @cached_property
    def unselected(self) -> list[FeatureKey]:
        """Active features that the graph does not have."""
        nodes = self.graph.nodes.iloc[self.features]
        selected = set(zip(nodes["layer"], nodes["feature"], nodes["pos"], strict=True))
        return [key for key in self.local.active.places() if key not in selected]

    @cached_property
    def _keys(self) -> pd.MultiIndex:
        return pd.MultiIndex.from_frame(self.graph.nodes.iloc[self.features][["layer", "pos", "feature"]])

    def relative(self, sets: Iterable[Iterable[int]], scale: float = 0.0) -> Float[np.ndarray, "n_nodes n"]:
        """A column for each set of rows that are scaled: the relative change of each node."""
        every = [list(rows) for rows in sets]
        out = np.zeros((len(self.kinds), len(every)))
        for column, rows in enumerate(every):
            out[rows, column] = scale - 1.0
        return out

    def measure(
        self,
        sets: Sequence[Sequence[int]],
        *,
        mode: str,
        scale: float = 0.0,
        with_unselected: bool = False,
        done: Callable[[int], None] = lambda n: None,
    ) -> "Measured":
        """Scale each set of rows in the model, and see what changes. In mode constrained, all MLP outputs are held.

        Args:
            sets: rows of nodes.
            mode: see `intervene`.
            scale: 0 takes nodes out.
            with_unselected: scale the active features that the graph does not have, too.
            done: called with numbers of experiments.
        """
        # Held up to its own layer only, a single node does what it does in mode free, and what cross-layer features
        # write above would be lost.
        upto_layer = self.local.run.n_layers - 1 if mode == "constrained" else None
        also = self.unselected if with_unselected else []
        changes = (self._changes(rows, also, scale) for rows in sets)
        how: dict[str, Any] = {"mode": mode, "upto_layer": upto_layer, "memory_budget": self.memory_budget}
        how["allow_inexact"] = self.is_marked
        found = list[Measured]()
        for effect in effects_of(self.model, self.local, changes, **how):
            found.append(self._read(effect))
            done(1)
        return Measured.join(found)

    def _changes(self, rows: Sequence[int], also: Sequence[FeatureKey], scale: float) -> Changes:
        ids = self.graph.nodes.index
        nodes = [*(ids[row] for row in rows), *also]
        return resolve(self.local, [Intervention(nodes, scale=scale)]) if nodes else Changes()

    def _read(self, effect: Effect) -> "Measured":
        token = int(self.graph.nodes["feature"].iloc[self.answer])
        change = effect.uncapped_change.double().cpu()
        table = effect.features.set_index(["layer", "pos", "feature"])
        features = (table["after"] - table["before"]).reindex(self._keys, fill_value=0.0).to_numpy()
        answer, after = change[token] - change.mean(), effect.logits_after.double()
        others = torch.cat([after[:token], after[token + 1 :]])
        numbers = (answer, after.softmax(-1)[token], after[token] - others.max(), effect.kl)
        of_answer, share, margin, kl = (np.array([float(number)]) for number in numbers)
        return Measured(of_answer, features[:, None], np.array([effect.is_flipped]), share, margin, kl)


@dataclass(frozen=True)
class Measured:
    """What changed in each of several experiments."""

    answer: Float[np.ndarray, " n"]  # logit of the answer before soft-capping, about the mean over the vocabulary
    features: Float[np.ndarray, "n_features n"]  # activations (in mode "frozen": what features would read)
    is_flipped: Bool[np.ndarray, " n"]  # whether another token has become the most probable one
    probability: Float[np.ndarray, " n"]  # of the answer, after
    margin: Float[np.ndarray, " n"]  # the answer's logit less that of the most probable other token, after
    kl: Float[np.ndarray, " n"]  # KL(before || after) of the next token, in nats

    @staticmethod
    def join(parts: "Sequence[Measured]") -> "Measured":
        return Measured(
            *(np.concatenate(each, -1) for each in zip(*(vars(part).values() for part in parts), strict=True))
        )
