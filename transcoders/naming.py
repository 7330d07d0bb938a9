"""Names of features in a graph: from files, and where it is asked for from Neuronpedia."""

import re
from pathlib import Path

import pandas as pd

from attrgraph.errors import checked
from attrgraph.graph.graph import Graph
from attrgraph.transcoders.feature_files import Place
from attrgraph.transcoders.known_sets import neuronpedia_names
from attrgraph.transcoders.labels import Labels, load_labels
from attrgraph.transcoders.neuronpedia import ask

# a label that was made up where there was no name
_MADE_UP = re.compile(r"(?:L\d+ feature \d+)?")


@checked
def name_features(graph: Graph, *paths: str | Path, online: bool = False) -> Graph:
    """The graph with names of its features; `metadata["notes"]` says, a line each, which could not be had.

    Args:
        graph: of which features get names.
        paths: files with names; see `load_labels`. A later one's go before an earlier one's, and before the graph's.
        online: ask Neuronpedia for names of the features that have none, of a graph that is not pruned for those that
            pruning keeps. Only sets of transcoders that are known to have pages there are asked for; answers are kept
            in the user's cache folder.

    Raises:
        TranscoderError: a file holds no names.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is")
        >>> ag.name_features(graph, "names.csv").save("named.safetensors")  # doctest: +SKIP
    """
    labels = load_labels(*paths)
    notes = misfits(labels, graph.metadata.get("transcoders", {}).get("n_features"))
    if paths and not notes and not labels.keys() & set(_places(graph.nodes)):
        notes.append(f"none of {len(labels)} names is of a feature in this graph")
    named = _with(graph, labels)
    if online:
        named, said = _asked(named)
        notes.append(said)
    old = graph.metadata.get("notes", [])
    new = [note for note in notes if note not in old]
    return named.replace(metadata={**named.metadata, "notes": [*old, *new]}) if new else named


def misfits(labels: Labels, n_features: object) -> list[str]:
    """What is said, if anything, of names of features that transcoders with so many features a layer do not have."""
    sizes = dict(enumerate(n_features)) if isinstance(n_features, list) else {}
    if not sizes or not all(type(size) is int for size in sizes.values()):
        return []
    wrong = [f"{layer}/{feature}" for layer, feature in labels if feature >= sizes.get(layer, 0)]
    return [
        f"{len(wrong)} names are of features that the transcoders do not have, such as {place}: is "
        "their file for another set?"
        for place in wrong[:1]
    ]


def _places(nodes: pd.DataFrame) -> list[Place]:
    """Layer and index of each feature."""
    features = nodes[nodes["kind"] == "feature"]
    return list(zip(features["layer"].tolist(), features["feature"].tolist(), strict=True))


def _with(graph: Graph, labels: Labels) -> Graph:
    nodes = graph.nodes
    if not labels:
        return graph
    rows = zip(nodes["kind"], nodes["layer"], nodes["feature"], nodes["label"], strict=True)
    return graph.replace(
        nodes=nodes.assign(
            label=[
                labels.get((layer, feature)) or label if kind == "feature" else label
                for kind, layer, feature, label in rows
            ]
        )
    )


def _asked(graph: Graph) -> tuple[Graph, str]:
    """The graph with names from Neuronpedia, and what is to be said about it."""
    model, transcoders = (str(graph.metadata.get(name, {}).get("id")) for name in ("model", "transcoders"))
    names = neuronpedia_names(transcoders, model)
    if "source_set" not in names:
        return graph, f"Neuronpedia was not asked for names: no pages there are known for the transcoders {transcoders}"
    kept = graph if "pruning" in graph.metadata else graph.prune()
    places = list(dict.fromkeys(_places(kept.nodes[kept.nodes["label"].str.fullmatch(_MADE_UP)])))
    labels, problem = ask(names, places)
    where = f"Neuronpedia ({names['model']}, {names['source_set']})"
    said = f"names of {len(labels)} of {len(places)} features asked for are from {where}"
    return _with(graph, labels), f"{said}; {problem}" if problem else said
