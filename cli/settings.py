"""Interventions as text, `LAYER/FEATURE@POSITION=VALUE`, and groups of nodes in JSON files."""

import json
import re
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from attrgraph.errors import GraphFileError, InterventionError

if TYPE_CHECKING:
    from attrgraph.interventions.intervention import Intervention, Place

_SETTING = re.compile(r"(?P<node>[^=*+]+)(?P<how>[=*+])(?P<number>.+)")
_PLACE = re.compile(r"(\d+)/(\d+)@(\d*)(?:(:)(\d*))?")
_HOW = {"=": "value", "*": "scale", "+": "add"}


def parse_setting(text: str) -> "Intervention":
    """`3/458@8=0` sets a value, `3/458@8*-1` a multiple, `3/458@8+2` adds; for the node see `parse_node`.

    Raises:
        InterventionError: it is not of this form.
    """
    from attrgraph.interventions.intervention import Intervention

    match = _SETTING.fullmatch(text.strip())
    try:
        number = float(match["number"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None or not isfinite(number):
        raise InterventionError(
            f"{text!r} sets nothing; expected NODE=VALUE, NODE*SCALE or NODE+SUMMAND with a finite number, the node "
            "being LAYER/FEATURE@POSITION or a graph's node id."
        )
    node = parse_node(match["node"])
    match _HOW[match["how"]]:
        case "value":
            return Intervention(node, value=number)
        case "scale":
            return Intervention(node, scale=number)
    return Intervention(node, add=number)


def parse_node(text: str) -> "Place":
    """`3/458@8`, `3/458@8:` (from there on, also in new text), `3/458@2:5`, or a graph's node id such as `3_458_8`."""
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        return text.strip()
    layer, feature, start, colon, stop = match.groups()
    if colon is None:
        if not start:
            raise InterventionError(f"{text!r} names no position; expected LAYER/FEATURE@POSITION.")
        return int(layer), int(feature), int(start)
    return int(layer), int(feature), slice(int(start) if start else None, int(stop) if stop else None)


def read_groups(path: Path) -> dict[str, list[str]]:
    """Groups of nodes: `{"name": ["node id", ...], ...}`.

    Raises:
        GraphFileError: the file cannot be read, or holds something else.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise GraphFileError(f"{path}: cannot be read as JSON ({e}).") from e
    is_right = isinstance(groups, dict) and all(
        isinstance(nodes, list) and all(isinstance(node, str) for node in nodes) for nodes in groups.values()
    )
    if not is_right:
        raise GraphFileError(f'{path}: expected JSON of the form {{"name": ["node id", ...], ...}}.')
    return dict(groups)
