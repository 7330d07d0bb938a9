"""What this package writes into a graph's metadata, and other parts of it rely on when a file has it."""

from typing import Any

_OBJECTS = ("checks", "selection", "settings", "pruning", "pruned_from", "scores", "model", "transcoders", "versions")
# of objects that are there, numbers that have to be
_NUMBERS = {
    "pruning": ("node_threshold", "edge_threshold"),
    "scores": ("replacement", "completeness"),
    "pruned_from": ("nodes", "edges"),
    "selection": ("n_active", "n_selected", "unselected_share"),
}


def check_own_metadata(metadata: dict[str, Any]) -> None:
    """Raise TypeError for what is of another type than this package writes; what is missing is fine."""
    for name in _OBJECTS:
        value = metadata.get(name)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"metadata.{name} is a {type(value).__name__}, expected an object")
    for name, keys in _NUMBERS.items():
        _check_numbers(metadata.get(name), name, keys)
    _check_numbers((metadata.get("pruned_from") or {}).get("pruning"), "pruned_from.pruning", _NUMBERS["pruning"])
    checks = metadata.get("checks") or {}
    _check_numbers(checks, "checks", tuple(checks))


def _check_numbers(values: Any, name: str, keys: tuple[str, ...]) -> None:
    if values is None or (values == {} and name in ("selection", "checks")):
        return
    if not isinstance(values, dict):
        raise TypeError(f"metadata.{name} is a {type(values).__name__}, expected an object")
    for key in keys:
        value = values.get(key)
        # a graph without influence has no scores: null in JSON
        is_null = value is None and key in values and name == "scores"
        if isinstance(value, bool) or not (is_null or isinstance(value, int | float)):
            raise TypeError(f"metadata.{name}.{key} is {value!r:.60}, expected a number")
