"""Published sets of transcoders that are known by name, as of 2026-11. Second-hand: none was opened from the hub."""

from typing import NamedTuple


class KnownSet(NamedTuple):
    """A published set.

    Attributes:
        name: on the Hugging Face hub.
        model: that it is for, on the hub.
        kind: cross-layer or per-layer.
        about: layers, features, layout.
        neuronpedia: the model's name and the set's at Neuronpedia, where its features have pages; empty if not known.
    """

    name: str
    model: str
    kind: str
    about: str
    neuronpedia: tuple[str, str] | tuple[()] = ()


KNOWN_SETS = (
    KnownSet("mntss/clt-gemma-2-2b-426k", "google/gemma-2-2b", "cross-layer", "26 layers x 16k, common layout"),
    KnownSet(
        "mntss/clt-gemma-2-2b-2.5M",
        "google/gemma-2-2b",
        "cross-layer",
        "26 layers x 98k, common layout",
        ("gemma-2-2b", "clt-hp"),
    ),
    KnownSet(
        "mwhanna/gemma-scope-transcoders",
        "google/gemma-2-2b",
        "per-layer",
        "26 layers x 16k, lists Gemma Scope files",
        ("gemma-2-2b", "gemmascope-transcoder-16k"),
    ),
    KnownSet("mntss/clt-llama-3.2-1b-524k", "meta-llama/Llama-3.2-1B", "cross-layer", "16 layers x 32k, common layout"),
    KnownSet("mntss/transcoder-Llama-3.2-1B", "meta-llama/Llama-3.2-1B", "per-layer", "16 layers, common layout"),
    KnownSet("mntss/clt-131k", "openai/gpt-oss-20b", "cross-layer", "24 layers x 131k, common layout"),
    KnownSet("bluelightai/clt-qwen3-0.6b-base-20k", "Qwen/Qwen3-0.6B-Base", "cross-layer", "20k features a layer"),
    KnownSet("bluelightai/clt-qwen3-1.7b-base-20k", "Qwen/Qwen3-1.7B-Base", "cross-layer", "20k features a layer"),
    KnownSet("mwhanna/qwen3-0.6b-transcoders", "Qwen/Qwen3-0.6B", "per-layer", "common layout"),
    KnownSet("mwhanna/qwen3-1.7b-transcoders", "Qwen/Qwen3-1.7B", "per-layer", "common layout"),
    KnownSet(
        "mwhanna/qwen3-4b-transcoders", "Qwen/Qwen3-4B", "per-layer", "common layout", ("qwen3-4b", "transcoder-hp")
    ),
    KnownSet("mwhanna/qwen3-8b-transcoders", "Qwen/Qwen3-8B", "per-layer", "common layout"),
    KnownSet("mwhanna/qwen3-14b-transcoders", "Qwen/Qwen3-14B", "per-layer", "common layout"),
    KnownSet(
        "OpenMOSS-Team/Llama-Scope-2-Qwen3-1.7B", "Qwen/Qwen3-1.7B", "both kinds", "several sets, Llamascopium layout"
    ),
    KnownSet(
        "facebook/crv-8b-instruct-transcoders",
        "meta-llama/Llama-3.1-8B-Instruct",
        "per-layer",
        "common layout; its config.yaml needs k: 128",
    ),
    KnownSet("google/gemma-scope-2b-pt-transcoders", "google/gemma-2-2b", "per-layer", "Gemma Scope: several sets"),
    *(
        KnownSet(
            f"mwhanna/gemma-scope-2-{size}-{tuned}",
            f"google/gemma-3-{size}-{tuned}",
            "both kinds" if size in ("270m", "1b") else "per-layer",
            "subfolders transcoder_all/width_.. and clt/width_.., list Gemma Scope 2 files",
            ("gemma-3-4b-it", "gemmascope-transcoder-262k") if (size, tuned) == ("4b", "it") else (),
        )
        for size in ("270m", "1b", "4b", "12b", "27b")
        for tuned in ("pt", "it")
    ),
)


def neuronpedia_names(transcoders: str) -> dict[str, str]:
    """`model` and `source_set` at Neuronpedia of a set by its name on the hub; empty if they are not known."""
    found = next((known.neuronpedia for known in KNOWN_SETS if transcoders.startswith(known.name)), ())
    return dict(zip(("model", "source_set"), found, strict=False))


def sets_for(model: str) -> list[KnownSet]:
    """Those known for a model on the hub."""
    return [known for known in KNOWN_SETS if known.model.lower() == model.lower()]
