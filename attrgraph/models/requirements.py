"""What a model object must be like, whoever made it: its weights are read as they lie, and each run is as the last."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.families import Family
from attrgraph.models.weights import check_projection, running_device, weight_of


def check_model(hf_model: PreTrainedModel, family: Family) -> None:
    """Raise UnsupportedModelError unless the model is one of its family, as its configuration says, and runs."""
    if hf_model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"a {type(hf_model).__name__} gives no logits; load the model with AutoModelForCausalLM."
        )
    if not all(config.return_dict for config in (hf_model.config, hf_model.config.get_text_config())):
        raise UnsupportedModelError(
            "the model's configuration says return_dict=False; take that out of config.json, or set "
            "model.config.return_dict = True."
        )
    _check_parts(hf_model, family)
    _check_weights(hf_model, family)
    check_is_in_evaluation_mode(hf_model, family)


def _check_parts(hf_model: PreTrainedModel, family: Family) -> None:
    blocks = _blocks(hf_model, family)
    n_layers, said = len(blocks), int(hf_model.config.get_text_config().num_hidden_layers)
    if n_layers != said:
        raise UnsupportedModelError(
            f"the model has {n_layers} layers, its configuration says num_hidden_layers={said}; set it to {n_layers}."
        )
    for layer, block in enumerate(blocks):
        there = dict(block.named_modules())
        for name in (family.attention, family.attention_norm, family.mlp_norm, family.mlp):
            if name is not None and name not in there:
                raise UnsupportedModelError(
                    f"layer {layer} has no {name}, where other models of the family {family.name} have it; its "
                    "configuration asks for what is not supported, or the model was changed."
                )
        kind = type(there[family.attention]).__name__
        if kind.endswith("FlashAttention2"):
            raise UnsupportedModelError(
                f'attention is a {kind}, which gives no patterns; load the model with attn_implementation="eager".'
            )


def _check_weights(hf_model: PreTrainedModel, family: Family) -> None:
    """Raise UnsupportedModelError unless weights are where they can be read and run together, and of one type."""
    for name, module in hf_model.named_modules():
        if type(module).__module__.partition(".")[0] == "peft":
            raise UnsupportedModelError(
                f"{name} has an adapter (peft's {type(module).__name__}); pass a model with merged weights: "
                "peft_model.merge_and_unload()."
            )
    devices = {
        str(running_device(module) or parameter.device)
        for module in hf_model.modules()
        for parameter in module.parameters(recurse=False)
    }
    # what accelerate spreads moves from device to device by itself
    if "meta" in devices or (len(devices) > 1 and not any(map(running_device, hf_model.modules()))):
        raise UnsupportedModelError(
            f"the model's weights lie on {' and '.join(sorted(devices))}, and nothing brings them together; load the "
            'model with device_map="auto", or on one device.'
        )
    check_projection(hf_model.get_output_embeddings(), "the unembedding")
    for block in _blocks(hf_model, family):
        for name in (*family.query_key_value, family.attention_out):
            check_projection(block.get_submodule(family.attention).get_submodule(name), name)
    kept = (hf_model._keep_in_fp32_modules or (), hf_model._keep_in_fp32_modules_strict or ())
    names = {
        parameter.dtype: name
        for name, parameter in hf_model.named_parameters()
        if parameter.is_floating_point() and not any(part in name for parts in kept for part in parts)
    }
    if len(names) > 1:
        mixed = " and ".join(f"{str(dtype).removeprefix('torch.')} ({name})" for dtype, name in names.items())
        raise UnsupportedModelError(
            f"the model's weights are {mixed}, which transformers cannot run together; give all one type, as "
            f"model.to({hf_model.dtype}) does."
        )


def check_is_in_evaluation_mode(hf_model: PreTrainedModel, family: Family) -> None:
    """Raise UnsupportedModelError if a part may drop what it computes at random."""
    attentions = [block.get_submodule(family.attention) for block in _blocks(hf_model, family)]
    for name, module in hf_model.named_modules():
        if not module.training:
            continue
        if module is hf_model or isinstance(module, nn.Dropout) or any(module is one for one in attentions):
            raise UnsupportedModelError(
                f"{name or 'the model'} is in training mode, where dropout is random; call .eval() on the model."
            )


def check_computes_in_its_type(device: torch.device) -> None:
    """Raise UnsupportedModelError while PyTorch chooses the types of products by itself."""
    if torch.is_autocast_enabled(device.type):
        raise UnsupportedModelError(
            "torch.autocast is on, under which a model computes in another type than its weights have; call this "
            'outside of it, and for half precision load the model with dtype="bfloat16".'
        )


def embedding_deviation(
    hf_model: PreTrainedModel, scale: float, token_ids: Int[Tensor, " n_pos"], embedding: Float[Tensor, "n_pos d_model"]
) -> float:
    """How far from what the weights say tokens are embedded, |difference| / |expected|: no hook is run for these.

    `scale` is the family's.
    """
    weight = weight_of(hf_model.get_input_embeddings(), "weight")
    assert weight is not None
    expected = scale * weight[token_ids].to(embedding)
    return float((embedding - expected).norm() / expected.norm().clamp_min(torch.finfo(embedding.dtype).tiny))


def _blocks(hf_model: PreTrainedModel, family: Family) -> list[nn.Module]:
    return list(hf_model.get_submodule(f"{family.body}.{family.layers}").children())
