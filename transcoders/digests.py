"""Digests of what decides a graph's numbers. The kind, before the colon, says what was read:

- `sha256`: files, whole, and no others than those that decide: all of a model's, and those of transcoders up to 4 GiB.
- `sampled-dated-sha256`: files of larger sets of transcoders, which open without being read: of each 64 KiB of every
  4 MiB, its size, and when it was last changed, to the nanosecond. A change between the pieces shows by its time; so
  does a copy, unless it keeps the times (`cp -p`).
- `tensors-sha256`: weights in memory, whole, and the settings that go with them.

Digests of two kinds cannot be compared. SHA-256 takes 0.9 s a GiB on one core;
several share the work.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from attrgraph.files import SAMPLED

# Measured: 4 GiB take 3.5 s on one core; larger sets, up to 160 GB, must open in seconds too.
MOST_WHOLE_BYTES = 4 * 2**30
_STRETCH_BYTES, _PIECE_BYTES = 4 * 2**20, 64 * 2**10
# what a thread holds; files up to this size are hashed in one go
_CHUNK_BYTES = 64 * 2**20
# 4 KiB; odd, so that rows of weights seldom begin where those of sums do
_SUMMED_TOGETHER = 511
# of what is known of a file, how many numbers say which it is
_N_WHICH = 2
# of files' views, larger tensors are not read to see whether they were changed
_MOST_READ_BYTES = 16 * 2**20


def digest_files(paths: Iterable[Path], *, most_bytes: int | float = math.inf) -> str:
    """Of files that decide what is computed, wherever they are: over their names, sizes and contents.

    Above `most_bytes` together they are sampled; see the module.
    """
    files = [(path, path.stat()) for path in paths]
    is_sampled = sum(stat.st_size for _, stat in files) > most_bytes
    stretch, size = (_STRETCH_BYTES, _PIECE_BYTES) if is_sampled else (_CHUNK_BYTES, _CHUNK_BYTES)

    def piece(path: Path, start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(size)).digest()

    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for path, stat in files:
            total.update(f"{path.name}:{stat.st_size}:".encode())
            if is_sampled:
                total.update(f"{stat.st_mtime_ns}:".encode())
            if stat.st_size <= stretch:
                total.update(path.read_bytes())
                continue
            starts = range(0, stat.st_size, stretch)
            for digest in pool.map(piece, [path] * len(starts), starts):
                total.update(digest)
    return f"{SAMPLED if is_sampled else 'sha256'}:{total.hexdigest()}"


def digest_transcoders(paths: Iterable[Path]) -> str:
    """`digest_files` for a set of transcoders, which may be larger than memory."""
    return digest_files(paths, most_bytes=MOST_WHOLE_BYTES)


def digest_tensors(tensors: Mapping[str, Tensor | None], settings: Any = None) -> str:
    """Of weights in memory: over names, types, shapes and contents, and settings that JSON can hold."""

    def content(flat: Tensor, start: int) -> bytes:
        return hashlib.sha256(_bytes(flat[start : start + _CHUNK_BYTES])).digest()

    total = hashlib.sha256(_text(settings).encode())
    with ThreadPoolExecutor() as pool:
        for name, tensor in _present(tensors):
            total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            flat = _flat(tensor)
            starts = range(0, len(flat), _CHUNK_BYTES)
            for digest in pool.map(content, [flat] * len(starts), starts):
                total.update(digest)
    return f"tensors-sha256:{total.hexdigest()}"


class Origin:
    """What graphs record of where weights are from: what their files say, until they are changed in memory.

    Whether they were changed is asked at every trace, by XXH3 of all contents, which takes less time than the model's
    own run; of views of files only tensors up to 16 MiB are read. For larger ones PyTorch's count
    of changes in place decides, which does not see those made through `.data`, and size and time of the files, through
    which they change too. Weights that were changed are hashed by SHA-256, once a change.

    Args:
        recorded: what is known of the files (id, revision, digest); None for weights that are from no file.
        name: their id if they are from no file.
        tensors: gives the weights as they are.
        settings: gives what else decides, for JSON.
        most_read: bytes of the largest tensor whose contents are read.
        files: those that tensors are views of.
    """

    def __init__(
        self,
        recorded: dict[str, Any] | None,
        name: str,
        tensors: Callable[[], Mapping[str, Tensor | None]],
        settings: Callable[[], Any],
        *,
        most_read: int | float = math.inf,
        files: Iterable[Path] = (),
    ) -> None:
        self._tensors, self._settings, self._most_read = tensors, settings, most_read
        self.files = {path: _stamp(path) for path in files}
        self._recorded = {"id": name} if recorded is None else dict(recorded)
        self._seen = None if recorded is None else self._state()
        self._first = self._seen, self._recorded

    @property
    def id(self) -> str:
        return str(self._recorded["id"])

    def now(self) -> dict[str, Any]:
        """The record; with the digest of what is in memory if that is from no file, or was changed."""
        state = self._state()
        if state == self._first[0]:
            return self._first[1]
        if state != self._seen:
            digest = digest_tensors(self._tensors(), self._settings())
            kept = {name: value for name, value in self._recorded.items() if "revision" not in name}
            how = {"changed": f"in {'its files' if self._changed_files() else 'memory'} after loading"}
            self._recorded, self._seen = kept | {"digest": digest} | (how if self._first[0] else {}), state
        return self._recorded

    def _changed_files(self) -> list[tuple[int, ...]]:
        """What is known of files that were written to: of one that has another's place the views are as they were."""
        found = [(first, _stamp(path)) for path, first in self.files.items()]
        return [now for first, now in found if first != now and first[:_N_WHICH] == now[:_N_WHICH]]

    def _state(self) -> str:
        def content(tensor: Tensor) -> bytes:
            if tensor.layout != torch.strided or tensor.nbytes <= self._most_read:
                return _quick_digest(tensor)
            return f"{tensor.data_ptr()}:{0 if tensor.is_inference() else tensor._version}".encode()

        total, present = hashlib.sha256(_text(self._settings()).encode()), _present(self._tensors())
        total.update(_text(self._changed_files() or None).encode())
        # of small tensors a thread costs more than the reading
        large = {id(tensor): tensor for _, tensor in present if tensor.numel() * tensor.element_size() > _PIECE_BYTES}
        with ThreadPoolExecutor() as pool:
            read = dict(zip(large, pool.map(content, large.values()), strict=True))
        for name, tensor in present:
            total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            total.update(read.get(id(tensor)) or content(tensor))
        return total.hexdigest()


def views_of_files(recorded: dict[str, Any] | None) -> int | float:
    """`most_read` for weights that may be views of files, as those that say where they are from."""
    return math.inf if recorded is None else _MOST_READ_BYTES


@torch.no_grad()
def _quick_digest(tensor: Tensor) -> bytes:
    """XXH3 of the contents; on other devices, from which copying takes long, sums of them."""
    flat = _flat(tensor)
    return xxhash.xxh3_128_digest(_bytes(flat)) if flat.is_cpu else _sums(flat)


def _sums(flat: Tensor) -> bytes:
    """Of every 4 KiB, read as integers, and across; what is left over at the end, as it is."""
    whole = len(flat) // (8 * _SUMMED_TOGETHER) * 8 * _SUMMED_TOGETHER
    body, rest = flat[:whole], flat[whole:]
    if body.data_ptr() % 8 or body.storage_offset() % 8:  # integers must begin at whole ones
        body = body.clone()
    rows = body.view(torch.int64).view(-1, _SUMMED_TOGETHER)
    # by rows and by columns: what changes places changes at least one of them, and two signs do not cancel in both
    return b"".join(_bytes(part) for part in (rows.sum(1), rows.sum(0), rest))


def _flat(tensor: Tensor) -> Tensor:
    """The contents as bytes, where they are, however the tensor holds them."""
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8)


def _bytes(flat: Tensor) -> memoryview:
    return flat.cpu().view(torch.uint8).numpy().data


def _stamp(path: Path) -> tuple[int, ...]:
    """Which file it is, its size, and when it was last changed; nothing of one that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _present(tensors: Mapping[str, Tensor | None]) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in sorted(tensors.items()) if tensor is not None]


def _text(settings: Any) -> str:
    return "" if settings is None else json.dumps(settings, sort_keys=True, default=str)
