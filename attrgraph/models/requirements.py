"""What a model object must be like, whoever made it: its weights are read as they lie, and each run is as the last."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.families import Family, plain_weights


def check_weights(hf_model: PreTrainedModel, family: Family) -> None:
    """Raise UnsupportedModelError unless all weights are on one device, in as many layers as the configuration says."""
    devices = sorted({str(parameter.device) for parameter in hf_model.parameters()})
    if len(devices) > 1 or "meta" in devices:
        raise UnsupportedModelError(
            f"the model's weights lie on {' and '.join(devices)}; load the whole model on one device."
        )
    n_layers, said = len(_blocks(hf_model, family)), int(hf_model.config.get_text_config().num_hidden_layers)
    if n_layers != said:
        raise UnsupportedModelError(
            f"the model has {n_layers} layers, its configuration says num_hidden_layers={said}; set it to {n_layers}."
        )
    plain_weights(hf_model.get_output_embeddings(), "the unembedding")


def check_is_in_evaluation_mode(hf_model: PreTrainedModel, family: Family) -> None:
    """Raise UnsupportedModelError if a part may drop what it computes at random."""
    attentions = [block.get_submodule(family.attention) for block in _blocks(hf_model, family)]
    for name, module in hf_model.named_modules():
        may_drop = module is hf_model or isinstance(module, nn.Dropout) or any(module is one for one in attentions)
        if module.training and may_drop:
            raise UnsupportedModelError(
                f"{name or 'the model'} is in training mode, where dropout is random; call .eval() on the model."
            )


def embedding_deviation(
    hf_model: PreTrainedModel, token_ids: Int[Tensor, " n_pos"], embedding: Float[Tensor, "n_pos d_model"]
) -> float:
    """How far from what the weights say tokens are embedded, |difference| / |expected|: no hook is run for these."""
    module, config = hf_model.get_input_embeddings(), hf_model.config.get_text_config()
    plain = type(module).forward(module, token_ids).detach().to(embedding)
    # some families scale embeddings outside the module, Gemma in transformers 4 by the root of the width
    factors = {float(getattr(config, "embedding_multiplier", 1.0)), float(config.hidden_size) ** 0.5}
    least = torch.finfo(embedding.dtype).tiny
    return min(float((embedding - f * plain).norm() / (f * plain).norm().clamp_min(least)) for f in factors)


def _blocks(hf_model: PreTrainedModel, family: Family) -> list[nn.Module]:
    return list(hf_model.get_submodule(f"{family.body}.{family.layers}").children())
