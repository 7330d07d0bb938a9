"""Making models by transformers: new, untrained ones for the demo, tests and benchmarks, or without weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging


def create_hf_model(model_type: str, *, seed: int, **config: Any) -> PreTrainedModel:
    """A causal language model of the given Hugging Face `model_type` with freshly initialised float32 weights.

    Args:
        model_type: the configuration's name in transformers, for example "llama" or "gpt2".
        seed: seeds the initialisation; the global random state is left as it was.
        config: fields of that configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **config), attn_implementation="eager"
        )
    return model.float().eval()  # type: ignore[no-any-return]


def without_weights(hf_model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configuration, made anew in some 0.05 s; its weights are nowhere."""
    with silently(), torch.device("meta"):
        return type(hf_model)(deepcopy(hf_model.config))


@contextmanager
def silently() -> Iterator[None]:
    """Keep transformers from drawing its own bar on stderr, and from saying how else weights could be loaded."""
    was_on, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_on:
            transformers_logging.enable_progress_bar()
