"""Activations on disk: rounds written once and read at every pass, where running the model again would cost more.

A folder of `round-000000.safetensors`, ... (`reads`, `writes` [n_layers, n_tokens, d_model]; with int8 also
`reads_scale`, `writes_scale` [n_layers, d_model]) and `index.json`.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from attrgraph.errors import CorpusError
from attrgraph.files import put_back, read_json, whole_folder
from attrgraph.transcoders.training.streams import Activations

_FORMAT_VERSION = 1
_STORED = {"int8": torch.int8, "bfloat16": torch.bfloat16}
_SIDES = ("reads", "writes")


def cache_size_bytes(n_layers: int, d_model: int, n_tokens: int, dtype: str, *, n_rounds: int = 1) -> int:
    """Bytes of all tensors of a cache; its files' headers add less than 1 KiB a round.

    Args:
        n_tokens: in all rounds together.
        dtype: int8 or bfloat16.
        n_rounds: how many they are; with int8, each has scales.
    """
    _check_dtype(dtype)
    values = 2 * n_layers * d_model * n_tokens * _STORED[dtype].itemsize
    scales = 2 * n_layers * d_model * torch.float32.itemsize * n_rounds if dtype == "int8" else 0
    return values + scales


@dataclass(frozen=True)
class ActivationCache:
    """An opened cache. Its rounds repeat without end: `round(n_rounds)` is `round(0)` again.

    bfloat16 keeps 8 significant bits. int8 keeps, in each round, every value of a channel (one layer's reads or writes
    in one dimension of the stream) to within 1/254 of the channel's largest absolute value in that round: symmetric,
    values round(x / scale) with scale = max|x| / 127, so the error is at most scale / 2, up to float32 rounding.

    Args:
        folder: where it is.
        dtype: how values are stored; they are read as float32.
        key: what the activations were computed from.
        tokens_per_round: of each round in the files.
        sinks_per_round: tokens that are not in the files because they are attention sinks.
        device: where rounds are put.
    """

    folder: Path
    dtype: str
    key: dict[str, str]
    tokens_per_round: list[int]
    sinks_per_round: list[int]
    device: str | torch.device = "cpu"

    @property
    def n_rounds(self) -> int:
        """How many different rounds there are."""
        return len(self.tokens_per_round)

    @staticmethod
    def write(
        folder: str | Path,
        rounds: Iterable[Activations],
        *,
        dtype: str,
        key: dict[str, str],
        n_bytes_expected: int,
    ) -> "ActivationCache":
        """Write rounds into a new folder, which appears when all are written or not at all.

        Args:
            dtype: int8 or bfloat16.
            key: what the activations depend on (digests of model and corpus, hooks, ...); `open` asks for the same.
            n_bytes_expected: of `cache_size_bytes`; refused if the disk has less room.

        Raises:
            CorpusError: the folder exists, the disk has no room, there are no rounds or one is not finite, or writing
                fails.
        """
        folder = Path(folder)
        _check_dtype(dtype)
        _check_room(folder, n_bytes_expected)
        _check_new(folder)
        try:
            with whole_folder(folder, lambda: _check_new(folder)) as temporary:
                tokens_per_round, sinks_per_round = [], []
                for number, activations in enumerate(rounds):
                    save_file(_stored(activations, dtype, number), temporary / _file_name(number))
                    tokens_per_round.append(activations.n_tokens)
                    sinks_per_round.append(activations.n_sinks)
                if not tokens_per_round:
                    raise CorpusError("there are no rounds of activations to write.")
                index = {"format_version": _FORMAT_VERSION, "dtype": dtype, "key": key}
                index |= {"n_rounds": len(tokens_per_round), "tokens_per_round": tokens_per_round}
                index["sinks_per_round"] = sinks_per_round
                (temporary / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")
        except (OSError, SafetensorError) as e:
            raise CorpusError(f"{folder}: cannot be written ({e}).") from e
        return ActivationCache.open(folder, key=key)

    @staticmethod
    def open(folder: str | Path, *, key: dict[str, str], device: str | torch.device = "cpu") -> "ActivationCache":
        """Open a folder that `write` wrote, if it holds the activations that `key` describes.

        Raises:
            CorpusError: no cache, of another version or key, or a file is missing, truncated or of another shape.
        """
        folder = Path(folder)
        index = _read_index(folder)
        differences = [
            f"{name} is {index['key'].get(name, 'absent')}, expected {key.get(name, 'none')}"
            for name in sorted(index["key"].keys() | key.keys())
            if index["key"].get(name) != key.get(name)
        ]
        if differences:
            raise CorpusError(
                f"{folder}: caches other activations: {'; '.join(differences)}. Choose another folder, or delete it."
            )
        counts = index["tokens_per_round"], index["sinks_per_round"]
        cache = ActivationCache(folder, index["dtype"], index["key"], *counts, device)
        for number in range(cache.n_rounds):
            cache._check_shard(number)
        return cache

    def round(self, index: int) -> Activations:
        """Round `index` (modulo `n_rounds`) as float32 on `device`; the same at every call.

        Raises:
            CorpusError: its file has become unreadable.
        """
        path = self.folder / _file_name(index % self.n_rounds)
        try:
            tensors = load_file(path, device=str(self.device))
        except (SafetensorError, OSError) as e:
            raise _damaged(path, e) from e
        if self.dtype == "int8":
            reads, writes = (tensors[side] * tensors[f"{side}_scale"][:, None] for side in _SIDES)
        else:
            reads, writes = (tensors[side].float() for side in _SIDES)
        return Activations(reads, writes, self.sinks_per_round[index % self.n_rounds])

    def _check_shard(self, number: int) -> None:
        """Only its header is read."""
        path = self.folder / _file_name(number)
        expected = list(_SIDES) + ([f"{side}_scale" for side in _SIDES] if self.dtype == "int8" else [])
        try:
            with safe_open(path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as e:
            raise _damaged(path, e) from e
        reads = shapes.get("reads", ())
        if sorted(shapes) != sorted(expected) or len(reads) != 3 or reads[1] != self.tokens_per_round[number]:
            raise CorpusError(
                f"{path}: expected {', '.join(expected)} of {self.tokens_per_round[number]} tokens, it holds {shapes}; "
                "write the cache again."
            )


def _check_dtype(dtype: str) -> None:
    if dtype not in _STORED:
        raise CorpusError(f"the cache's dtype is {dtype!r}; expected one of {', '.join(_STORED)}.")


def _check_new(folder: Path) -> None:
    put_back(folder)
    if folder.exists():
        raise CorpusError(f"{folder}: exists; choose another name, or delete it first.")


def _check_room(folder: Path, n_bytes: int) -> None:
    existing = next(path for path in folder.absolute().parents if path.exists())
    n_free = shutil.disk_usage(existing).free
    if n_bytes > n_free:
        raise CorpusError(
            f"{folder}: the cache would take {n_bytes / 1e9:.1f} GB, {existing} has {n_free / 1e9:.1f} GB free; "
            "cache fewer tokens, store them as int8, or train without a cache."
        )


def _file_name(index: int) -> str:
    return f"round-{index:06d}.safetensors"


def _damaged(path: Path, error: Exception) -> CorpusError:
    return CorpusError(
        f"{path}: is missing or not a whole safetensors file ({error}); delete the cache and write it again."
    )


# -- writing ---------------------------------------------------------------------------------------------------------


def _stored(activations: Activations, dtype: str, index: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for side in _SIDES:
        values: Tensor = getattr(activations, side)
        # the sum is finite only if all are (float64 holds the sum of any number of float32 values)
        if not bool(torch.isfinite(values.sum(dtype=torch.float64))):
            raise CorpusError(
                f"round {index} of activations has {side} that are not finite: weights hold NaN, or numbers overflow; "
                "run the model in a wider dtype."
            )
        if dtype == "int8":
            tensors[side], tensors[f"{side}_scale"] = _quantised(values)
        else:
            tensors[side] = values.to(torch.bfloat16).cpu().contiguous()
    return tensors


def _quantised(
    values: Float[Tensor, "n_layers n_tokens d_model"],
) -> tuple[Int8[Tensor, "n_layers n_tokens d_model"], Float[Tensor, "n_layers d_model"]]:
    """int8 on the CPU and the scale of each channel; layer by layer, to need little memory."""
    quantised = torch.empty(values.shape, dtype=torch.int8)
    scales = torch.zeros(values.shape[0], values.shape[2])
    for layer, of_layer in enumerate(values):
        x = of_layer.float()
        if len(x):
            scale = x.abs().amax(0) / 127
            # below float32's normal numbers (channels that never pass 1.5e-36) a scale is 0 or too coarse to divide by
            is_zero = scale < torch.finfo(torch.float32).tiny
            scales[layer] = scale.masked_fill(is_zero, 0).cpu()
            quantised[layer] = (x / scale.masked_fill(is_zero, 1)).round().to(torch.int8).cpu()
    return quantised, scales


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        index = read_json(path)
    except FileNotFoundError as e:
        raise CorpusError(f"{folder}: has no index.json; is it a cache of activations?") from e
    except (ValueError, OSError) as e:
        raise CorpusError(f"{path}: cannot be read as JSON ({e}).") from e
    if not isinstance(index, dict) or "format_version" not in index:
        raise CorpusError(f"{path}: is not the index of a cache of activations.")
    if index["format_version"] != _FORMAT_VERSION:
        raise CorpusError(
            f"{folder}: is a cache of format version {index['format_version']}, this attrgraph reads "
            f"{_FORMAT_VERSION}; write it again."
        )
    kinds = {"dtype": str, "key": dict, "n_rounds": int, "tokens_per_round": list, "sinks_per_round": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(index.get(name), kind)]
    if (
        wrong
        or index["dtype"] not in _STORED
        or any(len(index[name]) != index["n_rounds"] for name in ("tokens_per_round", "sinks_per_round"))
    ):
        raise CorpusError(f"{path}: has a missing or wrong value ({', '.join(wrong) or 'dtype or n_rounds'}).")
    return index
