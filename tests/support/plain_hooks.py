"""Runs of Hugging Face models with plain hooks, and a model that is linear: what patching is compared with."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from tiny import N_LAYERS, make_transcoders
from torch import Tensor

from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel

# in the Hugging Face models: blocks, the final norm, and in a block what heads enter, what attention and the MLP add to
# the stream, and what the MLP's norm is
MODULES = {
    "gpt2": ("transformer.h", "transformer.ln_f", "attn.c_proj", "attn", "mlp", "ln_2"),
    "llama": ("model.layers", "model.norm", "self_attn.o_proj", "self_attn", "mlp", "post_attention_layernorm"),
    "gemma2": (
        "model.layers",
        "model.norm",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "pre_feedforward_layernorm",
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        "gpt_neox.final_layer_norm",
        "attention.dense",
        "attention",
        "mlp",
        "post_attention_layernorm",
    ),
}


def place_of(name: str, kind: str, layer: int) -> tuple[str, bool]:
    """The module at which a kind of node lies, and whether it enters the module or leaves it."""
    blocks, final, *parts = MODULES[name]
    if kind == "resid":
        return (final if layer == N_LAYERS else f"{blocks}.{layer}"), True
    if kind == "read":
        return f"{blocks}.{layer}.{parts[3]}", True
    part = {"head": 0, "attn": 1, "mlp": 2, "feature": 2, "error": 2}[kind]
    return f"{blocks}.{layer}.{parts[part]}", kind == "head"


def run(
    model: LanguageModel, ids: list[int], hooks: dict[tuple[str, bool], Callable[[Tensor], Tensor | None]]
) -> Tensor:
    """Logits of the last position, with plain hooks on inputs or outputs of modules; "" is the embedding."""
    with ExitStack() as stack:
        for (module, is_input), change in hooks.items():

            def before(_: Any, args: Any, kwargs: Any, change: Any = change) -> Any:
                new = change(args[0] if args else kwargs["hidden_states"])
                if new is None:
                    return None
                return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

            def after(_: Any, args: Any, out: Any, change: Any = change) -> Any:
                new = change(out[0] if isinstance(out, tuple) else out)
                return new if new is None or not isinstance(out, tuple) else (new, *out[1:])

            at = model.hf_model.get_submodule(module) if module else model.hf_model.get_input_embeddings()
            handle = (
                at.register_forward_pre_hook(before, with_kwargs=True) if is_input else at.register_forward_hook(after)
            )
            stack.callback(handle.remove)
        return model.hf_model(input_ids=torch.tensor([ids])).logits[0, -1]  # type: ignore[no-any-return]


def recorded(model: LanguageModel, name: str, ids: list[int]) -> dict[tuple[str, bool], Tensor]:
    """What every place holds in a run."""
    kinds = [("resid", N_LAYERS)] + [(k, i) for k in ("resid", "head", "attn", "mlp", "read") for i in range(N_LAYERS)]
    kept = dict[tuple[str, bool], Tensor]()
    places = {place_of(name, *kind) for kind in kinds} | {("", False)}
    run(model, ids, {place: lambda x, place=place: kept.update({place: x[0].clone()}) for place in places})
    return kept


def linear_model() -> LanguageModel:
    """A GPT-2 whose norms scale by a constant, whose heads attend alike to all, and whose MLPs are linear."""
    config = {"vocab_size": 50, "n_layer": N_LAYERS, "n_embd": 24, "n_head": 4, "n_positions": 64, "bos_token_id": 1}
    # so large that no stream changes the scale
    more = {"eos_token_id": None, "layer_norm_epsilon": 1e14, "activation_function": "linear"}
    hf_model = create_hf_model("gpt2", seed=0, **config, **more).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in hf_model.named_parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if "ln_" in name and name.endswith("weight"):
            parameter.copy_(1e7 * (1 + parameter))
        if "c_attn" in name:
            parameter[..., :48] = 0  # queries and keys
    return LanguageModel(hf_model, transcoders=make_transcoders(dtype=torch.float64))
