"""A model that reads texts piece by piece and keeps keys and values."""

import inspect
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.models.language_model import LanguageModel

CachedRun = Callable[[Int[Tensor, "n_rows n_new"]], Float[Tensor, "n_rows d_vocab"]]


def cached_run(model: LanguageModel) -> CachedRun:
    """Called with the next tokens of each row, gives the logits after the last of them."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.hf_model.config)
    # the argument's name since transformers 5.24, and before
    name = "cache" if "cache" in inspect.signature(model.hf_model.forward).parameters else "past_key_values"

    def run(token_ids: Tensor) -> Tensor:
        out = model.hf_model(input_ids=token_ids, use_cache=True, logits_to_keep=1, **{name: cache})
        return out.logits[:, -1]  # type: ignore[no-any-return]

    return run
