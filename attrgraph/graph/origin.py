"""Whether a model can be the one that a graph was traced on."""

from typing import TYPE_CHECKING, Any

from attrgraph.errors import AttrGraphError, ModelLoadError, TranscoderError
from attrgraph.files import SAMPLED

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph
    from attrgraph.models.language_model import LanguageModel


def check_traced_model(graph: "Graph", model: "LanguageModel") -> None:
    """Raise unless the model can be the one that the graph was traced on, by sizes, precision and files' digests.

    Raises:
        TranscoderError: the model has no transcoders, or others.
        ModelLoadError: it is another model, or runs in another precision.
    """
    transcoders = model.need_transcoders()
    config = transcoders.config
    ours: dict[str, Any] = {
        **model.source,
        "family": model.family.name,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "d_vocab": model.d_vocab,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    recorded = {**graph.metadata.get("model", {}), "n_layers": graph.n_layers}
    if "dtype" in graph.metadata:
        recorded["dtype"] = graph.metadata["dtype"]
    _compare("model", ours, recorded, ModelLoadError)
    theirs: dict[str, Any] = {
        **transcoders.source,
        "kind": config.model_kind,
        "n_features": transcoders.n_features,
        "read_point": config.feature_input_hook,
        "write_point": config.feature_output_hook,
    }
    _compare("transcoders", theirs, graph.metadata.get("transcoders", {}), TranscoderError)


def _compare(what: str, ours: dict[str, Any], recorded: dict[str, Any], error: type[AttrGraphError]) -> None:
    is_known = bool(recorded.get("digest") or recorded.get("revision"))
    now, then = ("; ".join(each.get("altered", [])) or "nothing altered" for each in (ours, recorded))
    if is_known and now != then:
        raise error(f"{what} {ours['id']}: runs with {now:.200}; the graph was traced with {then:.200}. Trace again.")
    if is_known and "changed" in ours and ours["digest"] != recorded.get("digest"):
        raise error(
            f"{what} {ours['id']}: was changed {ours['changed']}; the graph was traced with other weights. Load "
            "it again, or trace again."
        )
    for key, value in ours.items():
        # the same files may lie in two places, and a commit have several names
        if key in ("id", "asked_revision") or not recorded.get(key) or not value:
            continue
        # the digests of a folder and of a model in memory cannot be compared
        if key == "digest" and value.split(":")[0] != str(recorded[key]).split(":")[0]:
            continue
        if recorded[key] != value:
            raise error(
                f"{what} {ours['id']}: its {key} is {value}; the graph was traced with {recorded[key]}. "
                f"Take the {what} that the graph was traced with, or trace again."
                + (" A copy has another time of change; cp -p keeps it." if SAMPLED in str(value) else "")
            )
