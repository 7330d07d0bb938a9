"""The label of every feature, beside its controls: a random label, and features of a random dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from attrgraph.features.collect import Collected
from attrgraph.features.kept import by_feature
from attrgraph.features.rules import Firings, Rule, best_rule, judge
from attrgraph.features.statistics import LayerStatistics
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import LayerWeights, TranscoderConfig, Transcoders

# of a random dictionary's labels of a layer, so many score less than a label has to
_CONTROL_QUANTILE = 0.95
_NAMED_TOKENS = 3


@dataclass(frozen=True)
class Label:
    """What is said of a feature: a text, or None where no rule scores above its control."""

    text: str | None
    rule: Rule | None  # the best one found, even if it is no label
    of_random_label: float  # the score of as many other values that are as frequent
    of_random_dictionary: float  # the score that 95% of the layer's random features stay below

    def as_record(self) -> dict[str, Any]:
        """The keys that a feature's record has of it."""
        rule = self.rule
        return {
            "label": self.text or "",
            "label_score": None if rule is None else rule.score,
            "label_interval": None if rule is None else list(rule.interval),
            "label_precision": None if rule is None else rule.precision,
            "label_recall": None if rule is None else rule.recall,
            "label_control": max(self.of_random_label, self.of_random_dictionary),
        }


def labels_of(
    model: LanguageModel,
    collected: Collected,
    layer: int,
    promoted: Int[np.ndarray, "n n_tokens"],
    control: float,
) -> list[Label]:
    """Of all described features of a layer, in their order.

    Args:
        promoted: ids of the tokens that each feature promotes.
        control: see `Label.of_random_dictionary`.
    """
    counts, statistics = collected.counts, collected.layers[layer]
    labels = []
    for row, firings in enumerate(firings_of(statistics)):
        rule = best_rule(counts, *firings)
        if rule is None:
            labels.append(Label(None, None, 0.5, control))
            continue
        rng = np.random.default_rng((layer, int(statistics.features[row])))
        other = Rule(rule.kind, counts.like(rule.kind, rule.values, rng), 0.0, 0.0, 0.0)
        of_random = judge(counts, other, firings[1], side=1).score
        is_above = rule.interval[0] > of_random and rule.score > control
        text = named(model, rule, promoted[row]) if is_above else None
        labels.append(Label(text, rule, of_random, control))
    return labels


def control_of(collected: Collected, layer: int) -> float:
    """The score that most of a random dictionary's features stay below; 0.5, which is chance, if none has a rule."""
    rules = [best_rule(collected.counts, *firings) for firings in firings_of(collected.layers[layer])]
    scores = [0.5 if rule is None else rule.score for rule in rules]
    return float(np.quantile(scores, _CONTROL_QUANTILE)) if scores else 0.5


def firings_of(statistics: LayerStatistics) -> list[tuple[Firings, Firings]]:
    """Of every described feature of a layer, those on the side where labels are found and on the judged one."""
    sides = []
    for side, kept in enumerate(statistics.weighted):
        drawn = by_feature(kept.entries(), len(statistics.features))
        sums = zip(statistics.n_firings[side], statistics.total[side], strict=True)
        nothing = np.zeros(0, dtype=np.int64)
        sides.append(
            [
                Firings(int(n), float(total), each.get("token", nothing), each.get("value", nothing))
                for (n, total), each in zip(sums, drawn, strict=True)
            ]
        )
    return list(zip(*sides, strict=True))


def named(model: LanguageModel, rule: Rule, promoted: Sequence[int] | np.ndarray) -> str:
    """The rule in words."""
    if rule.kind == "position":
        return f"position {', '.join(map(str, sorted(rule.values)))}"
    texts = [f'"{model.token_text(value)}"' for value in rule.values]
    more = f" or {len(texts) - _NAMED_TOKENS} others" if len(texts) > _NAMED_TOKENS else ""
    words = " or ".join(texts[:_NAMED_TOKENS]) + more
    says = "says" if np.isin(rule.values, promoted).any() else "where the answer is"
    return {"token": words, "previous": f"after {words}", "next": f"before {words}", "says": f"{says} {words}"}[
        rule.kind
    ]


def random_dictionary(transcoders: Transcoders, collected: Collected, *, seed: int) -> Transcoders:
    """Encoders of random directions, as long as the real ones, that fire as often as each real feature.

    How often is set by thresholds, on the reads of the sampled tokens; nothing is written.
    """
    generator, layers = torch.Generator().manual_seed(seed), []
    for weights, reads, active in zip(transcoders.layers, collected.reads(), collected.co_active(), strict=True):
        W_enc = torch.randn(weights.W_enc.shape, generator=generator)
        W_enc *= weights.W_enc.float().norm(dim=1, keepdim=True) / W_enc.norm(dim=1, keepdim=True)
        share = torch.from_numpy(np.diff(active.indptr) / max(len(reads), 1)).float()
        threshold = _thresholds(reads, W_enc, share)
        nothing = torch.zeros(len(W_enc), 1, 1).expand(-1, 1, W_enc.shape[1])
        layers.append(LayerWeights(W_enc, torch.zeros(len(W_enc)), nothing, weights.b_dec.float(), threshold))
    config = TranscoderConfig("transcoder_set", feature_input_hook=transcoders.config.feature_input_hook)
    return Transcoders(layers, config, source={"id": "random directions"})


def _thresholds(reads: torch.Tensor, W_enc: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """For each row the value that so large a share of the reads exceeds."""
    h = (reads @ W_enc.T).sort(0, descending=True).values
    at = (share * len(reads)).round().long()
    bound = h.gather(0, at.clamp_max(len(reads) - 1)[None])[0]
    return torch.where(at == 0, h[0] + h[0].abs() + 1.0, bound)
