"""What a model object must be like, whoever made it: its weights are read as they lie, and each run is as the last."""

from torch import nn
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
    for layer, block in enumerate(_blocks(hf_model, family)):
        there = dict(block.named_modules())
        for name in (family.attention, family.attention_norm, family.mlp_norm, family.mlp):
            if name is not None and name not in there:
                raise UnsupportedModelError(
                    f"layer {layer} has no {name}, where other models of the family {family.name} have it; its "
                    "configuration asks for what is not supported, or the model was changed."
                )
    kind = type(_blocks(hf_model, family)[0].get_submodule(family.attention)).__name__
    if kind.endswith("FlashAttention2"):
        raise UnsupportedModelError(
            f'attention is a {kind}, which gives no patterns; load the model with attn_implementation="eager".'
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


def _blocks(hf_model: PreTrainedModel, family: Family) -> list[nn.Module]:
    return list(hf_model.get_submodule(f"{family.body}.{family.layers}").children())
