"""A model that reads texts piece by piece and keeps keys and values."""

import inspect

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from attrgraph.models.hooks import alone, running
from attrgraph.models.language_model import LanguageModel


class CachedRun:
    """Called with the next tokens of each row, gives the logits after the last of them.

    `is_stale` is set by a call in which rotary frequencies have changed, as some kinds (longrope) choose them by the
    length of the text: keys that were kept are turned otherwise, so a new run has to read the whole text.

    Raises:
        UnsupportedModelError: as `LanguageModel.check_state`.
    """

    def __init__(self, model: LanguageModel) -> None:
        model.check_state()
        self._model, self._speeds, self.is_stale = model.hf_model, list[Tensor](), False
        self._experts = model.plain_experts
        cache = DynamicCache(config=self._model.config)
        # the argument's name since transformers 5.24, and before
        name = "cache" if "cache" in inspect.signature(self._model.forward).parameters else "past_key_values"
        self._kept = {name: cache}

    def __call__(self, token_ids: Int[Tensor, "n_rows n_new"]) -> Float[Tensor, "n_rows d_vocab"]:
        with alone, self._experts(), running(token_ids):
            out = self._model(input_ids=token_ids, use_cache=True, logits_to_keep=1, **self._kept)
            speeds = [buffer.clone() for name, buffer in self._model.named_buffers() if name.endswith("inv_freq")]
        self.is_stale = bool(self._speeds) and not all(map(torch.equal, self._speeds, speeds))
        self._speeds = speeds
        return out.logits[:, -1].to(token_ids.device)  # type: ignore[no-any-return]
