"""From a JSON file to the document in it, in bounded memory and time, whatever the file holds."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrgraph.errors import GraphFileError, whole_number
from attrgraph.files import MAX_JSON_BYTES

# an object takes at least 64 bytes of memory and a text about as many, however few they take in the file
_BYTES_PER_OBJECT, _BYTES_PER_VALUE = 96, 24
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAGIC = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first (gunzip)",
    b"PK": "is a zip archive (PyTorch's .pt is one too), not JSON; export the graph as JSON with the tool that made it",
    b"\x80": "is a pickle, which could run any code when opened; export the graph as JSON with the tool that made it",
    b"\xff\xfe": "is UTF-16, not UTF-8; save it as UTF-8",
    b"\xfe\xff": "is UTF-16, not UTF-8; save it as UTF-8",
}


@dataclass(frozen=True)
class Document:
    """What a JSON file holds, and what its notation alone has wrong.

    Attributes:
        content: the parsed value; a key that is repeated in one object has its last value.
        size: of the file, in bytes.
        constants: every NaN, Infinity and -Infinity in it, which are no JSON.
        repeated_keys: keys that stand more than once in one object.
        n_broken: halves of surrogate pairs, now replaced by U+FFFD.
    """

    content: Any
    size: int
    constants: list[str]
    repeated_keys: list[str]
    n_broken: int


def read_document(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Document:
    """Parse a JSON file.

    Args:
        path: of the file.
        max_bytes: the largest file that is parsed; the default reads within about 1 GB of memory.

    Raises:
        GraphFileError: the file is too large, empty, compressed, a pickle, not UTF-8, not JSON, or nested too deep.
    """
    raw = _read(path, max_bytes := whole_number("max_bytes", max_bytes, least=1))
    # those in texts are counted too, which are few
    size, n_objects = len(raw), raw.count(b"{") + raw.count(b"[")
    for what, n, each in (
        ("objects and lists", n_objects, _BYTES_PER_OBJECT),
        ("values", raw.count(b","), _BYTES_PER_VALUE),
    ):
        if n > (most := max_bytes // each):
            raise GraphFileError(
                f"{path}: holds {n} {what}, at most {most} are parsed, for the memory they take; prune the graph, or "
                f"raise max_bytes={max_bytes}."
            )
    constants: list[str] = []
    repeated: list[str] = []

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            repeated.extend(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        return values

    def to_constant(name: str) -> float:
        constants.append(name)
        return float(name)

    n_broken, may_have_surrogates = 0, b"\\ud" in raw or b"\\uD" in raw
    try:
        text = raw.decode("utf-8-sig")  # editors on Windows put a byte order mark
        del raw  # the text is as large
        content = json.loads(text, object_pairs_hook=to_object, parse_constant=to_constant)
        if may_have_surrogates:
            text, n_broken = _LONE_SURROGATE.subn("\ufffd", json.dumps(content, ensure_ascii=False))
            del content  # it takes ten times the text's memory
            content = json.loads(text)
    except UnicodeDecodeError as e:
        byte = e.object[e.start]
        raise GraphFileError(f"{path}: is not UTF-8 (byte {byte:#04x} at {e.start}); save it as UTF-8.") from e
    except RecursionError as e:  # at about 1000 levels; graphs have 6 at most
        raise GraphFileError(f"{path}: is nested too deep for a graph ({e}).") from e
    except ValueError as e:
        raise GraphFileError(f"{path}: is not JSON ({e}); is it truncated?") from e
    return Document(content, size, constants, repeated, n_broken)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise GraphFileError(
                f"{path}: is {size / 2**20:.0f} MiB; at most {max_bytes / 2**20:.0f} MiB of JSON are parsed, for the "
                "memory that takes. Prune the graph, or, if there is memory, pass a larger max_bytes to "
                "attrgraph.load_graph, or convert it once: attrgraph convert FILE -o FILE.safetensors --max-bytes 2G."
            )
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)  # it may have grown
    except OSError as e:
        raise GraphFileError(f"{path}: cannot be read ({e}).") from e
    if not raw.strip():
        raise GraphFileError(f"{path}: is empty.")
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise GraphFileError(f"{path}: {what}.")
    return raw
