"""The graphs and prompts that can be asked for: by names of a listing, never by a path."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.files import GRAPH_FORMATS
from attrgraph.graph.graph import Graph
from attrgraph.graph.load_graph import load_graph
from attrgraph.prompts.prompt_file import read_prompts
from attrgraph.validation.result import Validation

_MOST_IN_MEMORY = 32
# JSON of this size takes a gigabyte of memory while it is read
_MOST_BYTES = 2**26
_MOST_FILES, _MOST_PROMPTS, _MOST_PROMPT_BYTES = 1000, 200, 2**22


@dataclass(frozen=True)
class Found:
    """A graph of the shelf, which is read when it is needed, and which state of its file this is."""

    load: Callable[[], Graph]
    version: str = ""  # empty for a graph in memory, which stays what it is


class Shelf:
    """Graphs that have been traced here, and the files of one folder.

    Args:
        folder: whose graphs and files of prompts are listed; those of folders in it are not.
        is_written: whether traced graphs become files there; else they are kept in memory, the last ones only.
    """

    def __init__(self, folder: Path | None = None, *, is_written: bool = False) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._is_written, self._numbers, self._lock = is_written, count(1), Lock()
        self._traced: dict[str, Graph] = {}
        # what has been measured, for whoever opens the page of the graph later
        self.validations = WeakKeyDictionary[Graph, Validation]()

    def add(self, graph: Graph) -> str:
        """Keep a graph that was traced here; its name.

        Raises:
            GraphFileError: it cannot be saved, and is kept in memory.
        """
        with self._lock:
            why = ""
            if self._is_written and self._folder is not None:
                try:
                    return self._save(graph, self._folder)
                except (AttrGraphError, OSError) as e:
                    why = str(e).replace(f"{self._folder}/", "")
            name = str(next(self._numbers))
            self._traced[name] = graph
            for oldest in list(self._traced)[:-_MOST_IN_MEMORY]:
                del self._traced[oldest]
        if why:
            raise GraphFileError(f"the graph could not be saved, and is in memory only (as graph {name}): {why}")
        return name

    def find(self, name: str, version: str = "") -> Found:
        """What a name that `listing` gives stands for.

        Args:
            version: the state of its file that is meant, where that matters.

        Raises:
            GraphFileError: there is none, it is too large, or its file has been replaced; from `load`, too.
        """
        traced = self._traced.get(name)
        if traced is not None:
            return Found(lambda: traced)
        for path, n_bytes in self._files(GRAPH_FORMATS):
            if path.name == name:
                if n_bytes > _MOST_BYTES:
                    raise GraphFileError(f"{name}: has {n_bytes:,} bytes; expected at most {_MOST_BYTES:,}.")
                now = _version(path)
                _check_same(path, version or now, now)
                return Found(partial(_loaded, path, now), now)
        raise GraphFileError("there is no graph of this name; the list on the first page has all.")

    def listing(self) -> dict[str, Any]:
        """Names, titles and sizes of graphs, and the prompts of files with prompts."""
        traced = [{"name": name, "title": _title(graph)} for name, graph in reversed(list(self._traced.items()))]
        try:
            files = [{"name": path.name, "title": path.name, "bytes": n} for path, n in self._files(GRAPH_FORMATS)]
            prompts = [_prompts(path) for path, n in self._files((".jsonl",)) if n <= _MOST_PROMPT_BYTES]
        except GraphFileError as e:  # what was traced here is there all the same
            return {"graphs": traced, "prompts": [], "note": str(e)}
        return {"graphs": [*traced, *files], "prompts": prompts, "note": ""}

    def _files(self, endings: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
        """Files of the folder and their sizes; no link that leads out of it, and no name that is not Unicode.

        Raises:
            GraphFileError: the folder cannot be read.
        """
        if self._folder is None:
            return
        try:
            paths = sorted(self._folder.iterdir())[:_MOST_FILES]
        except OSError as e:
            raise GraphFileError(f"the folder of graphs cannot be read ({e.strerror}).") from e
        for path in paths:
            # not Path.resolve, which raises at a link that leads to itself
            is_inside = path.suffix in endings and os.path.dirname(os.path.realpath(path)) == str(self._folder)
            if is_inside and path.is_file() and not re.search("[\ud800-\udfff]", path.name):
                with suppress(FileNotFoundError):  # as it is removed by now
                    yield path, path.stat().st_size

    def _save(self, graph: Graph, folder: Path) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", str(graph.metadata["prompt"]).lower()).strip("-")[:60] or "graph"
        for number in count(1):
            path = folder / f"{words}{'' if number == 1 else f'-{number}'}.safetensors"
            if not path.exists():
                graph.save(path, overwrite=False)
                return path.name
        raise AssertionError


@lru_cache(maxsize=2)
def _loaded(path: Path, version: str) -> Graph:
    """The graph of a file as long as it stays the same."""
    try:
        graph = load_graph(path)
    except GraphFileError as e:
        raise GraphFileError(str(e).replace(f"{path.parent}/", "")) from e
    _check_same(path, version, _version(path))
    return graph


def _version(path: Path) -> str:
    state = path.stat()
    return f"{state.st_mtime_ns}-{state.st_ino}-{state.st_size}"


def _check_same(path: Path, asked: str, now: str) -> None:
    if asked != now:
        raise GraphFileError(f"{path.name} has been replaced since this page was opened; open it again.")


def _title(graph: Graph) -> str:
    best = graph.nodes.loc[graph.nodes["probability"].idxmax(), "token"]
    return f"{graph.metadata['prompt']} → {str(best).strip()}"


def _prompts(path: Path) -> dict[str, Any]:
    """What can be typed into the form of a file's prompts; token ids and chats cannot."""
    try:
        rows = read_prompts(path)
    except ValueError as e:
        return {"name": path.name, "error": str(e).replace(f"{path.parent}/", ""), "prompts": []}
    shown = [
        {"prompt": row.prompt, "targets": row.targets or []}
        for row in rows
        if not row.fault and all(isinstance(text, str) for text in [row.prompt, *(row.targets or [])])
    ]
    fault = next((row.fault.replace(f"{path.parent}/", "") for row in rows if row.fault), "")
    return {"name": path.name, "error": fault, "prompts": shown[:_MOST_PROMPTS], "n": len(rows)}
