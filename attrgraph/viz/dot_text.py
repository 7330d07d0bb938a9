"""Pieces of Graphviz's DOT language, and the picture that Graphviz makes of a whole text."""

from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.files import NO_GRAPHVIZ, PICTURE_FORMATS, write_whole


def escape(text: str) -> str:
    """Text inside quotes: backslashes begin DOT's escapes, ampersands its entities."""
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def quote(text: str) -> str:
    """A string of DOT; line breaks are centred ones."""
    return '"' + "\\n".join(escape(line) for line in text.split("\n")) + '"'


def write_picture(dot: str, path: str | Path, *, overwrite: bool = True) -> None:
    """Write DOT text into a .dot file, or have Graphviz draw it into an SVG, PNG or PDF file.

    Raises:
        GraphFileError: an unknown ending, Graphviz is not installed or fails, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind == "dot":
        write_whole(path, lambda temporary: temporary.write_text(dot, encoding="utf-8"), overwrite=overwrite)
        return
    if kind not in PICTURE_FORMATS:
        endings = ", ".join(f".{name}" for name in (*PICTURE_FORMATS, "dot"))
        raise GraphFileError(f"{path}: unknown ending {path.suffix!r}; expected one of {endings}.")
    import graphviz

    try:
        picture = graphviz.Source(dot).pipe(format=kind)
    except graphviz.ExecutableNotFound as e:
        raise GraphFileError(f"{path}: {NO_GRAPHVIZ}") from e
    except graphviz.CalledProcessError as e:
        raise GraphFileError(f"{path}: Graphviz failed ({str(e).splitlines()[-1]}).") from e
    write_whole(path, lambda temporary: temporary.write_bytes(picture), overwrite=overwrite)
