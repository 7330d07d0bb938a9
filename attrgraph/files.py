"""Files that appear whole or not at all, and what they may hold."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from attrgraph.errors import GraphFileError

PROFILES = ("neuronpedia", "circuit-tracer", "anthropic")
# graph files that come back as they were; JSON without the bias node
GRAPH_FORMATS = (".json", ".safetensors")
# Measured: links as every tool writes them take ten times a file's size in memory until the graph stands, two-letter
# strings, the worst, seventeen times: 4.2 GiB. Neuronpedia takes 100 MiB; 4 million links fit, at 60 bytes each.
MAX_JSON_BYTES = 2**28
PICTURE_FORMATS = ("svg", "png", "pdf")
PICTURE_ENDINGS = (".dot", *(f".{name}" for name in PICTURE_FORMATS))
NO_GRAPHVIZ = (
    "drawing needs the program dot of Graphviz (apt install graphviz, brew install graphviz); "
    "JSON and DOT files need no program."
)


def write_whole(path: str | Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `write` fill a temporary file next to `path`, then give it its name.

    Raises:
        GraphFileError: the file exists and `overwrite` is False, or the folder cannot be written.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as e:
        raise GraphFileError(f"{path}: cannot be written ({e}).") from e


def _umask() -> int:
    """The process's; it can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Raise GraphFileError if `write_whole` would refuse: to be asked before long work, not after it."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise GraphFileError(f"{path}: exists; choose another name or pass --force (overwrite=True).")
    if path.is_dir():
        raise GraphFileError(f"{path}: is a folder; give a file name.")
    if not path.parent.is_dir():
        raise GraphFileError(f"{path}: the folder {path.parent} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise GraphFileError(f"{path}: the folder {path.parent} is not writable.")


def check_readable(path: Path) -> None:
    """Raise GraphFileError if there is no such file."""
    if not path.is_file():
        raise GraphFileError(f"{path}: is a folder; give a file name." if path.is_dir() else f"{path}: no such file.")


def read_text(path: Path, *, most_bytes: int = 2**28) -> str:
    """The text of a file that is read whole.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: a folder, a pipe or a device; too large; or not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no regular file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"has {size} bytes; at most {most_bytes} are read")
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """What a JSON file holds; errors as `read_text`, ValueError also for what is no JSON."""
    try:
        return json.loads(read_text(path))
    except RecursionError as e:
        raise ValueError("is nested too deep") from e


def read_yaml(path: Path) -> Any:
    """What a YAML file of settings holds; errors as `read_text`, ValueError also for what is no YAML."""
    import yaml

    text = read_text(path, most_bytes=2**20)  # a mebibyte takes a second to parse
    try:
        return yaml.safe_load(text)
    # dates and numbers that do not exist, keys that are lists, ...
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as e:
        raise ValueError(f"is not YAML: {' '.join(str(e).split()):.200}") from e
    except RecursionError as e:
        raise ValueError("is nested too deep") from e


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` if the body ends without an error, and else disappears.

    Raises:
        OSError: it cannot be written; what was there before is then still there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as holder:
        new, old = Path(holder) / "new", Path(holder) / "old"
        new.mkdir()
        yield new
        for path in new.iterdir():
            path.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def plain(value: Any) -> Any:
    """The value for JSON: numpy's numbers as Python's, tuples as lists, and null for what is not a finite number."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
