"""Pages of features, from one pass over a text and a second one of random features for control."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from attrgraph.attribution.provenance import library_versions
from attrgraph.data.corpus import TokenRows, read_corpus, rows_of
from attrgraph.errors import FeatureError, checked
from attrgraph.features.collect import Collected
from attrgraph.features.connections import Connections
from attrgraph.features.control import random_dictionary
from attrgraph.features.labelling import Control, control_of, labels_of
from attrgraph.features.layer_statistics import N_DRAWN, N_JUDGED, N_SPREAD, N_TOP, WINDOW, bytes_per_feature
from attrgraph.features.likeness import Likeness
from attrgraph.features.pages import FeaturePages, place_of
from attrgraph.features.promoted import Promoted, promoted
from attrgraph.features.records import N_PROMOTED, Records
from attrgraph.features.token_texts import TokenTexts
from attrgraph.files import write_whole
from attrgraph.graph.graph import Graph
from attrgraph.io import feature_records
from attrgraph.io.json_writing import check_source_set
from attrgraph.memory import free_bytes, in_words
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions, why_left_out
from attrgraph.progress import Progress, noted_interrupts, shown
from attrgraph.transcoders import Transcoders

# tokens of which everything active is kept
_N_SAMPLED = 4096
# of decoder rows that exist at a time: chosen, not tuned
_MOST_NUMBERS = 2**22
_SECONDS_BETWEEN_STATES = 60.0
# of a word with its blank, about: with tokens of single characters an example has as many times more of them
_CHARACTERS_OF_A_WORD = 5
Features = Sequence[str | tuple[int, int]] | Graph | None


@checked
def describe_features(
    model: LanguageModel,
    texts: TokenRows | Sequence[str | Path] | Path,
    features: Features = None,
    *,
    transcoders: Transcoders | None = None,
    labels: Mapping[tuple[int, int], str] | None = None,
    like: Transcoders | None = None,
    scan: str = "",
    source_set: str = "",
    batch_tokens: int = 4096,
    skip_positions: SkipPositions = "auto",
    seed: int = 0,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> FeaturePages:
    """What features mean: where they fire and how strongly, what they promote, what they lead to, and a scored label.

    The text streams by: of each feature 29 KB are kept at most (45 if tokens are characters), however long the text is.

    Args:
        model: the model.
        texts: documents, files of them (as `Path`), or rows from `read_corpus`.
        features: "layer/feature" names ("3/*" for a layer), or a graph, whose features are described; by default all.
        transcoders: whose features; by default the model's.
        labels: names that win over those found here; by default those that the transcoders have.
        like: another set for the model, whose labels go to features that read or write in the same directions.
        scan, source_set: what Neuronpedia calls model and set, for its batches.
        batch_tokens: tokens that the model runs on at once.
        skip_positions: tokens that do not count: "auto" (BOS, attention sinks), "none", or positions of each row.
        seed: of the random dictionary that labels are compared with.
        state: a file from which a run that was stopped goes on, and which is removed at the end.
        progress: called as `progress(phase, done, total)`.

    Raises:
        FeatureError, GraphFileError: a feature or a source set that is none; more features than memory can hold.
        CorpusError, PromptError, ResultError: the text does not fit the model; a number is not finite.

    Example:
        >>> import attrgraph as ag
        >>> pages = ag.describe_features(ag.load_model("demo"), ["in texas the capital is austin"], ["3/458"])
        >>> pages["3/458"]["n_tokens"]
        6
    """
    check_source_set(source_set)
    transcoders, rows, progress = _own(model, transcoders), _rows(model, texts), shown(progress)
    chosen = _within_memory(_chosen(transcoders, features), model, rows)
    how: dict[str, Any] = {"batch_tokens": batch_tokens, "skip_positions": skip_positions}
    control = random_dictionary(model, transcoders, rows, seed=seed, **how)
    collected = Collected(model, transcoders, rows, chosen, control, n_sampled=_N_SAMPLED, **how)
    about = {"left_out": why_left_out(model, skip_positions), "seed": seed}
    _widen(collected, model, rows)
    _run(collected, progress, state, _key(model, transcoders, rows, chosen, how | about))
    controls = _controls(model, control, collected)
    blobs = _written(model, transcoders, control, collected, controls, labels, like, progress)
    card = _card(model, transcoders, collected, rows, scan, source_set) | about
    card |= {"controls": [control.summary() for control in controls], "like": like and like.source}
    if state:
        Path(state).unlink(missing_ok=True)
    return FeaturePages(blobs, json.loads(json.dumps(card)))


def _controls(model: LanguageModel, control: Transcoders, collected: Collected) -> list[Control]:
    return [
        control_of(collected, layer, _promoted(model, control, layer, np.arange(n)).top_ids.numpy())
        for layer, n in enumerate(control.n_features)
    ]


def cost_in_words(model: LanguageModel, rows: TokenRows, transcoders: Transcoders, features: Features = None) -> str:
    """What `describe_features` will take."""
    n_described = sum(map(len, _chosen(transcoders, features)))
    most = n_described * bytes_per_feature(rows.n_tokens, _window(model, rows))
    return (
        f"describes {n_described:,} features on {rows.n_tokens:,} tokens: takes about twice as long as the "
        f"model, then some milliseconds a feature; keeps at most {in_words(most)}"
    )


def _window(model: LanguageModel, rows: TokenRows) -> tuple[int, int]:
    """Tokens before and after those that examples are about: more where they are shorter than parts of words."""
    sample = list(islice(chain.from_iterable(row[1:].tolist() for row in rows.rows), _N_SAMPLED))
    n_characters = max(1, sum(len(model.token_text(token)) for token in sample))
    times = max(1, min(_CHARACTERS_OF_A_WORD, _CHARACTERS_OF_A_WORD * len(sample) // n_characters))
    return WINDOW[0] * times, WINDOW[1] * times


def _widen(collected: Collected, model: LanguageModel, rows: TokenRows) -> None:
    window = _window(model, rows)
    for one in collected.layers:
        one.window = window


def _within_memory(chosen: list[np.ndarray], model: LanguageModel, rows: TokenRows) -> list[np.ndarray]:
    n_described = sum(map(len, chosen))
    most, free = n_described * bytes_per_feature(rows.n_tokens, _window(model, rows)), free_bytes(torch.device("cpu"))
    if most > free:
        raise FeatureError(
            f"{n_described:,} features may keep {in_words(most)}, {in_words(free)} are free; "
            "describe fewer: those of a graph, of one layer (3/*), or some by name."
        )
    return chosen


def _rows(model: LanguageModel, texts: TokenRows | Sequence[str | Path] | Path) -> TokenRows:
    if isinstance(texts, TokenRows):
        return texts
    paths = [texts] if isinstance(texts, Path) else texts
    is_files = len(paths) > 0 and all(isinstance(path, Path) for path in paths)
    return read_corpus(model, paths) if is_files else rows_of(model, cast(Sequence[str], texts))


def _written(
    model: LanguageModel,
    transcoders: Transcoders,
    control: Transcoders,
    collected: Collected,
    controls: list[Control],
    names: Mapping[feature_records.Place, str] | None,
    like: Transcoders | None,
    progress: Progress,
) -> dict[feature_records.Place, bytes]:
    """The records of all described features."""
    names = transcoders.labels if names is None else names
    texts = TokenTexts(model, collected.text.token_ids[collected.is_counted][:8].tolist())
    found = [_promoted(model, transcoders, layer, one.features) for layer, one in enumerate(collected.layers)]
    agreements = _agreements(transcoders, control, collected)
    labels = [
        labels_of(texts, collected, layer, found[layer].top_ids.numpy(), of_random, agreement)
        for layer, (of_random, agreement) in enumerate(zip(controls, agreements, strict=True))
    ]
    likeness = Likeness(model, transcoders, collected, labels, names, like, controls)
    connections, blobs = Connections(model, transcoders, collected), dict[feature_records.Place, bytes]()
    for layer in range(len(controls)):
        progress("write pages", layer, len(controls))
        of_layer = (layer, likeness.labels(layer), names, found[layer], texts)
        for record in Records(model, transcoders, collected, connections, *of_layer):
            blobs[layer, record["index"]] = feature_records.packed(record)
    progress("write pages", len(controls), len(controls))
    return blobs


def _agreements(transcoders: Transcoders, control: Transcoders, collected: Collected) -> list[Float[np.ndarray, " n"]]:
    """Of each layer's described features, beside what random features write: rows of the same decoder."""
    found, step = [], max(1, _MOST_NUMBERS // transcoders.d_model)
    for layer, (statistics, agreement) in enumerate(zip(collected.layers, collected.agreement, strict=True)):
        others, n = _summed_rows(control, layer, np.arange(control.n_features[layer])), len(statistics.features)
        parts = [slice(first, first + step) for first in range(0, n, step)]
        rows = ((at, _summed_rows(transcoders, layer, statistics.features[at])) for at in parts)
        found.append(np.concatenate([np.zeros(0), *(agreement.of(at, own, others) for at, own in rows)]))
    return found


def _summed_rows(transcoders: Transcoders, layer: int, features: np.ndarray) -> Float[np.ndarray, "n d_model"]:
    """What features write into all their target layers together."""
    chosen = torch.from_numpy(features)
    total, row = torch.zeros(2, len(features), transcoders.d_model)
    for target in range(layer, layer + transcoders.n_targets(layer)):
        total += transcoders.decoder_rows(layer, target, chosen, out=row)
    summed: np.ndarray = total.numpy()
    return summed


def _promoted(model: LanguageModel, transcoders: Transcoders, layer: int, features: np.ndarray) -> Promoted:
    return promoted(model, transcoders, layer, torch.from_numpy(features), n_tokens=N_PROMOTED)


def _card(
    model: LanguageModel,
    transcoders: Transcoders,
    collected: Collected,
    rows: TokenRows,
    scan: str,
    source_set: str,
) -> dict[str, Any]:
    n_described = sum(len(one.features) for one in collected.layers)
    window = collected.layers[0].window
    settings = {"window": window, "n_top": N_TOP, "n_spread": N_SPREAD, "n_drawn": N_DRAWN, "n_judged": N_JUDGED}
    return {
        "model": model.source,
        "transcoders": transcoders.source,
        "text": rows.digest(),
        "n_tokens": collected.n_tokens,
        "n_documents": rows.n_documents,
        "n_features": transcoders.n_features,
        "n_described": n_described,
        "scan": scan or str(model.source["id"]).rpartition("/")[2],
        "source_set": source_set or str(transcoders.source["id"]).rpartition("/")[2],
        "settings": {**settings, "n_sampled": len(collected.sampled)},
        "cost": {
            "n_batches": len(collected.batches),
            "most_bytes_kept": n_described * bytes_per_feature(rows.n_tokens, window),
        },
        "versions": library_versions(),
    }


def _own(model: LanguageModel, transcoders: Transcoders | None) -> Transcoders:
    model.check_state()
    found = transcoders or model.transcoders
    if found is None:
        raise FeatureError("the model has no transcoders, so there are no features; pass transcoders=.")
    found.check_fits(n_layers=model.n_layers, d_model=model.d_model)
    return found


def _chosen(transcoders: Transcoders, features: Features) -> list[np.ndarray]:
    """Indices of the features to describe, ascending, by layer."""
    sizes = transcoders.n_features
    if features is None:
        return [np.arange(n) for n in sizes]
    if isinstance(features, Graph):
        nodes = features.nodes[features.nodes["kind"] == "feature"]
        places = list(zip(nodes["layer"].tolist(), nodes["feature"].tolist(), strict=True))
    elif isinstance(features, str) or not isinstance(features, Sequence):
        raise FeatureError(f"features is {features!r:.60}; expected a list such as ['3/458'], or a graph.")
    else:
        places = [place for one in features for place in _named(one, sizes)]
    for layer, feature in places:
        if not (0 <= layer < len(sizes) and 0 <= feature < sizes[layer]):
            raise FeatureError(
                f"there is no feature {layer}/{feature}; the set has {len(sizes)} layers of {max(sizes)} features."
            )
    if not places:
        raise FeatureError("no feature is to be described; name some, such as 3/458, or leave them out for all.")
    return [
        np.unique([feature for at, feature in places if at == layer]).astype(np.int64) for layer in range(len(sizes))
    ]


def _named(one: str | tuple[int, int], sizes: list[int]) -> list[tuple[int, int]]:
    """The feature of that name, or all of a layer."""
    whole = re.fullmatch(r"(.*[^0-9])\*", one.strip()) if isinstance(one, str) else None
    layer, feature = place_of(f"{whole[1]}0" if whole else one)
    return [(layer, i) for i in range(sizes[layer])] if whole and layer < len(sizes) else [(layer, feature)]


def _key(
    model: LanguageModel, transcoders: Transcoders, rows: TokenRows, chosen: list[np.ndarray], how: Mapping[str, Any]
) -> str:
    """Of what the pass depends on."""
    about = [model.source, transcoders.source, rows.digest(), [each.tolist() for each in chosen], dict(how)]
    return sha256(json.dumps(about, default=str).encode()).hexdigest()


def _run(collected: Collected, progress: Progress, state: str | Path | None, key: str) -> None:
    """The whole pass; a state of the same pass is where it begins."""
    state = Path(state) if state else None
    if state is not None and state.exists():
        _go_on(collected, state, key)
    saved = time.monotonic()
    with noted_interrupts() as interrupts:
        while collected.n_done < len(collected.batches) and not interrupts:
            progress("describe", collected.n_done, len(collected.batches))
            collected.add_batch()
            if state is not None and (interrupts or time.monotonic() - saved > _SECONDS_BETWEEN_STATES):
                found = {name: np.ascontiguousarray(value) for name, value in collected.state().items()}
                write_whole(state, lambda path: save_file(found, path, {"key": key}), overwrite=True)  # noqa: B023
                saved = time.monotonic()
    progress("describe", len(collected.batches), len(collected.batches))


def _go_on(collected: Collected, state: Path, key: str) -> None:
    try:
        with safe_open(state, "np") as file:
            found = file.metadata() or {}
        if found.get("key") != key:
            raise FeatureError(f"{state}: is the state of another run (model, text or features differ); remove it.")
        collected.load(load_file(state))
    except (OSError, SafetensorError, KeyError) as e:
        raise FeatureError(f"{state}: is no state of a run that can go on ({e}); remove it.") from e
