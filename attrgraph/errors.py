"""What can go wrong through no fault of this package. Every message says what, got, expected, and what to do."""


class AttrGraphError(ValueError):
    """Base of every error that a user's input can cause."""


class UnsupportedModelError(AttrGraphError):
    """The model's architecture, or an option of it, is not one that the engine can reproduce exactly."""


class ModelLoadError(AttrGraphError):
    """The model's folder or hub repository cannot be read, or its weights are not finite numbers."""


class TranscoderError(AttrGraphError):
    """A transcoder folder is missing, malformed, or was made for another model."""


class CorpusError(AttrGraphError):
    """A corpus, the model's own samples, or a cache of activations cannot be read, written, or trained on."""


class PromptError(AttrGraphError):
    """The prompt is empty, too long, or has tokens that the model does not know."""


class TargetError(AttrGraphError):
    """A logit target names no token of the model, or is not a direction in its stream."""


class InterventionError(AttrGraphError):
    """An intervention names a node that a run does not have, or sets it in a way that it cannot be set."""


class GraphFileError(AttrGraphError):
    """A graph file cannot be read, written or drawn."""


class ResultError(AttrGraphError):
    """A computed number is not finite."""


class TrainingError(AttrGraphError):
    """A training run cannot start, go on, or be resumed."""
