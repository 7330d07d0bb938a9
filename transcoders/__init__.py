"""Feature dictionaries for a model's MLPs: encode, decode, load, save, train, evaluate."""

from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.folder import load_transcoders, save_transcoders
from attrgraph.transcoders.transcoders import ActiveFeatures, LayerWeights, LayerWrites, Transcoders

__all__ = [
    "ActiveFeatures",
    "LayerWeights",
    "LayerWrites",
    "TranscoderConfig",
    "Transcoders",
    "load_transcoders",
    "save_transcoders",
]
