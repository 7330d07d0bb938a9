"""Published layouts of transcoder folders, one reader a module."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from attrgraph.errors import AttrGraphError, TranscoderError
from attrgraph.transcoders.formats import (
    clt_forge,
    clt_training,
    common,
    crosslayer_transcoder,
    gemma_scope,
    llamascopium,
    saelens,
    sparsify,
)
from attrgraph.transcoders.formats.reader import Layout as Layout
from attrgraph.transcoders.formats.reader import Points as Points
from attrgraph.transcoders.layer_weights import LayerWeights

# the first that matches: sparsify's folders are also in clt-training's layout
READERS: tuple[ModuleType, ...] = (
    common,
    crosslayer_transcoder,
    clt_forge,
    clt_training,
    sparsify,
    saelens,
    llamascopium,
    gemma_scope,
)
# files by which what cannot be read is known, and why
_REFUSED = {
    "**/ae.pt": "an autoencoder in a pickle, which is never opened",
    "hyperparams.json": "in Llama Scope's layout of 2024, whose thresholds have no known scale",
    "**/*.pt": "in a pickle, which is never opened",
    "sae_weights.safetensors": "the folder of one layer; give the folder that holds those of all layers",
    "sae.safetensors": "the folder of one layer; give the folder that holds those of all layers",
}


def read_layout(folder: Path, points: Points) -> Layout:
    """The folder as the reader of its layout understands it.

    Raises:
        TranscoderError: no layout that is known, or one that cannot be expressed as transcoders of MLPs.
    """
    for reader in READERS:
        if reader.matches(folder):
            layout: Layout = _guarded(folder, reader.read, folder, points)
            _check_layers(folder, layout, points)
            whole = replace(layout, config=layout.config.up_to(layout.n_layers))
            return replace(whole, layer=partial(_layer, folder, whole))
    for pattern, why in _REFUSED.items():
        if next(folder.glob(pattern), None):
            raise TranscoderError(f"{folder}: is {why}.")
    raise TranscoderError(
        f"{folder}: has no config.yaml, and is in none of the layouts {_names(READERS[1:])}; it holds "
        f"{', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing':.200}."
    )


def _check_layers(folder: Path, layout: Layout, points: Points) -> None:
    """Raise for layers that are missing, unless they may be."""
    missing = [layer for layer in range(layout.n_layers) if layer not in layout.weights]
    if missing and not points.allow_missing_layers:
        found = ", ".join(map(str, layout.weights))
        raise TranscoderError(
            f"{folder}: layer {missing[0]} is missing (found layers {found:.200}); download it, or pass "
            "--allow-missing-layers (allow_missing_layers=True), which leaves its MLP to the errors."
        )


def _layer(folder: Path, layout: Layout, layer: int) -> LayerWeights:
    if layer not in layout.weights:  # it may be missing
        n_targets = layout.n_layers - layer if layout.config.is_cross_layer else 1
        return _layer(folder, layout, next(iter(layout.weights))).without_features(n_targets)
    weights: LayerWeights = _guarded(folder, layout.layer, layer)
    return weights


def _guarded(folder: Path, call: Callable[..., Any], *args: Any) -> Any:
    """What is called gives; settings that lack something, or hold something of another type, end in one line."""
    try:
        return call(*args)
    except AttrGraphError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as e:
        raise TranscoderError(
            f"{folder}: its settings or weights are not those of its layout ({type(e).__name__}: {e!s:.200})."
        ) from e


def patterns_of(folder: Path) -> list[str]:
    """Which files of weights to fetch, told by a copy that holds settings only."""
    for reader in (reader for reader in READERS if reader is not gemma_scope):
        if reader.matches(folder):
            return list(reader.PATTERNS)
    return list(gemma_scope.PATTERNS)


def _names(readers: Iterable[ModuleType]) -> str:
    return ", ".join(reader.__name__.rpartition(".")[2].replace("_", "-") for reader in readers)
