"""Documents in files and folders: text, JSON lines, Parquet, Hugging Face datasets. No code of theirs is run."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attrgraph.errors import CorpusError
from attrgraph.files import read_json

_JSON_LINES = (".jsonl", ".json-lines")
_FOLDER_SUFFIXES = (".parquet", *_JSON_LINES, ".txt")
# a line of these is no document, and reading them as text would go unnoticed
_NOT_TEXT = (".json", ".csv", ".tsv", ".arrow")
# tokenising a document takes up to 120 times its size in memory
_MOST_LINE_BYTES = 2**22
# of Parquet files, decoded at once
_BATCH_ROWS = 1000

_Update = Callable[[bytes], object]


class Documents:
    """The texts in files and folders, one after another; a text that is only white space is none.

    Args:
        paths: .txt (or any other suffix): one document a line; .jsonl: one JSON object a line; .parquet; a folder that
            `datasets` saved, or one of .parquet, .jsonl or .txt files.
        text_field: where the text is in JSON, Parquet and datasets.

    Raises:
        CorpusError: a path is missing, given twice, or a pipe or device; while iterating: it cannot be read as what its
            name says.
    """

    def __init__(self, paths: Sequence[str | Path], text_field: str) -> None:
        self._digests = {str(path): hashlib.sha256() for path in paths}
        self._text_field = text_field
        real = [Path(path).expanduser() for path in paths]
        for index, path in enumerate(paths):
            if not real[index].exists():
                raise CorpusError(f"{path}: no such file or folder.")
            if not (real[index].is_file() or real[index].is_dir()):
                raise CorpusError(
                    f"{path}: is neither a file nor a folder but a pipe or device; save its text to a file."
                )
            if real[index].resolve() in [other.resolve() for other in real[:index]]:
                raise CorpusError(f"{path}: is given twice; its documents would count twice.")

    def sources(self) -> dict[str, str]:
        """Path as it was given -> SHA-256 of what was read until now; for a folder, of its files' names and bytes."""
        return {name: f"sha256:{digest.hexdigest()}" for name, digest in self._digests.items()}

    def __iter__(self) -> Iterator[str]:
        for name, digest in self._digests.items():
            path = Path(name).expanduser()
            texts = self._of_folder(path, digest.update) if path.is_dir() else self._of_file(path, digest.update)
            yield from (text for text in texts if text.strip())

    def _of_folder(self, folder: Path, update: _Update) -> Iterator[str]:
        if (folder / "dataset_dict.json").is_file():
            splits = _read_json(folder / "dataset_dict.json").get("splits", [])
            raise CorpusError(
                f"{folder}: holds the splits {', '.join(splits)}; give one of them, such as {folder / splits[0]}."
                if splits
                else f"{folder}: its dataset_dict.json names no splits."
            )
        if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            yield from _column(folder, self._text_field, update)
            return
        for path in _files_of(folder):
            update(f"{path.name}\0".encode())
            yield from self._of_file(path, update)

    def _of_file(self, path: Path, update: _Update) -> Iterator[str]:
        suffix = path.suffix.lower()
        if suffix in _NOT_TEXT:
            raise CorpusError(
                f"{path}: {suffix} files are not read; give .txt (a document a line), .jsonl (an object a line), "
                ".parquet, or a folder written by datasets' save_to_disk."
            )
        if suffix == ".parquet":
            yield from _column(path, self._text_field, update)
        elif suffix in _JSON_LINES:
            for number, line in _lines(path, update):
                if line.strip():
                    yield _text_of_json(line, self._text_field, f"{path}, line {number}")
        else:
            yield from (line for _, line in _lines(path, update))


def _files_of(folder: Path) -> list[Path]:
    """The folder's files of the one kind it holds, by name."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as e:
        raise CorpusError(f"{folder}: cannot be read ({e.strerror}).") from e
    files = [path for path in paths if path.is_file() and path.suffix.lower() in _FOLDER_SUFFIXES]
    kinds = sorted({path.suffix.lower() for path in files})
    if len(kinds) > 1:
        raise CorpusError(f"{folder}: holds {' and '.join(kinds)} files; give the files that are meant.")
    if not files:
        folders = [path.name for path in paths if path.is_dir()]
        raise CorpusError(
            f"{folder}: empty corpus: no {', '.join(_FOLDER_SUFFIXES)} file, and no dataset written by save_to_disk"
            + (f"; give one of its folders {', '.join(folders)}." if folders else ".")
        )
    return files


def _lines(path: Path, update: _Update) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 text without their ends."""
    n_bytes = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE_BYTES + 1), b""), start=1):
                if len(line) > _MOST_LINE_BYTES:
                    raise CorpusError(
                        f"{path}: line {number} is longer than {_MOST_LINE_BYTES // 2**20} MiB; a line is a document, "
                        "so break it into several."
                    )
                update(line)
                try:
                    # some editors mark UTF-8 with a byte-order mark, which is no text
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as e:
                    raise CorpusError(
                        f"{path}: is not UTF-8 text: line {number}, byte {n_bytes + e.start} of the file is "
                        f"0x{line[e.start]:02x}; convert it, for instance with iconv."
                    ) from e
                n_bytes += len(line)
                yield number, text.removesuffix("\n").removesuffix("\r")
    except OSError as e:
        raise CorpusError(f"{path}: cannot be read ({e.strerror}).") from e


def _text_of_json(line: str, text_field: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise CorpusError(f"{where}: is not JSON ({e}); expected one JSON object a line.") from e
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    if text_field not in value:
        raise _no_such_field(where, text_field, list(value))
    text = _require_text(value[text_field], text_field, where)
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise CorpusError(f"{where}: {text_field!r} is not Unicode text ({e.reason}).") from e
    return text


def _no_such_field(where: str, text_field: str, fields: list[str]) -> CorpusError:
    return CorpusError(
        f"{where}: has no field {text_field!r}; it has {', '.join(fields) or 'none'}. Say which holds the text "
        "(text_field)."
    )


def _require_text(value: object, text_field: str, where: str) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {text_field!r} is {type(value).__name__}, expected text (a string).")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (ValueError, OSError) as e:
        raise CorpusError(f"{path}: cannot be read as JSON ({e}).") from e
    if not isinstance(value, dict):
        raise CorpusError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


# -- Parquet and Hugging Face datasets -------------------------------------------------------------------------------


def _column(where: Path, text_field: str, update: _Update) -> Iterator[str]:
    """One column of a Parquet file, or of a folder that `Dataset.save_to_disk` wrote, a batch of rows at a time."""
    is_dataset, row = where.is_dir(), 0
    pyarrow: Any = import_module("pyarrow")  # which has no types
    import_module("pyarrow.parquet")
    try:
        for path in _dataset_files(where) if is_dataset else [where]:
            _digest(path, update)
            if is_dataset:
                batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
                names = batches.schema.names
            else:
                file = pyarrow.parquet.ParquetFile(path)
                batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=[text_field])
                names = file.schema_arrow.names
            if text_field not in names:
                raise _no_such_field(str(where), text_field, names)
            for batch in batches:
                for value in batch.column(text_field).to_pylist():
                    row += 1
                    yield _require_text(value, text_field, f"{where}, row {row}")
    except (OSError, UnicodeDecodeError, LookupError, TypeError, pyarrow.ArrowException) as e:
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
        kind = "a saved dataset" if is_dataset else "Parquet"
        raise CorpusError(f"{where}: cannot be read as {kind} ({reason}).") from e


def _dataset_files(folder: Path) -> list[Path]:
    return [folder / entry["filename"] for entry in _read_json(folder / "state.json")["_data_files"]]


def _digest(path: Path, update: _Update) -> None:
    with path.open("rb") as file:
        while block := file.read(2**20):
            update(block)
