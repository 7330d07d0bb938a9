"""Feature dictionaries for a model's MLPs: encode, decode, load, save, train."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrgraph.transcoders.config import TranscoderConfig
    from attrgraph.transcoders.folder import load_transcoders, save_transcoders
    from attrgraph.transcoders.transcoders import ActiveFeatures, LayerWeights, Transcoders

# each name is imported when it is first used, so that reading a run's settings does not import torch
_HOMES = {
    "ActiveFeatures": "attrgraph.transcoders.transcoders",
    "LayerWeights": "attrgraph.transcoders.transcoders",
    "TranscoderConfig": "attrgraph.transcoders.config",
    "Transcoders": "attrgraph.transcoders.transcoders",
    "load_transcoders": "attrgraph.transcoders.folder",
    "save_transcoders": "attrgraph.transcoders.folder",
}

__all__ = [
    "ActiveFeatures",
    "LayerWeights",
    "TranscoderConfig",
    "Transcoders",
    "load_transcoders",
    "save_transcoders",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'attrgraph.transcoders' has no attribute {name!r}")
