"""What goes through a model's blocks during one run, as it has to be known to freeze that run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attrgraph.models.families import IS_TRANSFORMERS_4
from attrgraph.models.frozen import widened
from attrgraph.models.hooks import asked_for_patterns, at_home, on_call, on_input, on_output

if TYPE_CHECKING:
    from attrgraph.models.language_model import LanguageModel


@dataclass(frozen=True)
class Recording:
    """What the hooks saw in one forward pass, by layer; widened."""

    streams: dict[int, Tensor] = field(default_factory=dict)
    mlp_streams: dict[int, Tensor] = field(default_factory=dict)
    patterns: dict[int, Callable[[], Tensor]] = field(default_factory=dict)
    looks_ahead: list[int] = field(default_factory=list)  # layers whose attention is not causal
    attention_outs: dict[int, Tensor] = field(default_factory=dict)
    mlp_outs: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def observed_patterns(model: "LanguageModel", see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While the context lasts, `see(layer, pattern)` gets each layer's [n_rows, n_heads, n_pos, n_pos], as it runs."""
    attentions = [model.attention_module(layer) for layer in range(model.n_layers)]

    def record(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        see(layer, at_home(output[1].detach()))

    with asked_for_patterns(attentions if IS_TRANSFORMERS_4 else []), on_call(attentions, record):
        yield


@contextmanager
def recording(model: "LanguageModel", *, keep_patterns: bool) -> Iterator[Recording]:
    """Record what enters and leaves the parts of every block during one forward pass of one prompt."""
    seen, layers = Recording(), range(model.n_layers)

    def record(store: dict[int, Tensor]) -> Callable[[int, Tensor], None]:
        return lambda layer, x: store.__setitem__(layer, widened(x[0]))

    def again(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        with model.eager():
            pattern: Tensor = attentions[layer](*args, **kwargs)[1][0]
        return widened(pattern.detach())

    def record_attention(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.attention_outs[layer], pattern = widened(at_home(output[0][0])), widened(output[1][0])
        if bool(pattern.triu(1).any()):
            seen.looks_ahead.append(layer)
        if keep_patterns:
            seen.patterns[layer] = lambda: pattern
        else:  # exactly the same call again
            seen.patterns[layer] = lambda: again(layer, args, kwargs)

    attentions = [model.attention_module(layer) for layer in layers]
    with (
        on_input([*model.layer_modules(), model.final_norm_module()], record(seen.streams)),
        on_input([model.mlp_norm_module(layer) for layer in layers], record(seen.mlp_streams)),
        on_output([model.mlp_inner_module(layer) for layer in layers], record(seen.mlp_outs)),
        asked_for_patterns(attentions if IS_TRANSFORMERS_4 else []),
        on_call(attentions, record_attention),
    ):
        yield seen
