"""Weights as dense tensors, however a model keeps them: as they are, offloaded by accelerate, or quantised."""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.hooks import alone

# whose layers of 4 or 8 bits are run to see what they multiply by
_PACKING = ("bitsandbytes", "gptqmodel")
# weight and bias, None without one
Projection = tuple[Tensor, Tensor | None]


def device_of(module: nn.Module) -> torch.device:
    """Where a module that has weights runs."""
    return running_device(module) or next(module.parameters()).device


def run_module(module: nn.Module, x: Tensor) -> Tensor:
    """What a part of the model makes of a tensor that may lie on another device than the part; there again."""
    with alone:
        out: Tensor = module(x.to(device_of(module)))
    return out.to(x.device)


def running_device(module: nn.Module) -> torch.device | None:
    """Where accelerate brings an offloaded module's weights to run it; None if it does not."""
    devices = (getattr(hook, "execution_device", None) for hook in _accelerate_hooks(module))
    return next((torch.device(device) for device in devices if device is not None), None)


def home_device(hf_model: PreTrainedModel) -> torch.device:
    """Where the model runs, though its weights may lie elsewhere until they are needed."""
    return device_of(hf_model.get_input_embeddings())


def precision_of(hf_model: PreTrainedModel) -> torch.dtype:
    """The type that says how coarsely the model computes: that in which it runs, or what its kernels read inputs in."""
    # 8-bit kernels make integers of what they read, 4-bit kernels on a CPU make it bfloat16
    is_coarse = any(map(_is_packed, hf_model.modules())) or any(map(_rounds_inputs, hf_model.parameters()))
    return torch.bfloat16 if is_coarse else hf_model.dtype


def stored(module: nn.Module, name: str) -> Tensor | None:
    """A parameter wherever it lies; None if the module has none of this name."""
    parameter = {**module._buffers, **module._parameters}.get(name)
    if parameter is not None and parameter.is_meta:
        for hook in _accelerate_hooks(module):
            if getattr(hook, "weights_map", None) is not None:
                return hook.weights_map[name]  # type: ignore[no-any-return]
    return None if parameter is None else parameter.detach()


def stored_weights(hf_model: PreTrainedModel) -> dict[str, Tensor]:
    """All parameters by name, wherever they lie; those that are tied once."""
    out, tied = dict[str, Tensor](), getattr(hf_model, "all_tied_weights_keys", None)
    if tied is None:  # transformers 4 says what would be tied, whether or not it is
        tied = (hf_model.config.get_text_config().tie_word_embeddings and hf_model._tied_weights_keys) or ()
    for full_name, parameter in hf_model.named_parameters():
        if parameter.is_meta and full_name in tied:  # offloaded, they are two
            continue
        where, _, name = full_name.rpartition(".")
        found = stored(hf_model.get_submodule(where), name) if parameter.is_meta else parameter.detach()
        assert found is not None
        out |= _plain_parts(full_name, found)
    return out


def _plain_parts(name: str, tensor: Any) -> dict[str, Tensor]:
    """A tensor by its name; of one that is quantised the tensors that it is made of."""
    if not _is_of_torchao(tensor):
        return {name: tensor}
    name += ".inputs-rounded" * _rounds_inputs(tensor)  # other numbers with the same weights
    inner = {f"{name}.{part}": getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]}
    return {key: value for part in inner for key, value in _plain_parts(part, inner[part]).items()}


def weight_of(module: nn.Module, name: str, device: torch.device | None = None) -> Tensor | None:
    """A parameter on a device, by default where the module runs; dequantised."""
    found, device = stored(module, name), device or running_device(module)
    if found is not None and _is_of_torchao(found):
        found = found.dequantize()
    return found if found is None or device is None else found.to(device)


def check_projection(module: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError unless it is a linear layer whose weight `plain_weights` can tell."""
    kind, weight = type(module), dict(module.named_parameters(recurse=False)).get("weight")
    is_read = type(weight) is nn.Parameter or _is_of_torchao(weight)
    if not _is_packed(module) and not (_is_plain(module) and is_read):
        held = f", whose weight is a {type(weight).__name__}" if _is_plain(module) else ""
        raise UnsupportedModelError(
            f"{name} is a {kind.__module__}.{kind.__name__}{held}; expected a plain Linear or Conv1D, or one of "
            "bitsandbytes, gptqmodel (GPTQ, AWQ) or torchao. Merge adapters, and load weights that are quantised "
            "otherwise dequantised, or the model that they come from."
        )


def plain_weights(module: nn.Module, name: str) -> Projection:
    """Weight [d_out, d_in] and bias of a projection; of one that is quantised, the weight that it computes with."""
    check_projection(module, name)
    weight = _dequantised(module) if _is_packed(module) else weight_of(module, "weight")
    assert weight is not None
    return weight.T if isinstance(module, Conv1D) else weight, weight_of(module, "bias")


def _is_plain(module: nn.Module) -> bool:
    # Falcon's own class of linear layers is not imported: that reads a module of transformers at every start
    return type(module) in (nn.Linear, Conv1D) or type(module).__name__ == "FalconLinear"


def _is_packed(module: nn.Module) -> bool:
    """Whether it is a layer of one of the packages that quantise, in which its weight is one of its own."""
    return type(module).__module__.partition(".")[0] in _PACKING and hasattr(module, "in_features")


def _is_of_torchao(tensor: object) -> bool:
    """Whether it is a tensor that torchao packs, and says the values of."""
    kind: Any = type(tensor)
    is_its = isinstance(tensor, Tensor) and kind.__module__.partition(".")[0] == "torchao"
    # NF4Tensor's is no method
    return is_its and kind.__name__ != "NF4Tensor" and kind.dequantize is not Tensor.dequantize


def _rounds_inputs(parameter: Tensor) -> bool:
    """Whether torchao quantises what a weight is multiplied by, too."""
    said = (getattr(parameter, name, None) for name in ("act_quant_kwargs", "activation_quantization"))
    return _is_of_torchao(parameter) and any(each is not None for each in said)


def _dequantised(module: Any) -> Tensor:
    """What the layer makes of each input alone: how weights are packed differs by device and version."""
    twin = copy(module)  # the first run of a layer settles the type that it computes in
    for kind in ("_parameters", "_buffers"):
        setattr(twin, kind, {name: None if name == "bias" else x for name, x in getattr(module, kind).items()})
    # GPTQ's and AWQ's compute in the type of their scales
    scales = module._buffers.get("scales")
    how = {"device": module.weight.device} if scales is None else {"dtype": scales.dtype, "device": scales.device}
    with torch.no_grad():
        return twin(torch.eye(module.in_features, **how)).T  # type: ignore[no-any-return]


def _accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    hook: Any = getattr(module, "_hf_hook", None)
    yield from getattr(hook, "hooks", (hook,))
