"""What of a model runs otherwise than its configuration says: hooks, other code, other numbers in its modules.

A graph is of what ran, so such a model can be traced; but neither its weights nor its configuration tell what ran.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules import module as every_module
from transformers import PreTrainedModel

from attrgraph.models.create import without_weights

# whose hooks change no number
_HARMLESS = ("attrgraph", "transformers", "accelerate")
# numbers of modules that decide nothing, or nothing outside training
_INDIFFERENT = frozenset(
    "training gradient_checkpointing name_or_path loss_type max_seq_len_cached original_max_seq_len num_embeddings "
    "vocab_size layerdrop jitter_noise router_aux_loss_coef dropout attention_dropout hidden_dropout residual_dropout "
    "embedding_dropout".split()
)
_Facts = dict[str, Any]
_Parts = dict[str, tuple[type[nn.Module], _Facts]]
# of each model the configuration, and what a model that is made from it has in each module
_known: WeakKeyDictionary[PreTrainedModel, tuple[str, _Parts]] = WeakKeyDictionary()


def alterations(hf_model: PreTrainedModel) -> list[str]:
    """In words, module by module; none for a model as transformers, accelerate or bitsandbytes make it."""
    said = list[str]()
    try:
        expected = _as_configured(hf_model)
    except Exception as e:  # of whatever kind, for a configuration that was changed to one that no model can have
        first, *_ = str(e).splitlines() or [""]
        return [f"its configuration makes no model ({type(e).__name__}: {first:.100})"]
    for hook in (*every_module._global_forward_pre_hooks.values(), *every_module._global_forward_hooks.values()):
        said += [f"a hook on every module ({_name(hook)})"] if _is_foreign(hook) else []
    within = "."  # of what has no counterpart only the outermost module is named
    for name, module in hf_model.named_modules():
        if name.startswith(within):
            continue
        said += [f"{name or 'the model'} has {code}" for code in _foreign_code(module)]
        kind, facts = expected.get(name, (None, {}))
        if type(module) is kind:
            found = _facts(module)
            said += [
                f"{name}.{fact} is {found.get(fact, vars(module).get(fact))!s:.40}, not {value}"
                for fact, value in facts.items()
                if found.get(fact) != value
            ]
        elif type(module).__module__.partition(".")[0] != "bitsandbytes":
            said.append(f"{name} is a {type(module).__name__}, not {kind.__name__ if kind else 'there'}")
            within = f"{name}."
    return said


def _foreign_code(module: nn.Module) -> Iterator[str]:
    held = vars(module)
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if _is_foreign(hook):
            yield f"a hook ({_name(hook)})"
    # accelerate keeps what it found
    forward = held.get("_old_forward") if "_hf_hook" in held else held.get("forward")
    own = type(module).forward
    packages = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    if forward is not None and getattr(forward, "__func__", None) is not own:
        yield f"another forward ({_name(forward)})"
    elif own.__module__.partition(".")[0] not in packages:
        yield f"another forward ({_name(own)})"


def _as_configured(hf_model: PreTrainedModel) -> _Parts:
    """Class and numbers of each module of a model that is made anew, without weights, from the configuration."""
    config = json.dumps(hf_model.config.to_dict(), sort_keys=True, default=str)
    if _known.get(hf_model, ("", {}))[0] != config:
        modules: dict[str, nn.Module] = dict(without_weights(hf_model).named_modules())
        _known[hf_model] = config, {name: (type(module), _facts(module)) for name, module in modules.items()}
    return _known[hf_model][1]


def _facts(module: nn.Module) -> _Facts:
    """Numbers, words and functions that the module holds."""
    if isinstance(module, nn.Dropout):
        return {}
    return {
        name: _name(value) if callable(value) else value
        for name, value in vars(module).items()
        if name not in _INDIFFERENT and not name.startswith("_") and name != "forward"
        if callable(value) or isinstance(value, bool | int | float | str | tuple)
    }


def _is_foreign(hook: Any) -> bool:
    return str(_code(hook).__module__).partition(".")[0] not in _HARMLESS


def _name(function: Any) -> str:
    return str(getattr(_code(function), "__qualname__", None) or type(function).__qualname__)


def _code(function: Any) -> Any:
    """The function or class that runs when this is called."""
    while isinstance(function, partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function)
