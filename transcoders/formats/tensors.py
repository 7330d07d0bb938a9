"""The tensors of a file of weights, safetensors or npz: views of its memory map, nothing is read until it is used."""

import json
import mmap
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attrgraph.errors import TranscoderError

# what torch says of a file larger than memory, for which safetensors has it reserve as much
_NO_MEMORY = "Cannot allocate memory"
_MAP_NORESERVE = 0x4000  # mmap(2); Python 3.12 and before have no name for it
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U8": torch.uint8, "I8": torch.int8},
    **{"I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
}


class Tensors:
    """The tensors of a file, as views of its memory map: nothing is read until it is used."""

    def __init__(self, path: Path, found: Mapping[str, Tensor] | None = None) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # a pipe would keep its reader waiting
            raise TranscoderError(f"{path}: is no regular file.")
        self._found = dict(_npz(path) if path.suffix == ".npz" else _safetensors(path)) if found is None else {**found}
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __getitem__(self, name: str) -> Tensor:
        """A tensor of weights; inside `torch.device("meta")` its shape and type alone."""
        found = self._weights(name)
        return found.to("meta") if torch.get_default_device().type == "meta" else found

    def _weights(self, name: str) -> Tensor:
        found = self.any(name)
        if not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            raise TranscoderError(
                f"{self.path}: {name} is {kind}; expected floating-point weights: dequantise them, or take the file "
                "that they were made from."
            )
        return found

    def any(self, name: str) -> Tensor:
        """A tensor of any type."""
        if name not in self._found:
            held = ", ".join(sorted(self._found)) or "nothing"
            raise TranscoderError(f"{self.path}: has no tensor {name}; it holds {held:.300}.")
        self._asked.add(name)
        return self._found[name]

    def get(self, name: str) -> Tensor | None:
        """None if it is not there."""
        if name not in self:
            return None
        return self[name]

    def scalar(self, name: str, *, what: str = "a number above 0") -> float:
        """A tensor of one finite number above 0."""
        value = self._weights(name)
        if value.numel() != 1 or not 0 < float(value) < float("inf"):
            got = f"is {float(value):g}" if value.numel() == 1 else f"has shape {list(value.shape)}"
            raise TranscoderError(f"{self.path}: {name} {got}; expected {what}.")
        return float(value)

    def check_shape(self, name: str, *shape: int | None) -> Tensor:
        """The tensor, which must have this shape; None stands for any size."""
        found = self[name]
        sizes = tuple(found.shape)
        if len(sizes) != len(shape) or any(shape[i] not in (None, size) for i, size in enumerate(sizes)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise TranscoderError(f"{self.path}: {name} has shape {list(found.shape)}, expected [{wanted}].")
        return found

    def check_is_matrix(self, name: str) -> None:
        """Raise for a tensor that has no rows of vectors."""
        if self[name].ndim < 2:
            raise TranscoderError(f"{self.path}: {name} has shape {list(self[name].shape)}, expected a matrix.")

    def check_all_read(self, *, ignored: Iterable[str] = ()) -> None:
        """Raise if a tensor is left: one that nothing reads could change what the transcoder computes."""
        left = sorted(set(self._found) - self._asked - set(ignored))
        if left:
            raise TranscoderError(
                f"{self.path}: has tensors that this layout does not know: {', '.join(left):.300}; was it written by "
                "another tool?"
            )


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise TranscoderError(f"{path}: only safetensors and npz files can be read; convert the weights.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as e:
        raise TranscoderError(f"{path}: is missing.") from e
    except (SafetensorError, OSError, RuntimeError) as e:
        if _NO_MEMORY in str(e):
            return _unreserved(path)
        raise TranscoderError(f"{path}: is not a whole safetensors file ({e}); copy or download it again.") from e


def _unreserved(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose header is known to be right, that may be larger than memory."""
    held = _map(path)
    begin = 8 + int.from_bytes(held[:8], "little")
    found = {}
    for name, about in json.loads(held[8:begin]).items():
        if name != "__metadata__":
            dtype, n = _DTYPES[about["dtype"]], prod(about["shape"])
            offset = begin + about["data_offsets"][0]
            flat = torch.frombuffer(held, dtype=dtype, count=n, offset=offset) if n else torch.empty(0, dtype=dtype)
            found[name] = flat.view(about["shape"])
    return found


def _map(path: Path) -> mmap.mmap:
    """A file in memory, copied where somebody writes; as nobody is expected to, no memory is reserved for copies."""
    with path.open("rb") as file:
        if sys.platform != "linux":
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flags, prot = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        try:
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=prot)
        except OSError as e:
            raise TranscoderError(f"{path}: cannot be mapped into memory ({e.strerror}); free some.") from e


def _npz(path: Path) -> dict[str, Tensor]:
    """Arrays that are stored uncompressed, as numpy stores them, as views of the file."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {entry.filename.removesuffix(".npy"): _array(path, archive, entry) for entry in archive.infolist()}
    except FileNotFoundError as e:
        raise TranscoderError(f"{path}: is missing.") from e
    except (zipfile.BadZipFile, ValueError, TypeError, OSError) as e:
        raise TranscoderError(f"{path}: is not a whole npz file of plain numbers ({e}); download it again.") from e


def _array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    with archive.open(entry) as member:
        if entry.compress_type != zipfile.ZIP_STORED:
            return torch.from_numpy(np.lib.format.read_array(member, allow_pickle=False))
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = header(member)
        begin = member.tell()
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds objects")
    with path.open("rb") as file:  # a member's own header is not as long as the archive's directory says
        file.seek(entry.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), dtype="<u2").tolist()
    offset = entry.header_offset + 30 + name + extra + begin
    return torch.from_numpy(np.ndarray(shape, dtype, _map(path), offset, order="F" if is_fortran else "C"))
