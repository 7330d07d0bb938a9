"""The model card of trained weights, from the run's record and what was measured."""

from typing import Any

from attrgraph.evaluation import Evaluation

_TEMPLATE = """# Transcoders for {record[model][id]}

A {kind} set, {config[n_features]} features a layer, trained with attrgraph {record[versions][attrgraph]}. {activation}
It reads the stream before each MLP's norm (`hook_resid_mid`) and writes what the MLP adds to it (`hook_mlp_out`).

Measured on {measured.n_tokens:,} held-out tokens ({measured.n_documents} documents), on the weights in this folder:

| | |
|---|---|
| NMSE, mean over layers | {nmse} |
| active features a token (L0), summed over layers | {l0} (asked: {config[l0]:g}) |
| features never active on these tokens | {dead_fraction} |
| top-1 agreement, all MLPs replaced | {top1_agreement} |
| KL(model, replacement), nats | {kl} |
| cross-entropy recovered, against zero-ablation | {ce_recovered} |

| layer | NMSE | L0 | never active |
|---|---|---|---|
{layers}

NMSE is squared error over variance. Two kinds of tokens were left out of the reconstruction loss: BOS, and attention
sinks, whose stream is more than {config[outlier_factor]:g} times longer than the median. BOS was not measured either.

Trained on {trained_tokens:,} tokens ({seconds:.0f} s on {record[machine]}) of a corpus of {record[n_tokens]:,}:

{text}

`training.yaml` has all settings, digests and versions, `metrics.jsonl` the curves. The layout is circuit-tracer's.

```python
import attrgraph as ag

model = ag.load_model("{record[model][id]}", transcoders="PATH OF THIS FOLDER")
```
"""
_FORMATS = {
    "nmse": ".4f", "l0": ".2f", "dead_fraction": ".1%", "top1_agreement": ".3f", "kl": ".4f", "ce_recovered": ".3f"
}  # fmt: skip
_EXPORTS = {
    "batchtopk": "Trained as BatchTopK, exported as JumpReLU with one calibrated threshold a layer.",
    "topk": "TopK (circuit-tracer ignores k in cross-layer sets).",
    "jumprelu": "JumpReLU with learned thresholds, each layer's moved by one factor so that L0 is as asked.",
    "relu": "ReLU, trained with an L1 penalty.",
}


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
    return _TEMPLATE.format(
        record=record,
        config=config,
        measured=measured,
        **shown,
        kind="cross-layer" if config["is_cross_layer"] else "per-layer",
        activation=_EXPORTS[config["activation"]],
        layers="\n".join(layers),
        trained_tokens=result.get("tokens", 0),
        seconds=result.get("seconds", 0.0),
        text="\n".join(f"- `{name}` {digest}" for name, digest in record["text"].items()),
    )
