"""What this package writes into a graph's metadata, and other parts of it rely on when a file has it."""

from typing import Any

from attrgraph.io.json_values import are_texts

_OBJECTS = (
    "answer checks selection settings pruning pruned_from selected_from scores model tokenizer transcoders versions"
).split()
# this package's have five; Python stops at some hundred
_MOST_LEVELS = 100
# of objects that are there, numbers that have to be
_NUMBERS = {
    "pruning": ("node_threshold", "edge_threshold"),
    "scores": ("replacement", "completeness"),
    "pruned_from": ("nodes", "edges"),
    "selected_from": ("nodes", "edges"),
    "selection": ("n_active", "n_selected", "unselected_share"),
    "checks": ("logit_deviation", "input_sum_gap"),
    "answer": ("probability",),
}


def check_own_metadata(metadata: dict[str, Any]) -> None:
    """Raise TypeError for what is of another type than this package writes; what is missing is fine."""
    for name in _OBJECTS:
        _check_object(metadata.get(name), name, _NUMBERS.get(name, ()))
    if not are_texts(metadata.get("notes", [])):
        raise TypeError("metadata.notes is not a list of texts")
    if not isinstance((metadata.get("answer") or {"text": ""}).get("text"), str):
        raise TypeError("metadata.answer has no text")
    for one in metadata.get("without", []):
        if not (isinstance(one, dict) and are_texts(one.get("nodes"))):
            raise TypeError(f"metadata.without has {one!r:.60}, expected the nodes that were taken out")
    for one in metadata.get("skipped_positions", []):
        if not (isinstance(one, dict) and isinstance(one.get("pos"), int) and isinstance(one.get("why"), str)):
            raise TypeError(f"metadata.skipped_positions has {one!r:.60}, expected a position and why")
    for name in ("pruning", "scores"):
        _check_object((metadata.get("pruned_from") or {}).get(name), f"pruned_from.{name}", _NUMBERS[name])


def check_depth(metadata: Any, most: int = _MOST_LEVELS) -> None:
    """Raise TypeError for what is nested so deep that Python's own functions cannot go through it."""
    if most == 0:
        raise TypeError(f"metadata are nested more than {_MOST_LEVELS} levels deep")
    for value in metadata.values() if isinstance(metadata, dict) else metadata:
        if isinstance(value, dict | list):
            check_depth(value, most - 1)


def _check_object(values: Any, name: str, numbers: tuple[str, ...]) -> None:
    if values is None or (values == {} and name in ("selection", "checks")):
        return
    if not isinstance(values, dict):
        raise TypeError(f"metadata.{name} is a {type(values).__name__}, expected an object")
    for key in {**dict.fromkeys(numbers), **values} if name == "checks" else numbers:
        value = values.get(key)
        # a graph without influence has no scores: null in JSON
        is_null = value is None and key in values and name.endswith("scores")
        if key == "is_exact" and isinstance(value, bool):
            continue
        if isinstance(value, bool) or not (is_null or isinstance(value, int | float)):
            raise TypeError(f"metadata.{name}.{key} is {value!r:.60}, expected a number")
