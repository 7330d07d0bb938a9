"""Interventions as text, `LAYER/FEATURE@POSITION=VALUE`, and groups of nodes in JSON files."""

import re
from math import isfinite
from pathlib import Path

import attrgraph as ag
from attrgraph.errors import GraphFileError, InterventionError
from attrgraph.files import read_json

_SETTING = re.compile(r"(?P<node>[^=*+]+)(?P<how>[=*+])(?P<number>.+)")
_HOW = {"=": "value", "*": "scale", "+": "add"}


def parse_setting(text: str) -> "ag.Intervention":
    """`3/458@8=0` sets a value, `3/458@8*-1` a multiple, `3/458@8+2` adds; the node is as `Intervention` takes it.

    Raises:
        InterventionError: it is not of this form.
    """
    match = _SETTING.fullmatch(text.strip())
    try:
        number = float(match["number"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None or not isfinite(number):
        raise InterventionError(
            f"{text!r} sets nothing; expected NODE=VALUE, NODE*SCALE or NODE+SUMMAND with a finite number, such as "
            "3/458@5=0, 3/458@0:*-1 (at all positions) or 3_458_5+2."
        )
    return ag.Intervention(match["node"].strip(), **{_HOW[match["how"]]: number})


def read_groups(path: Path) -> dict[str, list[str]]:
    """Groups of nodes: `{"name": ["node id", ...], ...}`.

    Raises:
        GraphFileError: the file cannot be read, or holds something else.
    """
    try:
        groups = read_json(path)
    except (OSError, ValueError) as e:
        raise GraphFileError(f"{path}: cannot be read as JSON ({e}).") from e
    is_right = isinstance(groups, dict) and all(
        isinstance(nodes, list) and all(isinstance(node, str) for node in nodes) for nodes in groups.values()
    )
    if not is_right:
        raise GraphFileError(f'{path}: expected JSON of the form {{"name": ["node id", ...], ...}}.')
    return dict(groups)
