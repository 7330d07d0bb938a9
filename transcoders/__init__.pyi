from .config import TranscoderConfig as TranscoderConfig
from .folder import load_transcoders as load_transcoders
from .folder import save_transcoders as save_transcoders
from .layer_weights import LayerWeights as LayerWeights
from .transcoders import ActiveFeatures as ActiveFeatures
from .transcoders import Transcoders as Transcoders
