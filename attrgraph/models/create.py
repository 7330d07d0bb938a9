"""New, untrained Hugging Face models: for the demo, for tests and for benchmarks."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


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
