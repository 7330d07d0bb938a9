"""What of a model and its tokenizer decides a graph, for digests."""

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attrgraph.models.alterations import alterations
from attrgraph.models.weights import stored_weights
from attrgraph.transcoders.digests import Origin

# of configurations, at every level: names, and what decides how results are given, not which
_INDIFFERENT = frozenset(
    "_name_or_path _commit_hash _attn_implementation attn_implementation _experts_implementation transformers_version "
    "transformers_weights architectures dtype torch_dtype use_cache return_dict output_attentions output_hidden_states "
    "output_router_logits problem_type id2label label2id chunk_size_feed_forward".split()
)
# rope types whose frequencies a run replaces by those for its length
_BY_LENGTH = ("dynamic", "longrope")
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# of each tokenizer what is quickly asked, and its digest, which takes 0.03 s for 128,000 tokens
_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, str]] = WeakKeyDictionary()


def origin_of_model(hf_model: PreTrainedModel, source: dict[str, Any] | None) -> Origin:
    """Where the model is from: its source, or if None what is in memory."""
    name = hf_model.config.name_or_path or "(in memory)"
    return Origin(source, name, lambda: _tensors(hf_model), lambda: _settings(hf_model))


def _tensors(hf_model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers, but for those that follow from a prompt's length."""
    follow = {
        f"{name}.{buffer}"
        for name, module in hf_model.named_modules()
        if any(kind in str(getattr(module, "rope_type", "")) for kind in _BY_LENGTH)
        for buffer in module._buffers
    }
    found: dict[str, Tensor] = {**stored_weights(hf_model), **dict(hf_model.named_buffers())}
    return {name: tensor for name, tensor in found.items() if name not in follow}


def _settings(hf_model: PreTrainedModel) -> dict[str, Any]:
    """The configuration less what does not change a number, and what runs otherwise than it says."""

    def kept(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(name): kept(value) for name, value in values.items() if name not in _INDIFFERENT}

    settings: dict[str, Any] = kept(hf_model.config.to_dict())
    altered = alterations(hf_model)
    return settings | {"altered": altered} if altered else settings


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Of the tokenizer as it is: its vocabulary and rules, added and special tokens, chat template.

    Asked again, it is computed anew if any of these but the vocabulary's entries have changed, of which there are many.

    Returns:
        None for one that gives no account of its rules, as one with steps written in Python.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    pieces: Any = getattr(tokenizer, "sp_model", None)
    if backend is None and pieces is None:
        return None
    names = ("special_tokens_map", "chat_template", "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces")
    about = [getattr(tokenizer, name, None) for name in names]
    about += [len(tokenizer), {str(number): str(token) for number, token in tokenizer.added_tokens_decoder.items()}]
    try:
        about += [step and step.__getstate__().decode() for step in (getattr(backend, name, None) for name in _STEPS)]
        asked = json.dumps(about, sort_keys=True, default=str)
        if _known.get(tokenizer, ("", ""))[0] != asked:
            rules = pieces.serialized_model_proto() if backend is None else _rules(backend.to_str())
            _known[tokenizer] = asked, f"tokenizer-sha256:{hashlib.sha256(asked.encode() + rules).hexdigest()}"
    except Exception:  # of no class of its own, for steps that are written in Python
        return None
    return _known[tokenizer][1]


def _rules(text: str) -> bytes:
    """Of a tokenizer's text all but its beginning, which says how the last call was cut and filled."""
    return text[text.index('"added_tokens"') :].encode()
