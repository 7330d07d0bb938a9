"""Where a graph's numbers come from, and the model that a graph names."""

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrgraph.demo.shipped import SHIPPED
from attrgraph.errors import AttrGraphError, ModelLoadError, TranscoderError
from attrgraph.graph.graph import Graph
from attrgraph.models.identity import tokenizer_digest
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders.known_sets import neuronpedia_names

_version = cache(version)  # looking one up reads files


def library_versions(*names: str) -> dict[str, str]:
    """The versions of Python and of libraries; by default of those that decide numbers, this package among them."""
    names = names or ("attrgraph", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def provenance_of(model: LanguageModel) -> dict[str, Any]:
    """Where the numbers come from. Nothing here changes between two runs of the same thing."""
    transcoders = model.transcoders
    assert transcoders is not None  # trace has refused before
    source, of_model = transcoders.source, model.source  # what is in memory is looked at for changes, once
    tokenizer = None if model.tokenizer is None else tokenizer_digest(model.tokenizer)
    return {
        "generator": {"name": "attrgraph", "version": _version("attrgraph")},
        "versions": library_versions("torch", "transformers", "numpy", "scipy"),
        "model": {**of_model, "family": model.family.name, "d_model": model.d_model, "d_vocab": model.d_vocab},
        **({} if tokenizer is None else {"tokenizer": {"digest": tokenizer}}),
        "transcoders": {
            **source,
            "kind": transcoders.config.model_kind,
            "scan": transcoders.config.scan,
            "neuronpedia": neuronpedia_names(source["id"], str(of_model.get("id"))),
            "n_features": transcoders.n_features,
            **({"missing_layers": transcoders.missing_layers} if transcoders.missing_layers else {}),
            "read_point": transcoders.config.feature_input_hook,
            "write_point": transcoders.config.feature_output_hook,
        },
        "dtype": str(model.hf_model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def origin_of(graph: Graph) -> dict[str, Any]:
    """The arguments of `load_model` for the model and the transcoders that a graph names.

    Raises:
        ModelLoadError, TranscoderError: the graph does not say where they are, or they are not there any more.
    """
    model, revision = _where(graph, "model", ModelLoadError)
    transcoders, pinned = _where(graph, "transcoders", TranscoderError)
    return {
        "model": model,
        "transcoders": transcoders if pinned is None else f"{transcoders}@{pinned}",
        "dtype": str(graph.metadata.get("dtype", "float32")),
        "revision": revision,
        "read_point": graph.metadata["transcoders"].get("read_point"),
        "write_point": graph.metadata["transcoders"].get("write_point"),
        "allow_missing_layers": bool(graph.metadata["transcoders"].get("missing_layers")),
    }


def _where(graph: Graph, what: str, error: type[AttrGraphError]) -> tuple[str, str | None]:
    """The name under which to load the graph's model or transcoders, and the revision on the hub."""
    recorded = graph.metadata.get(what, {})
    name, revision = recorded.get("id"), recorded.get("revision")
    if not name or not (revision or recorded.get("digest")):
        said = f"{name}, without a digest or a revision" if name else "nothing"
        raise error(
            f"the graph says of its {what}: {said}; without a digest or a revision the model cannot be verified. "
            "Load the model yourself and give it as model=..."
        )
    if "tensors-" in str(recorded.get("digest")):
        raise error(f"{name}: the graph was traced with {what} in memory; give the model as model=...")
    if not revision and name not in SHIPPED and not Path(name).expanduser().is_dir():
        raise error(
            f"{name}: the folder of the graph's {what} is not there. Load it from where it is now and give it as "
            "model=...; its digest is compared."
        )
    return str(name), str(revision) if revision else None
