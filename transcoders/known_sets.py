"""Published sets of transcoders known by name. Second-hand: from what their users wrote, none opened from the hub."""

from typing import NamedTuple

from attrgraph.errors import TranscoderError

AS_OF = "2026-11"


class KnownSet(NamedTuple):
    """A published set.

    Attributes:
        name: on the Hugging Face hub.
        model: that it is for, on the hub.
        kind: cross-layer, per-layer or both.
        features: layers x features a layer, as far as they are known.
        layout: of its files.
        size: of its weights, as far as it is known.
        short: circuit-tracer's name for it, which `load_transcoders` takes too.
    """

    name: str
    model: str
    kind: str
    features: str
    layout: str = "common"
    size: str = ""
    short: str = ""


_GEMMA, _LLAMA = "google/gemma-2-2b", "meta-llama/Llama-3.2-1B"

KNOWN_SETS = (
    KnownSet("mntss/clt-gemma-2-2b-426k", _GEMMA, "cross-layer", "26 x 16k", size="28 GB"),
    KnownSet("mntss/clt-gemma-2-2b-2.5M", _GEMMA, "cross-layer", "26 x 98k", size="171 GB"),
    KnownSet(
        "mwhanna/gemma-scope-transcoders", _GEMMA, "per-layer", "26 x 16k", "Gemma Scope", size="8 GB", short="gemma"
    ),
    KnownSet("mntss/gemma-scope-transcoders", _GEMMA, "per-layer", "26 x 16k", "Gemma Scope", size="8 GB"),
    KnownSet("google/gemma-scope-2b-pt-transcoders", _GEMMA, "per-layer", "26 x 16k", "Gemma Scope"),
    KnownSet("mntss/clt-llama-3.2-1b-524k", _LLAMA, "cross-layer", "16 x 32k", size="20 GB"),
    KnownSet("mntss/transcoder-Llama-3.2-1B", _LLAMA, "per-layer", "16 x 131k", size="34 GB", short="llama"),
    KnownSet(
        "facebook/crv-8b-instruct-transcoders",
        "meta-llama/Llama-3.1-8B-Instruct",
        "per-layer",
        "32 layers",
        "common k=128",  # its config.yaml lacks k
    ),
    KnownSet("mntss/clt-131k", "openai/gpt-oss-20b", "cross-layer", "24 x 131k", size="245 GB"),
    KnownSet("bluelightai/clt-qwen3-0.6b-base-20k", "Qwen/Qwen3-0.6B-Base", "cross-layer", "28 x 20k", size="18 GB"),
    KnownSet("bluelightai/clt-qwen3-1.7b-base-20k", "Qwen/Qwen3-1.7B-Base", "cross-layer", "28 x 20k", size="36 GB"),
    KnownSet("mwhanna/qwen3-0.6b-transcoders-lowl0", "Qwen/Qwen3-0.6B", "per-layer", "28 x 164k"),
    KnownSet("mwhanna/qwen3-1.7b-transcoders-lowl0", "Qwen/Qwen3-1.7B", "per-layer", "28 layers"),
    KnownSet("OpenMOSS-Team/Llama-Scope-2-Qwen3-1.7B", "Qwen/Qwen3-1.7B", "both", "28 layers", "Llamascopium"),
    KnownSet("mwhanna/qwen3-4b-transcoders", "Qwen/Qwen3-4B", "per-layer", "36 x 164k"),
    KnownSet("mwhanna/qwen3-8b-transcoders", "Qwen/Qwen3-8B", "per-layer", "36 layers"),
    KnownSet("mwhanna/qwen3-14b-transcoders-lowl0", "Qwen/Qwen3-14B", "per-layer", "40 layers"),
    *(
        KnownSet(
            f"mwhanna/gemma-scope-2-{size}-{tuned}",
            "google/gemma-3-270m" if (size, tuned) == ("270m", "pt") else f"google/gemma-3-{size}-{tuned}",
            "both" if size in ("270m", "1b") else "per-layer",
            "16k, 262k",
            "Gemma Scope",
        )
        for size in ("270m", "1b", "4b", "12b", "27b")
        for tuned in ("pt", "it")
    ),
)
# At Neuronpedia: models that it has by these names, and its names of sets whose features have pages there.
_MODELS_THERE = {
    _GEMMA: "gemma-2-2b",
    "Qwen/Qwen3-1.7B": "qwen3-1.7b",
    "Qwen/Qwen3-4B": "qwen3-4b",
    "google/gemma-3-4b-it": "gemma-3-4b-it",
    "google/gemma-3-27b-it": "gemma-3-27b-it",
}
_SETS_THERE = {
    "mntss/clt-gemma-2-2b-2.5M": ("gemma-2-2b", "clt-hp"),
    "mwhanna/gemma-scope-transcoders": ("gemma-2-2b", "gemmascope-transcoder-16k"),
    "mntss/gemma-scope-transcoders": ("gemma-2-2b", "gemmascope-transcoder-16k"),
    "mwhanna/qwen3-4b-transcoders": ("qwen3-4b", "transcoder-hp"),
    "mwhanna/gemma-scope-2-4b-it/transcoder_all/width_16k_l0_small_affine": (
        "gemma-3-4b-it",
        "gemmascope-2-transcoder-16k",
    ),
    "mwhanna/gemma-scope-2-4b-it/transcoder_all/width_262k_l0_small_affine": (
        "gemma-3-4b-it",
        "gemmascope-transcoder-262k",
    ),
}


def neuronpedia_names(transcoders: str, model: str = "") -> dict[str, str]:
    """`model` and `source_set` at Neuronpedia of transcoders and a model by their names on the hub, as far as known."""
    names = _SETS_THERE.get(transcoders) or ((_MODELS_THERE[model],) if model in _MODELS_THERE else ())
    return dict(zip(("model", "source_set"), names, strict=False))


def full_name(name: str) -> str:
    """The name on the hub of a set that circuit-tracer has a short name for; any other name as it is."""
    short, at, revision = name.partition("@")
    return next((f"{known.name}{at}{revision}" for known in KNOWN_SETS if known.short == short != ""), name)


def sets_for(model: str) -> list[KnownSet]:
    """Those known for a model on the hub."""
    return [known for known in KNOWN_SETS if known.model.lower() == model.lower()]


def known_for(model: str) -> str:
    """The end of a sentence that asks for a model's transcoders: those known for it, if there are any."""
    known = ", ".join(known.name for known in sets_for(model))
    return f"; known for it: {known}" if known else ""


def no_transcoders(model: str) -> TranscoderError:
    """What is said where a model that was loaded without transcoders needs them."""
    return TranscoderError(
        f"the model has no transcoders; load it with load_model(..., transcoders=...){known_for(model)}."
    )
