"""The supported architectures: for each, where its parts are. Everything else about a model is shared.

A specification names submodules as Hugging Face transformers does (versions 4.57 to 5).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import __version__

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.frozen import widened
from attrgraph.models.weights import Projection, plain_weights

# whose Mixtral is named otherwise, and some of whose attention modules give their pattern only when they are asked
IS_TRANSFORMERS_4 = __version__.startswith("4.")
# places in `Family.query_key_value`
QUERY, KEY, VALUE = range(3)


def _separate(x: Tensor, part: int, config: Any) -> Tensor:
    """Heads of a projection that is a module of its own; several query heads may share a key and value head."""
    n_heads = config.num_attention_heads if part == QUERY else getattr(config, "num_key_value_heads", None)
    return x.unflatten(0, (n_heads or config.num_attention_heads, -1))  # type: ignore[no-any-return]


def _in_thirds(x: Tensor, part: int, config: Any) -> Tensor:
    """Heads of a module in which all queries, all keys and all values lie one after the other."""
    return x.chunk(3)[part].unflatten(0, (config.num_attention_heads, -1))  # type: ignore[no-any-return]


def _side_by_side(x: Tensor, part: int, config: Any) -> Tensor:
    """Heads of a module in which each head's query, key and value lie side by side."""
    return x.unflatten(0, (config.num_attention_heads, 3, -1))[:, part]  # type: ignore[no-any-return]


def _one_after_another(x: Tensor, part: int, config: Any) -> Tensor:
    """Heads of a module in which queries lie before keys and values, of which there may be fewer."""
    n_heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    d_head = len(x) // sum(n_heads)
    parts = x.split([n * d_head for n in n_heads])
    return parts[part].unflatten(0, (n_heads[part], -1))  # type: ignore[no-any-return]


def _in_groups(x: Tensor, part: int, config: Any) -> Tensor:
    """Heads of a module in which the queries that share a key and a value lie side by side with them."""
    n_heads = config.num_attention_heads
    n_groups = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else n_heads
    groups = x.unflatten(0, (n_groups, n_heads // n_groups + 2, -1))
    return groups[:, :-2].flatten(0, 1) if part == QUERY else groups[:, part - 3]  # type: ignore[no-any-return]


def _falcon_names(config: Any) -> dict[str, Any]:
    if config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1:
        return {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"}
    is_parallel = config.new_decoder_architecture or config.parallel_attn
    return {"mlp_norm": "input_layernorm"} if is_parallel else {}


def _opt_refusals(config: Any) -> str | None:
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        return "do_layer_norm_before=False or _remove_final_layer_norm=True"
    if config.word_embed_proj_dim != config.hidden_size:
        return f"word_embed_proj_dim={config.word_embed_proj_dim} and hidden_size={config.hidden_size}"
    return None


def _gpt2_score_scale(attention: nn.Module, config: Any) -> float:
    scale = (config.hidden_size // config.num_attention_heads) ** -0.5 if config.scale_attn_weights else 1.0
    n_divided: Any = attention.layer_idx + 1 if config.scale_attn_by_inverse_layer_idx else 1  # type: ignore[operator]
    return float(scale / n_divided)


@dataclass(frozen=True)
class Family:
    """Where the parts of an architecture are. The defaults are Llama's, which most families share."""

    name: str
    model_types: tuple[str, ...]
    body: str = "model"  # the module that holds layers and final norm
    layers: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    attention_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    mlp: str = "mlp"
    # the MLP's last linear map: its inputs are the neurons; None for experts, which have none in common
    mlp_out: str | None = "mlp.down_proj"
    eps: str | float = "rms_norm_eps"  # the config's field, or what it always is
    is_rms: bool = True
    # in the attention module; one module may hold all three
    query_key_value: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    split_heads: Callable[[Tensor, int, Any], Tensor] = _separate  # one of the three, by head
    attention_out: str = "o_proj"
    adds_one_to_weight: bool = False
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    position_embedding: str | None = None
    first_position: int = 0  # the row of that embedding which the prompt's first token gets
    query_norm: str | None = None  # in the attention module, over the dimensions of a head
    key_norm: str | None = None
    # what multiplies the product of query and key
    score_scale: Callable[[Any, Any], float] = lambda module, config: float(
        module.scaling if hasattr(module, "scaling") else module.head_dim**-0.5
    )
    score_cap: Callable[[Any], float | None] = lambda config: None  # scores are soft-capped at this
    # a query sees this many keys, its own included; None: all up to its own
    window: Callable[[nn.Module, Any], int | None] = lambda module, config: getattr(module, "sliding_window", None)
    is_parallel: Callable[[Any], bool] = lambda config: False
    names_for: Callable[[Any], dict[str, Any]] = lambda config: {}  # of the fields above, those that differ by config
    embedding_scale: Callable[[Any], float] = lambda config: 1.0  # what embeddings of tokens are multiplied by
    # what attention and the MLP return is multiplied by on its way to the stream
    residual_scale: Callable[[Any], float] = lambda config: 1.0
    logit_scale: Callable[[Any], float] = lambda config: 1.0  # what logits are multiplied by, besides the unembedding
    refusals: Callable[[Any], str | None] = lambda config: None  # what about this config is not supported, if anything

    def norm_eps(self, config: Any) -> float:
        return self.eps if isinstance(self.eps, float) else float(getattr(config, self.eps))


_GEMMA_1: dict[str, Any] = {
    "adds_one_to_weight": True,
    "embedding_scale": lambda config: float(config.hidden_size) ** 0.5,
}

_GEMMA: dict[str, Any] = {
    **_GEMMA_1,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}

_HEAD_NORMS: dict[str, Any] = {"query_norm": "q_norm", "key_norm": "k_norm"}

_LAYER_NORM: dict[str, Any] = {"is_rms": False, "eps": "layer_norm_eps"}

_ONLY_POST_NORMS: dict[str, Any] = {
    "attention_norm": None,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": None,
    "mlp_post_norm": "post_feedforward_layernorm",
}

_GPT_NEO: dict[str, Any] = {
    "body": "transformer",
    "layers": "h",
    "final_norm": "ln_f",
    "attention_norm": "ln_1",
    "eps": "layer_norm_epsilon",
    "is_rms": False,
    "attention_out": "out_proj",
}

FAMILIES = (
    Family(
        "GPT-2",
        ("gpt2",),
        body="transformer",
        layers="h",
        final_norm="ln_f",
        attention="attn",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        mlp_out="mlp.c_proj",
        eps="layer_norm_epsilon",
        is_rms=False,
        query_key_value=("c_attn",) * 3,
        split_heads=_in_thirds,
        attention_out="c_proj",
        score_scale=_gpt2_score_scale,
        position_embedding="wpe",
        refusals=lambda config: "add_cross_attention=True" if config.add_cross_attention else None,
    ),
    Family("Llama", ("llama",)),
    Family("Mistral", ("mistral",), window=lambda module, config: config.sliding_window),
    Family("Qwen2", ("qwen2",)),
    Family("Qwen3", ("qwen3",), **_HEAD_NORMS),
    Family("Gemma-2", ("gemma2",), **_GEMMA, score_cap=lambda config: config.attn_logit_softcapping),
    Family("Gemma-3 (text)", ("gemma3_text",), **_GEMMA, **_HEAD_NORMS),
    Family("Gemma-3", ("gemma3",), body="model.language_model", **_GEMMA, **_HEAD_NORMS),
    Family("Gemma", ("gemma",), **_GEMMA_1),
    Family(
        "Phi-3",
        ("phi3",),
        query_key_value=("qkv_proj",) * 3,
        split_heads=_one_after_another,
        window=lambda module, config: config.sliding_window,
    ),
    Family("OLMo-2 / OLMo-3", ("olmo2", "olmo3"), **_ONLY_POST_NORMS),
    Family(
        "Granite",
        ("granite",),
        embedding_scale=lambda config: float(config.embedding_multiplier),
        residual_scale=lambda config: float(config.residual_multiplier),
        logit_scale=lambda config: 1 / float(config.logits_scaling),
    ),
    Family("SmolLM3", ("smollm3",)),
    Family("GLM", ("glm",)),
    Family(
        "OLMo",
        ("olmo",),
        eps=1e-5,
        is_rms=False,
        refusals=lambda config: f"clip_qkv={config.clip_qkv}" if config.clip_qkv is not None else None,
    ),
    Family(
        "Phi",
        ("phi",),
        **_LAYER_NORM,
        final_norm="final_layernorm",
        mlp_norm="input_layernorm",
        mlp_out="mlp.fc2",
        attention_out="dense",
        is_parallel=lambda config: True,
    ),
    Family(
        "GLM-4",
        ("glm4",),
        attention_post_norm="post_self_attn_layernorm",
        mlp_post_norm="post_mlp_layernorm",
    ),
    Family(
        "StableLM",
        ("stablelm",),
        **_LAYER_NORM,
        is_parallel=lambda config: config.use_parallel_residual,
        names_for=lambda config: {"mlp_norm": "input_layernorm"} if config.use_parallel_residual else {},
    ),
    Family("StarCoder2", ("starcoder2",), eps="norm_epsilon", is_rms=False, mlp_out="mlp.c_proj"),
    Family(
        "Cohere",
        ("cohere", "cohere2"),
        **_LAYER_NORM,
        mlp_norm="input_layernorm",
        is_parallel=lambda config: True,
        logit_scale=lambda config: float(config.logit_scale),
    ),
    Family(
        "Mixtral",
        ("mixtral",),
        mlp="block_sparse_moe" if IS_TRANSFORMERS_4 else "mlp",
        mlp_out=None,
        window=lambda module, config: config.sliding_window,
    ),
    Family("Qwen2-MoE", ("qwen2_moe",), mlp_out=None),
    Family("Qwen3-MoE", ("qwen3_moe",), mlp_out=None, **_HEAD_NORMS),
    Family("GPT-OSS", ("gpt_oss",), mlp_out=None),
    Family(
        "GPT-J",
        ("gptj",),
        **_GPT_NEO,
        attention="attn",
        mlp_norm="ln_1",
        mlp_out="mlp.fc_out",
        is_parallel=lambda config: True,
        score_scale=lambda module, config: float(config.hidden_size // config.num_attention_heads) ** -0.5,
    ),
    Family(
        "GPT-Neo",
        ("gpt_neo",),
        **_GPT_NEO,
        attention="attn.attention",
        mlp_norm="ln_2",
        mlp_out="mlp.c_proj",
        position_embedding="wpe",
        score_scale=lambda module, config: 1.0,
        window=lambda module, config: (
            config.window_size if config.attention_layers[module.layer_id] == "local" else None
        ),
    ),
    Family(
        "Falcon",
        ("falcon",),
        body="transformer",
        layers="h",
        final_norm="ln_f",
        attention="self_attention",
        mlp_out="mlp.dense_4h_to_h",
        eps="layer_norm_epsilon",
        is_rms=False,
        query_key_value=("query_key_value",) * 3,
        split_heads=_in_groups,
        attention_out="dense",
        score_scale=lambda module, config: float(module.inv_norm_factor),
        is_parallel=lambda config: config.new_decoder_architecture or config.parallel_attn,
        names_for=_falcon_names,
        refusals=lambda config: "alibi=True" if config.alibi else None,
    ),
    Family(
        "OPT",
        ("opt",),
        body="model.decoder",
        final_norm="final_layer_norm",
        attention_norm="self_attn_layer_norm",
        mlp_norm="final_layer_norm",
        mlp="fc2",  # the MLP is no module of its own: what it returns is what its last map does
        mlp_out="fc2",
        eps=1e-5,
        is_rms=False,
        attention_out="out_proj",
        position_embedding="embed_positions",
        first_position=2,
        refusals=_opt_refusals,
    ),
    Family(
        "GPT-NeoX / Pythia",
        ("gpt_neox",),
        body="gpt_neox",
        final_norm="final_layer_norm",
        attention="attention",
        mlp_out="mlp.dense_4h_to_h",
        eps="layer_norm_eps",
        is_rms=False,
        query_key_value=("query_key_value",) * 3,
        split_heads=_side_by_side,
        attention_out="dense",
        is_parallel=lambda config: config.use_parallel_residual,
    ),
)


def family_of(config: Any) -> Family:
    """The specification for a Hugging Face configuration.

    Raises:
        UnsupportedModelError: the architecture is not in the list, or the configuration uses an option that is not.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            refused = family.refusals(config)
            if refused is not None:
                raise UnsupportedModelError(f"{family.name} with {refused} is not supported.")
            return replace(family, **family.names_for(config))
    known = ", ".join(f"{family.name} ({', '.join(family.model_types)})" for family in FAMILIES)
    raise UnsupportedModelError(
        f"model_type {config.model_type!r} is not supported; the supported families are {known}."
    )


def head_projection(attention: nn.Module, family: Family, config: Any, part: int) -> Projection:
    """To queries, keys or values: weight [n_heads, d_head, d_model], bias [n_heads, d_head]; widened."""
    name = family.query_key_value[part]
    weight, bias = plain_weights(attention.get_submodule(name), name)
    by_head = None if bias is None else family.split_heads(bias, part, config)
    return widened(family.split_heads(weight, part, config)), widened(by_head)


def output_projection(attention: nn.Module, family: Family, config: Any) -> Projection:
    """From what heads mix back to the stream: weight [n_heads, d_model, d_head], bias [d_model]; widened."""
    weight, bias = plain_weights(attention.get_submodule(family.attention_out), family.attention_out)
    weight, bias, factor = widened(weight), widened(bias), family.residual_scale(config)
    if factor != 1:
        weight, bias = factor * weight, None if bias is None else factor * bias
    return weight.unflatten(1, (config.num_attention_heads, -1)).permute(1, 0, 2), bias
