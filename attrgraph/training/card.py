"""The model card of trained weights, from the run's record and what was measured."""

from pathlib import Path
from typing import Any

from attrgraph.evaluation import Evaluation
from attrgraph.models.special import SINK_FACTOR

# weights are then hardly better than at their beginning
_FEW_STEPS = 40
_CARD = Path(__file__).parent / "card.md"
_FORMATS = {
    "nmse": ".4f", "l0": ".2f", "dead_fraction": ".1%", "top1_agreement": ".3f", "kl": ".4f", "ce_recovered": ".3f"
}  # fmt: skip
_EXPORTS = {
    "batchtopk": "Trained as BatchTopK, exported as JumpReLU with one calibrated threshold a layer.",
    "topk": "TopK (circuit-tracer ignores k in cross-layer sets).",
    "jumprelu": "JumpReLU with learned thresholds, each layer's moved by one factor so that L0 is as asked.",
    "relu": "ReLU, trained with an L1 penalty.",
}


def _skipped(skipped: dict[str, Any], measured: Evaluation) -> str:
    """Which tokens were neither trained on nor measured, and why."""
    ids = f"{skipped['why']} ({skipped['n']:,} tokens in training, {measured.n_skipped:,} held out)"
    if measured.settings["skip_positions"] != "auto":
        return ids
    return (
        f"{ids}; attention sinks, whose stream is at least {SINK_FACTOR:g} times longer than the median of their row's "
        f"others ({skipped['n_sinks']:,} of the first {skipped['of']:,} tokens in training, "
        f"{measured.n_sinks:,} held out)"
    )


def too_short(result: dict[str, Any]) -> str:
    """A warning if a run had too few steps to learn, else nothing."""
    n_steps = result.get("step", 0)
    if n_steps >= _FEW_STEPS:
        return ""
    return f"{n_steps} steps are too few to learn anything of use; train on more tokens, or for longer."


def training_card(record: dict[str, Any], measured: Evaluation) -> str:
    """Markdown from `training.yaml`'s content, `result` included, and the measurements."""
    config, result = record["config"], record["result"]
    shown = {
        name: "undefined here" if value is None else format(value, _FORMATS[name])
        for name, value in measured.headline().items()
        if name in _FORMATS
    }
    layers = [
        f"| {layer.layer} | {layer.nmse:.4f} | {layer.l0:.2f} | {layer.dead_fraction:.1%} |"
        for layer in measured.per_layer
    ]
    return _CARD.read_text(encoding="utf-8").format(
        record=record,
        config=config,
        result={"step": 0, **result},
        too_short=(too_short(result) + "\n\n").lstrip(),
        measured=measured,
        **shown,
        kind="cross-layer" if config["is_cross_layer"] else "per-layer",
        skipped=_skipped(result["skipped"], measured),
        activation=_EXPORTS[config["activation"]],
        layers="\n".join(layers),
        trained_tokens=result.get("tokens", 0),
        seconds=result.get("seconds", 0.0),
        text="\n".join(f"- `{name}` {digest}" for name, digest in record["text"].items()),
    )
