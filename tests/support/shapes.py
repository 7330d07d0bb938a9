"""How annotated shapes are checked while tests run."""

from typing import Any

from beartype import beartype


def checked(what: Any) -> Any:
    """The function, its annotations held; those made inside others are made anew at each call, so they are left out."""
    return what if "<locals>" in what.__qualname__ else beartype(what)
