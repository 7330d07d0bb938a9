"""The replacement model with live attention and norms: every MLP replaced by its transcoders, features recomputed."""

from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.models.frozen import norm_before, widened
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import ReplaceMlp
from attrgraph.transcoders import Transcoders
from attrgraph.transcoders.training.parameters import FeatureDictionary


def replace_with(
    model: LanguageModel, dictionary: FeatureDictionary, is_replaced: Bool[Tensor, "n_rows n_pos"]
) -> ReplaceMlp:
    """For `replaced_mlps`: MLP outputs computed by transcoders, wherever they read and write.

    Args:
        model: whose MLPs.
        dictionary: finished or trainable transcoders.
        is_replaced: positions whose MLPs are replaced; others (such as BOS) keep their true output.

    Raises:
        TranscoderError: finished transcoders that lack layers.
    """
    if isinstance(dictionary, Transcoders) and dictionary.missing_layers:
        layers = ", ".join(map(str, dictionary.missing_layers))
        raise TranscoderError(
            f"{dictionary.source['id']}: has no transcoders of layers {layers}, whose MLPs nothing can replace; "
            "evaluate takes whole sets."
        )
    parts: dict[int, Tensor] = {}

    def replace(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        parts[layer] = dictionary.contributions(layer, read_of(model, dictionary, layer, stream[is_replaced]))
        reconstruction = dictionary.bias(layer).to(out)
        for source in range(layer + 1):
            if layer - source < parts[source].shape[1]:
                reconstruction = reconstruction + parts[source][:, layer - source]
        return out.masked_scatter(
            is_replaced[..., None], added_by(model, dictionary, layer, reconstruction).to(out.dtype)
        )

    return replace


def read_of(
    model: LanguageModel, dictionary: FeatureDictionary, layer: int, stream: Float[Tensor, "n_tokens d_model"]
) -> Float[Tensor, "n_tokens d_model"]:
    """What a layer's transcoder reads where this stream enters the MLP's norm; the stream itself in training.

    Raises:
        TranscoderError: see `norm_before`.
    """
    point = dictionary.config.feature_input_hook if isinstance(dictionary, Transcoders) else "hook_resid_mid"
    if point == "hook_resid_mid":
        return stream
    norm = norm_before(point, model.mlp_norm_of(layer, stream))
    return stream if norm is None else norm.apply(widened(stream))


def added_by(
    model: LanguageModel, dictionary: FeatureDictionary, layer: int, reconstruction: Float[Tensor, "n_tokens d_model"]
) -> Float[Tensor, "n_tokens d_model"]:
    """What the MLP branch adds to the stream if the transcoders reconstruct this: a norm after the MLP stays live."""
    post_norm = model.mlp_post_norm_module(layer)
    is_before = isinstance(dictionary, Transcoders) and dictionary.config.feature_output_hook == "mlp.hook_out"
    if post_norm is None or not is_before:
        return reconstruction
    return model.frozen_norm(post_norm, reconstruction).apply(widened(reconstruction))


def divergence(
    model_logits: Float[Tensor, "*rows d_vocab"], other_logits: Float[Tensor, "*rows d_vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(model || other) of next-token distributions, in nats; at least in float32."""
    expected = widened(model_logits).log_softmax(-1)
    return (expected.exp() * (expected - other_logits.to(expected).log_softmax(-1))).sum(-1)
