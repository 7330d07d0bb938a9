"""Figures drawn with matplotlib, an optional dependency: the same figure gives the same bytes."""

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from attrgraph.errors import AttrGraphError
from attrgraph.files import PICTURE_FORMATS, write_whole

# no date, so that the same figure gives the same bytes
_METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
# told apart by colour-blind readers: Okabe and Ito's
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# told apart without colour too
MARKERS = ("o", "s", "^", "D", "v", "P")


def check_drawable(path: str | Path) -> None:
    """Raise AttrGraphError if `draw_figure` would: unknown ending, or no matplotlib."""
    path = Path(path)
    if path.suffix.removeprefix(".") not in PICTURE_FORMATS:
        endings = ", ".join(f".{name}" for name in PICTURE_FORMATS)
        raise AttrGraphError(f"{path}: unknown ending {path.suffix!r}; expected one of {endings}.")
    check_matplotlib()


def draw_figure(draw: Callable[[Any], None], path: str | Path, *, size: tuple[float, float], overwrite: bool) -> None:
    """Have `draw` fill a matplotlib Figure, and write it as SVG, PNG or PDF by the file's ending.

    Args:
        draw: called with the figure.
        path: where to write it.
        size: in inches.
        overwrite: False refuses to replace an existing file.

    Raises:
        AttrGraphError: an unknown ending, or matplotlib is not installed.
        GraphFileError: the file exists and `overwrite` is not set, or it cannot be written.
    """
    path = Path(path)
    check_drawable(path)
    drawn = figure_bytes(draw, path.suffix.removeprefix("."), size=size)
    write_whole(path, lambda file: file.write_bytes(drawn), overwrite=overwrite)


def figure_bytes(draw: Callable[[Any], None], kind: str, *, size: tuple[float, float]) -> bytes:
    """What `draw_figure` writes; `kind` is svg, png or pdf."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "attrgraph", "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def check_matplotlib() -> None:
    """Raise AttrGraphError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise AttrGraphError("this picture needs matplotlib; install it with: pip install 'attrgraph[draw]'.")
