"""How graphs that are put side by side were made otherwise, as far as they say."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrgraph.files import SAMPLED

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# of metadata: what decides a graph's numbers
_SECTIONS = ("model", "tokenizer", "transcoders", "settings", "versions", "pruning")
_DIGESTS = {
    "model digest": "were traced on different models, by digest",
    "tokenizer digest": "were traced with different tokenizers, by digest",
    "transcoders digest": "were traced with different transcoders, by digest, so that a feature may not be the same",
}
_MOST_CHARACTERS, _MOST_NAMED = 40, 5


def differences(graphs: "Sequence[Graph]") -> list[str]:
    """A sentence for everything in which graphs of one kind were made otherwise, or that cannot be verified."""
    notes = [note for what in ("model", "transcoders") for note in _unverified(graphs, what)]
    facts = [dict(_facts(graph.metadata)) for graph in graphs]
    for name in dict.fromkeys(name for each in facts for name in each):
        values: dict[str, list[int]] = {}
        for number, each in enumerate(facts, start=1):
            if name in each:
                values.setdefault(json.dumps(each[name], default=str), []).append(number)
        if len(values) > 1:
            said = ", ".join(f"{_short(value)} ({_named(numbers)})" for value, numbers in values.items())
            notes.append(f"the graphs {_DIGESTS.get(name, f'differ in {name}')}: {said}")
    inexact = [i for i, graph in enumerate(graphs, 1) if _dict(graph.metadata, "checks").get("is_exact") is False]
    return notes + ([f"not exact: {_named(inexact)}"] if inexact else [])


def _unverified(graphs: "Sequence[Graph]", what: str) -> Iterator[str]:
    about = [_dict(graph.metadata, what) for graph in graphs]
    lacking = [number for number, each in enumerate(about, start=1) if not (each.get("digest") or each.get("revision"))]
    if lacking:
        yield f"{_named(lacking)} has no digest, so the {what} cannot be verified"
    kinds = {str(each["digest"]).partition(":")[0] for each in about if each.get("digest")}
    if len(kinds) > 1:
        yield f"digests of the {what} are of several kinds ({', '.join(sorted(kinds))}) and cannot be compared"
    if SAMPLED in kinds:
        yield (
            f"digests of the {what} are of samples of large files and of the times when they were changed "
            f"({SAMPLED}), not of all that they hold"
        )


def _facts(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for section in _SECTIONS:
        values = _dict(metadata, section)
        # the same files may lie in two places, and a commit have several names
        named = {"asked_revision"} | ({"id"} if "digest" in values else set())
        yield from ((f"{section} {key}", value) for key, value in values.items() if key not in named)
    for name in ("dtype", "device"):
        if name in metadata:
            yield name, metadata[name]
    yield "whether they are pruned", "pruning" in metadata


def _dict(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    value = metadata.get(name)
    return value if isinstance(value, dict) else {}


def _named(numbers: list[int]) -> str:
    more = "" if len(numbers) <= _MOST_NAMED else f" and {len(numbers) - _MOST_NAMED} more"
    return f"graph {', '.join(map(str, numbers[:_MOST_NAMED]))}{more}"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
