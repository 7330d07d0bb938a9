"""Interventions as text, `LAYER/FEATURE@POSITION=VALUE`."""

import re
from math import isfinite
from typing import Any

from attrgraph.errors import InterventionError
from attrgraph.interventions.intervention import Intervention

_SETTING = re.compile(r"(?P<node>[^=*+]+)(?P<how>[=*+])(?P<number>.+)")
_HOW = {"=": "value", "*": "scale", "+": "add"}
_OTHERS = {"mean:": "mean", "from:": "from_prompt"}


def parse_setting(text: str, *, has_others: bool = False) -> Intervention:
    """`3/458@8=0` sets a value, `3/458@8*-1` a multiple, `3/458@8+2` adds; the node is as `Intervention` takes it.

    With `has_others`, `head:2.0@8=mean:FILE` and `head:2.0@8=from:PROMPT` set what follows the colon as it is written.

    Raises:
        InterventionError: it is not of this form.
    """
    match = _SETTING.fullmatch(text.strip())
    kind = match["number"].lstrip()[:5] if match and match["how"] == "=" and has_others else ""
    if match and kind in _OTHERS and (rest := match["number"].lstrip()[5:].strip()):
        return _set(match["node"], _OTHERS[kind], rest)
    try:
        number = float(match["number"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None or not isfinite(number):
        raise InterventionError(
            f"{text!r} sets nothing; expected NODE=VALUE, NODE*SCALE or NODE+SUMMAND with a finite number, such as "
            "3/458@5=0, 3/458@0:*-1 (at all positions), 3_458_5+2 or head:2.0@8*0"
            + (", or NODE=mean:FILE or NODE=from:PROMPT." if has_others else ".")
        )
    return _set(match["node"], _HOW[match["how"]], number)


def _set(node: str, way: str, to: Any) -> Intervention:
    return Intervention(node.strip(), **{way: to})
