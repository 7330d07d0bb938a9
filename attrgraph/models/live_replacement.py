"""The replacement model with live attention and norms: every MLP replaced by its transcoders, features recomputed."""

from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.models.frozen import widened
from attrgraph.models.live import ReplaceMlp
from attrgraph.transcoders import Transcoders
from attrgraph.transcoders.training.parameters import FeatureDictionary


def replace_with(dictionary: FeatureDictionary, is_replaced: Bool[Tensor, "n_rows n_pos"]) -> ReplaceMlp:
    """For `replaced_mlps`: MLP outputs computed by transcoders that read `hook_resid_mid` and write `hook_mlp_out`.

    Args:
        dictionary: finished or trainable transcoders.
        is_replaced: positions whose MLPs are replaced; others (such as BOS) keep their true output.

    Raises:
        TranscoderError: finished transcoders that read or write elsewhere.
    """
    if isinstance(dictionary, Transcoders):
        if dictionary.missing_layers:
            layers = ", ".join(map(str, dictionary.missing_layers))
            raise TranscoderError(
                f"{dictionary.source['id']}: has no transcoders of layers {layers}, whose MLPs nothing can replace; "
                "evaluate takes whole sets."
            )
        points = dictionary.config.feature_input_hook, dictionary.config.feature_output_hook
        if points != ("hook_resid_mid", "hook_mlp_out"):
            raise TranscoderError(
                f"transcoders that read {points[0]} and write {points[1]} cannot replace MLPs yet; "
                "expected hook_resid_mid and hook_mlp_out."
            )
    parts: dict[int, Tensor] = {}

    def replace(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        parts[layer] = dictionary.contributions(layer, stream[is_replaced])
        reconstruction = dictionary.bias(layer).to(out)
        for source in range(layer + 1):
            if layer - source < parts[source].shape[1]:
                reconstruction = reconstruction + parts[source][:, layer - source]
        return out.masked_scatter(is_replaced[..., None], reconstruction.to(out.dtype))

    return replace


def divergence(
    model_logits: Float[Tensor, "*rows d_vocab"], other_logits: Float[Tensor, "*rows d_vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(model || other) of next-token distributions, in nats; at least in float32."""
    expected = widened(model_logits).log_softmax(-1)
    return (expected.exp() * (expected - other_logits.to(expected).log_softmax(-1))).sum(-1)
