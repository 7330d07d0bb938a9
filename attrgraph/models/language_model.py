"""A Hugging Face causal language model: prompts to tokens, and one run to a `FrozenRun`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attrgraph.errors import PromptError, UnsupportedModelError, as_whole, listed
from attrgraph.models.alterations import alterations
from attrgraph.models.chats import chat_text, check_options
from attrgraph.models.families import VALUE, Family, family_of, head_projection, output_projection
from attrgraph.models.frozen import FrozenAttention, FrozenBlock, FrozenNorm, FrozenRun, widened
from attrgraph.models.hooks import alone, running, setting
from attrgraph.models.identity import origin_of_model
from attrgraph.models.recording import Recording, recording
from attrgraph.models.requirements import (
    check_computes_in_its_type,
    check_is_in_evaluation_mode,
    check_model,
    embedding_deviation,
)
from attrgraph.models.tokens import check_characters, front_token, is_special, text_ids, text_of, token_text
from attrgraph.models.weights import home_device, plain_weights, precision_of, stored_weights, weight_of
from attrgraph.transcoders import Transcoders
from attrgraph.transcoders.finite import not_finite
from attrgraph.transcoders.known_sets import no_transcoders

Message = dict[str, Any]
Prompt = str | Sequence[SupportsIndex] | Sequence[Message] | np.ndarray | Tensor


class LanguageModel:
    """A causal language model whose runs can be frozen exactly.

    The Hugging Face model is only observed, never changed: its weights are read, and while a prompt runs its
    modules' inputs and outputs are recorded through forward hooks that are removed again.

    Args:
        hf_model: a model of one of the supported families. Whatever its attention implementation, runs here use
            "eager", which gives attention patterns.
        tokenizer: its tokenizer; without one, prompts are token ids.
        transcoders: the feature dictionaries to trace with.
        source: what to write about the model's origin into graphs (id, revision, digest).
        chat_template_kwargs: for the tokenizer's chat template, such as {"enable_thinking": False}.
    """

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        transcoders: Transcoders | None = None,
        source: dict[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.family: Family = family_of(hf_model.config)
        self.config = hf_model.config.get_text_config()  # a wrapper's is one for images too
        check_model(hf_model, self.family)
        self.precision = precision_of(hf_model)  # by which exactness is judged
        self.hf_model, self.tokenizer, self.transcoders = hf_model, tokenizer, transcoders
        self._origin = origin_of_model(hf_model, source)
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        if tokenizer is not None:
            check_options(tokenizer, self.chat_template_kwargs)
        if transcoders is not None:
            transcoders.check_fits(n_layers=self.n_layers, d_model=self.d_model)

    def __repr__(self) -> str:
        return f"LanguageModel({self.family.name}, {self.n_layers} layers x {self.d_model}, {self._origin.id})"

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights are from, as graphs record it: id, revision, digest. Once they are changed, of those.

        `altered` says what runs otherwise than the configuration says; see `models.alterations`.
        """
        with alone:
            now, altered = self._origin.now(), alterations(self.hf_model)
        return {**now, "altered": altered} if altered else now

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def d_vocab(self) -> int:
        return int(self.hf_model.get_output_embeddings().out_features)

    @property
    def n_context(self) -> int:
        """The longest prompt, in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return home_device(self.hf_model)

    @property
    def dtype(self) -> torch.dtype:
        """In which the model runs."""
        return self.hf_model.dtype

    @property
    def bos_token_id(self) -> int | None:
        """The tokenizer's, or without a tokenizer the configuration's if it is a token of the vocabulary."""
        if self.tokenizer is not None:
            return self.tokenizer.bos_token_id  # type: ignore[no-any-return]
        bos = self.config.bos_token_id
        return bos if isinstance(bos, int) and bos < self.d_vocab else None

    def need_transcoders(self) -> Transcoders:
        """The transcoders; without them TranscoderError, which says which published sets are known for the model."""
        if self.transcoders is None:
            raise no_transcoders(str(self.source.get("id")))
        return self.transcoders

    def tokenize(self, prompt: Prompt, *, prepend: str = "auto") -> Int[Tensor, " n_pos"]:
        """Token ids of a prompt: text, token ids, or chat messages ({"role": ..., "content": ...}).

        Args:
            prompt: a last message of the assistant is continued.
            prepend: which token is put in front, unless the prompt begins with it: "auto", the tokenizer's BOS if it
                has one; "none"; "circuit-tracer", as that tool does, BOS or else the padding or the end token, unless
                the prompt begins with a special token; or a token.

        Raises:
            PromptError: empty, longer than the context, ids outside the vocabulary, text without a tokenizer, messages
                that the chat template refuses, or a `prepend` that is no token.
        """
        token_ids, front = self._token_ids(prompt), self.front_token(prepend)
        if not token_ids:
            raise PromptError("the prompt is empty; give at least one token.")
        is_begun = token_ids[0] == front or (prepend == "circuit-tracer" and self.is_special(token_ids[0]))
        if front is not None and not is_begun:
            token_ids = [front, *token_ids]
        if len(token_ids) > self.n_context:
            raise PromptError(
                f"the prompt has {len(token_ids)} tokens, the model's context {self.n_context}; shorten the prompt."
            )
        outside = [i for i in token_ids if not 0 <= i < self.d_vocab]
        if outside:
            raise PromptError(f"token id {outside[0]!r:.30} is outside the vocabulary (0 to {self.d_vocab - 1}).")
        return torch.tensor(token_ids, device=self.device)

    def front_token(self, prepend: str) -> int | None:
        """The token that `tokenize` puts in front of a prompt, or None.

        Raises:
            PromptError: the text is not one token.
        """
        if prepend == "none" or (self.tokenizer is None and prepend == "auto"):
            return None
        return front_token(self._require_tokenizer("tokens to put in front"), prepend)

    def is_special(self, token_id: int) -> bool:
        """Whether the tokenizer sets the token apart from text, such as <|im_start|>; unknown words are text."""
        return self.tokenizer is not None and is_special(self.tokenizer, token_id)

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, Tensor) and (prompt.ndim != 1 or prompt.is_floating_point()):
            raise PromptError(
                f"a tensor prompt must be 1-D integers, got shape {tuple(prompt.shape)}, {prompt.dtype}; trace one "
                "prompt at a time."
            )
        if isinstance(prompt, str):
            check_characters(len(prompt), self.n_context)
            return text_ids(self._require_tokenizer("text"), prompt)
        expected = "a prompt is text, token ids, or chat messages"
        ids: Any = listed(prompt) if isinstance(prompt, Sequence) or hasattr(prompt, "tolist") else None
        if ids is None:
            raise PromptError(f"{expected}; got {type(prompt).__name__}.")
        if len(ids) and isinstance(ids[0], Mapping):
            return self._token_ids(chat_text(self._require_tokenizer("chat messages"), ids, self.chat_template_kwargs))
        for item in ids:
            if as_whole(item) is None:
                raise PromptError(f"{expected}; a list has a {type(item).__name__}.")
        return list(ids)

    def _require_tokenizer(self, what: str) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise PromptError(
                f"the model has no tokenizer, so it cannot read {what}; give load_model(..., tokenizer=...), or the "
                "prompt as token ids."
            )
        return self.tokenizer

    def token_text(self, token_id: int) -> str:
        """What the token adds to a text; without a tokenizer, its number in angle brackets; see `models.tokens`."""
        return f"<{token_id}>" if self.tokenizer is None else token_text(self.tokenizer, token_id)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text that the tokens make together."""
        if self.tokenizer is None:
            return "".join(self.token_text(token_id) for token_id in token_ids)
        return text_of(self.tokenizer, token_ids)

    @torch.no_grad()
    def run(self, token_ids: Int[Tensor, " n_pos"], *, keep_patterns: bool = True) -> FrozenRun:
        """Run the model once and freeze its attention patterns and norm scales.

        Tensors of the result are float32, or float64 if the model is.

        Args:
            token_ids: of one prompt.
            keep_patterns: keep attention patterns in memory; else each is computed again whenever it is needed.

        Raises:
            ResultError: activations or logits are not finite (usually NaN or infinite weights).
            UnsupportedModelError: attention is not causal, or as `check_state`.
        """
        with recording(self, keep_patterns=keep_patterns) as seen:
            logits = self.logits(token_ids[None], logits_to_keep=1)[0, -1]
        final_stream = seen.streams[self.n_layers]
        if not bool(torch.isfinite(logits).all() and torch.isfinite(final_stream).all()):
            raise not_finite("the model's activations", "the model", stored_weights(self.hf_model), logits.dtype)
        position_embedding = self._position_embedding(len(token_ids))
        embedding = seen.streams[0] if position_embedding is None else seen.streams[0] - position_embedding
        final_norm = self.frozen_norm(self.final_norm_module(), final_stream)
        W_U, b_U = self.unembedding()
        uncapped_logits = W_U @ final_norm.apply(final_stream)[-1]
        if b_U is not None:
            uncapped_logits = uncapped_logits + b_U
        return FrozenRun(
            token_ids=token_ids,
            embedding=embedding,
            position_embedding=position_embedding,
            blocks=tuple(self._frozen_block(layer, seen) for layer in range(self.n_layers)),
            final_norm=final_norm,
            final_stream=final_stream,
            W_U=W_U,
            b_U=b_U,
            logits=widened(logits),
            uncapped_logits=uncapped_logits,
            pattern_bytes=self.pattern_bytes(len(token_ids)) if keep_patterns else 0,
            embedding_deviation=embedding_deviation(
                self.hf_model, self.family.embedding_scale(self.config), token_ids, embedding
            ),
            unembedding_deviation=float((self.soft_cap(uncapped_logits) - widened(logits)).abs().max()),
        )

    def unembedding(self) -> tuple[Float[Tensor, "d_vocab d_model"], Float[Tensor, " d_vocab"] | None]:
        """Weight and bias that make logits of what leaves the final norm; at least in float32."""
        weight, bias = plain_weights(self.hf_model.get_output_embeddings(), "the unembedding")
        weight, scale = widened(weight.to(self.device)), self.family.logit_scale(self.config)
        bias = None if bias is None else widened(bias.to(self.device))
        if scale == 1.0:  # nothing is copied
            return weight, bias
        return scale * weight, None if bias is None else scale * bias

    def soft_cap(self, uncapped_logits: Float[Tensor, " d_vocab"]) -> Float[Tensor, " d_vocab"]:
        """Logits as the model gives them: soft-capped if it does so."""
        cap = getattr(self.config, "final_logit_softcapping", None)
        return uncapped_logits if cap is None else cap * torch.tanh(uncapped_logits / cap)

    def logits(
        self, token_ids: Int[Tensor, "n_rows n_pos"], *, logits_to_keep: int = 0, **inputs: Tensor | None
    ) -> Float[Tensor, "n_rows n_kept d_vocab"]:
        """Run the whole model: its logits at every position, or at the last `logits_to_keep`.

        Args:
            token_ids: of each row.
            logits_to_keep: 0 for all positions.
            inputs: `position_ids` [n_rows, n_pos] and `attention_mask` [n_rows, 1, n_pos, n_pos], where a row is more
                than one text from its beginning.
        """
        with self.eager(), running(token_ids):
            called = self.hf_model(input_ids=token_ids, use_cache=False, logits_to_keep=logits_to_keep, **inputs)
        return called.logits.to(token_ids.device)  # type: ignore[no-any-return]

    def run_body(self, token_ids: Int[Tensor, "n_rows n_pos"], **inputs: Tensor | None) -> None:
        """Run the blocks for whoever observes them, with inputs as for `logits`; no logits are computed."""
        with self.eager(), running(token_ids):
            self.hf_model.get_submodule(self.family.body)(input_ids=token_ids, use_cache=False, **inputs)

    def check_state(self) -> None:
        """Raise UnsupportedModelError unless a run is as every other: under autocast or in training mode it is not."""
        check_computes_in_its_type(self.device)
        check_is_in_evaluation_mode(self.hf_model, self.family)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """While the context lasts, the model runs for this thread alone, and so that attention patterns are seen.

        Raises:
            UnsupportedModelError: as `check_state`.
        """
        self.check_state()
        with alone, self.plain_experts(), setting(self.config, "_attn_implementation", "eager"):
            yield

    def plain_experts(self) -> AbstractContextManager[None]:
        """While the context lasts, experts run in float64 too: PyTorch's product of them all together does not."""
        name, is_double = "_experts_implementation", self.dtype == torch.float64
        return setting(self.config, name, "eager") if is_double and hasattr(self.config, name) else nullcontext()

    def layer_modules(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self._body_part(self.family.layers).children())

    def attention_module(self, layer: int) -> nn.Module:
        return self._block_part(layer, self.family.attention)

    def attention_end_module(self, layer: int) -> nn.Module:
        """The module whose output is added to the stream by attention: the attention, or the norm after it."""
        return self._block_part(layer, self.family.attention_post_norm or self.family.attention)

    def mlp_module(self, layer: int) -> nn.Module:
        """The module whose output is added to the stream by the MLP branch: the MLP, or the norm after it."""
        return self._block_part(layer, self.family.mlp_post_norm or self.family.mlp)

    def mlp_inner_module(self, layer: int) -> nn.Module:
        """The MLP itself, without a norm after it."""
        return self._block_part(layer, self.family.mlp)

    def mlp_norm_module(self, layer: int) -> nn.Module:
        """The norm in front of the MLP, or without one the MLP: what enters it is the stream."""
        return self._block_part(layer, self.family.mlp_norm or self.family.mlp)

    def final_norm_module(self) -> nn.Module:
        return self._body_part(self.family.final_norm)

    def mlp_norm_of(self, layer: int, stream: Float[Tensor, "n_pos d_model"]) -> FrozenNorm:
        """The norm in front of the MLP, as it is for this stream."""
        return self._norm(layer, self.family.mlp_norm, stream)

    def mlp_out_module(self, layer: int) -> nn.Module:
        """The MLP's last linear map. What enters it are the activations of the MLP's neurons.

        Raises:
            UnsupportedModelError: the MLP is one of experts.
        """
        if self.family.mlp_out is None:
            raise UnsupportedModelError(f"{self.family.name} has experts, which share no neurons; pass --no-neurons.")
        return self._block_part(layer, self.family.mlp_out)

    def mlp_post_norm_module(self, layer: int) -> nn.Module | None:
        """The norm between the MLP and the stream, if the family has one."""
        return None if self.family.mlp_post_norm is None else self._block_part(layer, self.family.mlp_post_norm)

    def _body_part(self, name: str) -> nn.Module:
        return self.hf_model.get_submodule(f"{self.family.body}.{name}")

    def _block_part(self, layer: int, name: str) -> nn.Module:
        return self._body_part(f"{self.family.layers}.{layer}.{name}")

    def pattern_bytes(self, n_pos: int) -> int:
        """Of the attention patterns of all layers."""
        size = torch.promote_types(self.dtype, torch.float32).itemsize
        return self.n_layers * int(self.config.num_attention_heads) * n_pos**2 * size

    def _frozen_block(self, layer: int, seen: Recording) -> FrozenBlock:
        if layer in seen.looks_ahead:
            raise UnsupportedModelError(f"attention of layer {layer} looks ahead; only causal models can be traced.")
        family, attention = self.family, self.attention_module(layer)
        W_V, b_V = head_projection(attention, family, self.config, VALUE)
        W_O, b_O = output_projection(attention, family, self.config)
        return FrozenBlock(
            attention_norm=self._norm(layer, family.attention_norm, seen.streams[layer]),
            attention=FrozenAttention(seen.patterns[layer], W_V, W_O, b_V, b_O),
            attention_post_norm=self._optional_norm(layer, family.attention_post_norm, seen.attention_outs[layer]),
            mlp_norm=self.mlp_norm_of(layer, seen.mlp_streams[layer]),
            mlp_post_norm=self._optional_norm(layer, family.mlp_post_norm, seen.mlp_outs[layer]),
            is_parallel=family.is_parallel(self.config),
            mlp_stream=seen.mlp_streams[layer],
            mlp_out=seen.mlp_outs[layer],
            residual_scale=family.residual_scale(self.config),
        )

    def frozen_norm(self, module: nn.Module, x: Float[Tensor, "n d"]) -> FrozenNorm:
        """A norm of the model with its scales held at what they are for `x`; at least in float32."""
        weight, bias = (widened(weight_of(module, name, x.device)) for name in ("weight", "bias"))
        if weight is not None and self.family.adds_one_to_weight:
            weight = 1.0 + weight
        eps = self.family.norm_eps(self.config)
        return FrozenNorm.of(widened(x), weight, bias, is_centered=not self.family.is_rms, eps=eps)

    def _norm(self, layer: int, name: str | None, x: Float[Tensor, "n d"]) -> FrozenNorm:
        """A block's norm for `x`; without one, that changes nothing."""
        return self._optional_norm(layer, name, x) or replace(FrozenNorm.times(1.0, widened(x)), is_there=False)

    def _optional_norm(self, layer: int, name: str | None, x: Tensor) -> FrozenNorm | None:
        return None if name is None else self.frozen_norm(self._block_part(layer, name), x)

    def _position_embedding(self, n_pos: int) -> Tensor | None:
        name, first = self.family.position_embedding, self.family.first_position
        weight = None if name is None else weight_of(self._body_part(name), "weight")
        return None if weight is None else widened(weight[first:][:n_pos]).to(self.device)
