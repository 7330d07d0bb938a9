"""Tiny random models of every family, with norms and biases that are anything but 1 and 0."""

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import LayerWeights, TranscoderConfig, Transcoders
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER

N_LAYERS, D_MODEL, D_VOCAB, N_FEATURES, BOS = 3, 24, 50, 40, 1

_COMMON: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "num_hidden_layers": N_LAYERS,
    "hidden_size": D_MODEL,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": BOS,
    "eos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2, "head_dim": 8}
_GPT2 = {
    "vocab_size": D_VOCAB,
    "n_layer": N_LAYERS,
    "n_embd": D_MODEL,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": BOS,
    "eos_token_id": None,
}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_NEOX = _COMMON | {"hidden_act": "gelu"}

FAMILY_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "llama": ("llama", _GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 4}),
    "qwen2": ("qwen2", _COMMON | {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", _GROUPED),
    "gemma2": ("gemma2", _GROUPED | {"sliding_window": 4, "layer_types": _SLIDING, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", _GROUPED | {"sliding_window": 4, "layer_types": _SLIDING}),
    "gpt_neox": ("gpt_neox", _NEOX | {"use_parallel_residual": True}),
    "gpt_neox_sequential": ("gpt_neox", _NEOX | {"use_parallel_residual": False}),
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_FALCON = _COMMON | {"ffn_hidden_size": 40, "bias": True}
_EARLIER = {"vocab_size": D_VOCAB, "bos_token_id": BOS, "eos_token_id": None}
_NO_IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
# families that differ from those above in declarations only: tested for what these could get wrong
MORE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", _GROUPED | {"logit_scale": 0.5}),
    "cohere2": ("cohere2", _GROUPED | {"logit_scale": 0.5, "sliding_window": 4, "layer_types": _SLIDING}),
    "falcon": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_one_norm": (
        "falcon",
        _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 4, "num_ln_in_parallel_attn": 1},
    ),
    "falcon_multi_query": ("falcon", _FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon_sequential": ("falcon", _FALCON | {"multi_query": False, "parallel_attn": False}),
    "gemma": ("gemma", _GROUPED),
    "gemma3_wrapper": (
        "gemma3",
        {
            "text_config": _GROUPED | {"sliding_window": 4, "layer_types": _SLIDING, "model_type": "gemma3_text"},
            "vision_config": _NO_IMAGES | {"image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 1,
        },
    ),
    "glm": ("glm", _GROUPED | {"partial_rotary_factor": 0.5}),
    "glm4": ("glm4", _GROUPED | {"partial_rotary_factor": 0.5}),
    "gpt_neo": (
        "gpt_neo",
        _EARLIER
        | {"hidden_size": D_MODEL, "num_layers": N_LAYERS, "num_heads": 4, "max_position_embeddings": 64}
        | {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 4},
    ),
    "gpt_oss": ("gpt_oss", _GROUPED | _EXPERTS | {"sliding_window": 4, "layer_types": _SLIDING}),
    "gptj": (
        "gptj",
        _EARLIER | {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    "granite": (
        "granite",
        _GROUPED
        | {"residual_multiplier": 0.6, "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "logits_scaling": 1.7},
    ),
    "mixtral": ("mixtral", _GROUPED | _EXPERTS),
    "olmo": ("olmo", _COMMON | {"num_key_value_heads": 2}),
    "olmo2": ("olmo2", _GROUPED),
    "olmo3": ("olmo3", _GROUPED | {"sliding_window": 4, "layer_types": _SLIDING}),
    "opt": ("opt", _COMMON | {"ffn_dim": 40, "word_embed_proj_dim": D_MODEL}),
    "phi": ("phi", _COMMON | {"num_attention_heads": 3, "num_key_value_heads": 3}),
    "phi3": ("phi3", _GROUPED | {"sliding_window": 4}),
    "qwen2_moe": (
        "qwen2_moe",
        _COMMON
        | _EXPERTS
        | {"num_key_value_heads": 2, "num_experts": 4}
        | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_moe": ("qwen3_moe", _GROUPED | _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16}),
    "smollm3": ("smollm3", _GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "stablelm": ("stablelm", _COMMON | {"num_key_value_heads": 2, "use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", _COMMON | {"num_key_value_heads": 2, "use_parallel_residual": True}),
    "starcoder2": ("starcoder2", _COMMON | {"num_key_value_heads": 2}),
}


def make_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A tiny model whose norm weights and all biases are random too."""
    return LanguageModel(deepcopy(_hf_model(name, seed)).to(dtype).requires_grad_(False))


@cache  # a copy costs a third
def _hf_model(name: str, seed: int) -> PreTrainedModel:
    kind, config = (FAMILY_CONFIGS | MORE_FAMILIES)[name]
    hf_model = create_hf_model(kind, seed=seed, **config)
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in hf_model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and parameter_name.endswith("weight")
        parameter.data = parameter.data + 0.3 * noise if is_scale else (0.3 if parameter.ndim == 1 else 0.25) * noise
    return hf_model


def make_transcoders(
    *,
    cross_layer: bool = True,
    activation: str = "relu",
    skip: bool = False,
    read_point: str = "hook_resid_mid",
    write_point: str = "hook_mlp_out",
    n_layers: int = N_LAYERS,
    d_model: int = D_MODEL,
    n_features: int = N_FEATURES,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Transcoders:
    """Random transcoders: about half of the features are active with ReLU."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    layers = [
        LayerWeights(
            W_enc=random(n_features, d_model, scale=0.3),
            b_enc=random(n_features, scale=0.3),
            W_dec=random(n_features, n_layers - layer if cross_layer else 1, d_model, scale=0.2),
            b_dec=random(d_model, scale=0.3),
            threshold=random(n_features, scale=0.3).abs() if activation == "jumprelu" else None,
            W_skip=random(d_model, d_model, scale=0.1) if skip else None,
        )
        for layer in range(n_layers)
    ]
    config = TranscoderConfig(
        model_kind=CROSS_LAYER if cross_layer else PER_LAYER,
        model_name="tiny",
        feature_input_hook=read_point,
        feature_output_hook=write_point,
        k=5 if activation == "topk" else None,
    )
    return Transcoders(layers, config)


PROMPT = [BOS, 7, 12, 33, 7, 21, 40, 12, 3]
