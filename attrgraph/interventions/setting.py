"""Interventions as text, `LAYER/FEATURE@POSITION=VALUE`."""

import re
from math import isfinite

from attrgraph.errors import InterventionError
from attrgraph.interventions.intervention import Intervention

_SETTING = re.compile(r"(?P<node>[^=*+]+)(?P<how>[=*+])(?P<number>.+)")
_HOW = {"=": "value", "*": "scale", "+": "add"}


def parse_setting(text: str) -> Intervention:
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
    return Intervention(match["node"].strip(), **{_HOW[match["how"]]: number})
