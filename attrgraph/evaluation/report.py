"""What an evaluation found, as values and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from attrgraph.evaluation.statistics import DENSITY_EDGES, Density
from attrgraph.files import plain

Interval = tuple[float, float] | None


class GraphScores(NamedTuple):
    """Mean scores of the attribution graphs of `n` prompts; nan if there are none."""

    replacement: float
    completeness: float
    n: int

    def to_dict(self) -> dict[str, float | None]:
        """For JSON; None for nan."""
        return {name: plain(score) for name, score in self._asdict().items()}


@dataclass(frozen=True)
class LayerEvaluation:
    """What an evaluation found at one layer; see `Evaluation`."""

    layer: int
    nmse: float
    l0: float
    dead_fraction: float
    density: Density

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None for what is undefined on this text."""
        density = {
            "never": self.density.n_never,
            "log10_edges": DENSITY_EDGES.tolist(),
            "counts": self.density.counts.tolist(),
        }
        return {name: plain(value) for name, value in (vars(self) | {"density": density}).items()}


@dataclass(frozen=True)
class Evaluation:
    """How well something sparse stands in for a model's MLPs on a text. A measure that is undefined there is nan.

    Measured at every token but BOS and attention sinks; see `models.special`. With all MLPs there replaced, attention
    and norms live: `top1_agreement`, `kl`, `ce`, `ce_recovered`.
    """

    nmse: float  # mean over layers of: squared error of reconstructed MLP outputs over their variance about their mean
    l0: float  # active features a token, summed over layers
    dead_fraction: float  # of all features: share never active on this text
    top1_agreement: float  # share of tokens after which model and replacement find the same token most probable
    kl: float  # KL(model || replacement) of the next token, nats
    ce: float  # cross-entropy of the replacement with the actual next token, nats
    ce_model: float
    ce_zero_ablation: float  # with all MLP outputs zero
    ce_recovered: float  # (ce_zero_ablation - ce) / (ce_zero_ablation - ce_model)
    per_layer: tuple[LayerEvaluation, ...]
    # 95%, by bootstrap over documents (of graph scores: over graphs); None with fewer than two, which cannot vary
    intervals: Mapping[str, Interval]
    graphs: GraphScores
    n_tokens: int  # that were measured
    n_skipped: int  # that were not, for what they are or where they stand: settings["skipped"] says which
    n_sinks: int  # that were not, because they are attention sinks
    n_documents: int
    model: Mapping[str, Any]
    transcoders: Mapping[str, Any]
    text: Mapping[str, str]  # digests by file
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of what was evaluated."""
        return str(self.transcoders["id"])

    @property
    def l0_by_layer(self) -> list[float]:
        return [layer.l0 for layer in self.per_layer]

    def headline(self) -> dict[str, float | None]:
        """The measures that are one number for the whole text; None for what is undefined on it."""
        return {name: plain(getattr(self, name)) for name in MEASURES}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain values; None for what is undefined on this text."""
        parts = {"per_layer": [layer.to_dict() for layer in self.per_layer], "graphs": self.graphs.to_dict()}
        return {name: plain(value) for name, value in (vars(self) | parts).items()}


# the numbers of an evaluation that are one for the whole text
MEASURES = tuple(field.name for field in fields(Evaluation) if field.type is float)
