"""The record of a run that is written next to the weights: settings, digests and versions."""

import os
import platform
from typing import Any

import torch

from attrgraph.attribution.provenance import library_versions
from attrgraph.data.corpus import TokenRows
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders.training.train_config import TrainConfig


def run_record(model: LanguageModel, rows: TokenRows, config: TrainConfig, held_out_share: float) -> dict[str, Any]:
    """Everything needed to repeat a run, for `training.yaml`."""
    return {
        "model": {**{name: str(value) for name, value in model.source.items()}, "family": model.family.name},
        "text": dict(rows.sources),
        "held_out_share": held_out_share,
        "n_tokens": rows.n_tokens,
        "n_documents": rows.n_documents,
        "config": config.to_dict(),
        "versions": library_versions("attrgraph", "torch", "transformers"),
        "machine": f"{platform.machine()}, {_device_name(model)}",
    }


def _device_name(model: LanguageModel) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
