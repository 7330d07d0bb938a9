"""Files that appear whole or not at all, and what they may hold."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOTEMPTY
from math import isfinite
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from attrgraph.errors import GraphFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# how hidden folders are called, and in them the file that is locked and the place of a folder that is being replaced
_HIDDEN, _LOCK, _REPLACED = ".attrgraph-", ".lock", "replaced"
# the kind of a digest, before its colon, where not all was read; see `attrgraph.transcoders.digests`
SAMPLED = "sampled-dated-sha256"
MAY_BE_LOST = "hidden files and README.md may be lost"
_MOST_YAML_NODES = 2**17  # as many as a file of the largest size has without aliases
PROFILES = ("neuronpedia", "circuit-tracer", "anthropic")
# graph files that come back as they were; JSON without the bias node
GRAPH_FORMATS = (".json", ".safetensors")
# Measured: what is parsed of a file of this size takes 1 GiB at most. Neuronpedia takes 100 MiB; 2.8 million links fit.
MAX_JSON_BYTES = 2**28
PICTURE_FORMATS = ("svg", "png", "pdf")
PICTURE_ENDINGS = (".dot", *(f".{name}" for name in PICTURE_FORMATS))
NO_GRAPHVIZ = (
    "drawing needs the program dot of Graphviz (apt install graphviz, brew install graphviz); "
    "JSON and DOT files need no program."
)


def write_whole(path: str | Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `write` fill a temporary file next to `path`, then give it its name.

    A symbolic link stays, and the file that it names is written, as `open` does; a link to nothing exists, too.

    Raises:
        GraphFileError: the file exists and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    target = _target(path)
    try:
        with _hidden_folder(target.parent) as hidden:
            temporary = hidden / target.name
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            check_writable(path, overwrite=overwrite)  # another process may have been faster
            temporary.replace(target)
    except (OSError, SafetensorError) as e:
        raise GraphFileError(f"{path}: cannot be written ({e}).") from e


def _umask() -> int:
    """The process's; it can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _target(path: Path) -> Path:
    """The file or folder that is written for a path: where symbolic links lead."""
    return Path(os.path.realpath(path))


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; what killed processes have left in `parent` is removed first.

    A process holds a lock on a file in its folder as long as it lives: the system gives it up however the
    process ends. Where the system or the disk has no locks, nothing is removed.
    """
    _clean(parent)
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
        with suppress(FileNotFoundError):  # another process may take it for left before it is locked
            lock = os.open(hidden / _LOCK, os.O_CREAT | os.O_RDWR)
            _lock(lock, fcntl.LOCK_EX if fcntl else 0)
            if os.fstat(lock).st_nlink:
                break
            os.close(lock)
    try:
        yield hidden
    finally:
        os.close(lock)
        shutil.rmtree(hidden, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Put back a folder that a killed process was replacing: to be asked before whether there is one."""
    with suppress(OSError):
        _clean(_target(folder).parent)


def foreign_file(folder: Path, own: str) -> str | None:
    """A file in a folder, at any depth, whose path in it is not of this pattern: replacing the folder would lose it.

    Hidden files, but for those in hidden folders, and README.md may be lost: `MAY_BE_LOST` says so.
    """
    own = rf"{own}|(?:[^./][^/]*/)*(?:\.[^/]+|README\.md)"
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in files)
    return next((name for name in names if not re.fullmatch(own, name)), None)


def _clean(parent: Path) -> None:
    for left in parent.glob(f"{_HIDDEN}*"):
        _remove_if_left(left)


def _remove_if_left(hidden: Path) -> None:
    """Remove a hidden folder that no living process has locked; a folder that was being replaced is put back."""
    try:
        lock = os.open(hidden / _LOCK, os.O_RDWR)
    except OSError:
        with suppress(OSError):  # made by a process that was killed at once, if it is empty
            hidden.rmdir()
        return
    if fcntl and _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for old in hidden.glob(f"{_REPLACED}/*"):
            if not os.path.lexists(hidden.parent / old.name):
                old.rename(hidden.parent / old.name)
        shutil.rmtree(hidden, ignore_errors=True)
    os.close(lock)


def _lock(descriptor: int, how: int) -> bool:
    """Whether a file could be locked."""
    with suppress(OSError):
        if fcntl:
            fcntl.flock(descriptor, how)
            return True
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While the body runs, nobody else is in one with the same folder or file, which is made; if there are locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Raise GraphFileError if `write_whole` would refuse: to be asked before long work, not after it."""
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise GraphFileError(f"{path}: exists; choose another name or pass --force (overwrite=True).")
    target = _target(path)
    if target.is_symlink():
        raise GraphFileError(f"{path}: is a symbolic link that leads to itself; give a file name.")
    if target.is_dir():
        raise GraphFileError(f"{path}: is a folder; give a file name.")
    if target.exists() and not target.is_file():
        raise GraphFileError(f"{path}: is a device or a pipe; give a file name.")
    if not target.parent.is_dir():
        raise GraphFileError(f"{path}: the folder {target.parent} does not exist; create it first.")
    if not os.access(target.parent, os.W_OK):
        raise GraphFileError(f"{path}: the folder {target.parent} is not writable.")


def check_readable(path: Path) -> None:
    """Raise GraphFileError if there is no such file."""
    if not path.is_file():
        what = "is a device or a pipe; give a file name" if path.exists() else "no such file"
        raise GraphFileError(f"{path}: {'is a folder; give a file name' if path.is_dir() else what}.")


def read_text(path: Path, *, most_bytes: int = 2**28) -> str:
    """The text of a file that is read whole; errors as `check_bounded`, ValueError also for what is not UTF-8."""
    check_bounded(path, most_bytes)
    return path.read_text(encoding="utf-8-sig")


def check_bounded(path: Path, most_bytes: int) -> None:
    """Refuse what reading could hang on, or what takes too much memory.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: a folder, a pipe or a device; or too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no regular file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"has {size} bytes; at most {most_bytes} are read")


def read_json(path: Path) -> Any:
    """What a JSON file holds; errors as `read_text`, ValueError also for what is no JSON."""
    try:
        return json.loads(read_text(path))
    except RecursionError as e:
        raise ValueError("is nested too deep") from e


def read_yaml(path: Path) -> Any:
    """What a YAML file of settings holds; errors as `read_text`, ValueError also for what is no YAML."""
    import yaml

    text = read_text(path, most_bytes=2**17)  # which takes some seconds to parse
    try:
        loader = yaml.SafeLoader(text)  # the one that is written in C breaks at deep nesting
        node = loader.get_single_node()
        # aliases and merges of each other could stand for more than any memory holds
        if node is not None and _n_nodes(node, {}) > _MOST_YAML_NODES:
            raise ValueError("its aliases stand for too much; write out what is meant")
        return None if node is None else loader.construct_document(node)
    # dates and numbers that do not exist, keys that are lists, ...
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as e:
        raise ValueError(f"is not YAML: {' '.join(str(e).split()):.200}") from e
    except RecursionError as e:
        raise ValueError("is nested too deep") from e


def _n_nodes(node: Any, known: dict[int, int]) -> int:
    """How many nodes a YAML node stands for, those of aliases each time that they are named."""
    if id(node) not in known:
        known[id(node)] = _MOST_YAML_NODES + 1  # for one that holds itself
        parts = node.value if isinstance(node.value, list) else ()
        inner = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_n_nodes(each, known) for each in inner)
    return known[id(node)]


@contextmanager
def whole_folder(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` if the body ends without an error, and else disappears.

    A symbolic link stays, and the folder that it names is replaced.

    Args:
        folder: what to write.
        check: raises if the folder exists and must not be replaced; asked again at the end, as others may be faster.

    Raises:
        OSError: it cannot be written; what was there before, or what another process has put there, is then there.
    """
    folder = _target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _hidden_folder(folder.parent) as hidden:
        new = hidden / "new"
        new.mkdir()
        check()
        yield new
        for path in new.rglob("*"):
            path.chmod(
                (0o777 if path.is_dir() else 0o666) & ~_umask()
            )  # safetensors writes files that only their owner may read
        check()
        _replace(folder, new, hidden)


def _replace(folder: Path, new: Path, hidden: Path) -> None:
    """Give the new folder its name; in between, the old one lies where `_remove_if_left` finds it."""
    old = hidden / _REPLACED / folder.name
    old.parent.mkdir()
    try:
        with suppress(FileNotFoundError):
            folder.rename(old)
        new.rename(folder)
    except BaseException as e:  # an interrupt, too
        if old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(e, OSError) and e.errno in (ENOTEMPTY, EEXIST):
            raise FileExistsError("another process has written it meanwhile; what it wrote is kept") from e
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
