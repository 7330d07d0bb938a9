"""A cache of activations: what it gives back, how big it is, and that it is whole and the right one, or refused."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from attrgraph.data.activation_cache import ActivationCache, cache_size_bytes
from attrgraph.errors import CorpusError
from attrgraph.transcoders.training.streams import Activations, Rounds

N_LAYERS, D_MODEL = 3, 20
KEY = {"model": "sha256:ab", "text": "sha256:cd"}
TOKENS = [40, 40, 7]


def make_rounds(tokens: list[int] = TOKENS, *, dtype: torch.dtype = torch.float32) -> list[Activations]:
    """Channels of very different size, as models have them; reads and writes not contiguous."""
    generator = torch.Generator().manual_seed(0)
    size = 10 ** torch.linspace(-3, 3, D_MODEL)

    def values(n_tokens: int) -> torch.Tensor:
        return (torch.randn(n_tokens, N_LAYERS, D_MODEL, generator=generator) * size).to(dtype).transpose(0, 1)

    return [Activations(values(n), values(n)) for n in tokens]


def write(folder: Path, rounds: Any = None, **changes: Any) -> ActivationCache:
    settings = {"dtype": "int8", "key": KEY, "n_bytes_expected": 1000} | changes
    return ActivationCache.write(folder, make_rounds() if rounds is None else rounds, **settings)


def sides(rounds: Activations) -> Iterator[torch.Tensor]:
    yield from (rounds.reads, rounds.writes)


def test_int8_is_within_half_a_step_of_each_channel(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache")
    for index, expected in enumerate(make_rounds()):
        for got, true in zip(sides(cache.round(index)), sides(expected), strict=True):
            largest = true.abs().amax(1, keepdim=True)
            # half a step of max / 127; the quotient and the product each round, to a part in 2^24 of up to the maximum
            bound = largest * (1 / 254 + 2 * 2**-23)
            assert got.dtype == torch.float32
            assert ((got - true).abs() <= bound).all()
            # what is largest in its channel is kept but for rounding
            is_largest = true.abs() == largest
            assert_close(got[is_largest], true[is_largest], rtol=2**-22, atol=0)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache", dtype="bfloat16")
    for index, expected in enumerate(make_rounds()):
        for got, true in zip(sides(cache.round(index)), sides(expected), strict=True):
            assert_close(got, true.bfloat16().float(), rtol=0, atol=0)
    of_bfloat16 = write(tmp_path / "other", make_rounds(dtype=torch.bfloat16), dtype="bfloat16")
    assert_close(of_bfloat16.round(0).reads, make_rounds(dtype=torch.bfloat16)[0].reads.float(), rtol=0, atol=0)


def test_channels_without_a_scale_are_zero(tmp_path: Path) -> None:
    (activations,) = make_rounds([5])
    activations.reads[1, :, 3] = 0.0
    activations.reads[1, :, 4] = torch.tensor([1e-43, -1e-43, 0, 1e-45, 1e-40])
    got = write(tmp_path / "cache", [activations]).round(0).reads
    assert not got[1, :, 3:5].any() and got[1, :, 5].any()


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_size_is_known_before_it_is_written(tmp_path: Path, dtype: str) -> None:
    write(tmp_path / "cache", dtype=dtype)
    stated = cache_size_bytes(N_LAYERS, D_MODEL, sum(TOKENS), dtype, n_rounds=len(TOKENS))
    shards = list((tmp_path / "cache").glob("*.safetensors"))
    tensors = [tensor for path in shards for tensor in load_file(path).values()]
    assert sum(tensor.nbytes for tensor in tensors) == stated
    assert 0 <= sum(path.stat().st_size for path in shards) - stated < 1024 * len(shards)


def test_rounds_repeat_without_end(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache")
    assert isinstance(cache, Rounds)
    assert cache.n_rounds == 3 and cache.tokens_per_round == TOKENS
    assert [cache.round(index).n_tokens for index in range(6)] == TOKENS * 2
    for got, expected in zip(sides(cache.round(4)), sides(cache.round(1)), strict=True):
        assert_close(got, expected, rtol=0, atol=0)


def test_an_opened_cache_is_the_written_one(tmp_path: Path) -> None:
    written = write(tmp_path / "deep" / "cache", iter(make_rounds()))
    opened = ActivationCache.open(tmp_path / "deep" / "cache", key=dict(reversed(KEY.items())))
    assert opened == written and opened.key == KEY and opened.dtype == "int8"
    index = json.loads((tmp_path / "deep" / "cache" / "index.json").read_text())
    counts = {"n_rounds": 3, "tokens_per_round": TOKENS, "sinks_per_round": [0, 0, 0]}
    assert index == {"format_version": 1, "dtype": "int8", "key": KEY, **counts}


def test_the_same_rounds_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", key=dict(reversed(KEY.items())))
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_interrupted_cache_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Activations]:
        yield make_rounds()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", interrupted())
    assert list(tmp_path.iterdir()) == []


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_a_cache_larger_than_the_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"would take 1000000000\.0 GB, .* has [0-9.]+ GB free; cache fewer") as told:
        write(tmp_path / "deep" / "cache", n_bytes_expected=10**18)
    free = float(str(told.value).partition(" has ")[2].split()[0])
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.3)  # others write here too
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the cache's dtype is 'int4'; expected one of int8, bfloat16"):
        write(tmp_path / "cache", dtype="int4")
    with pytest.raises(CorpusError, match="the cache's dtype is 'float32'"):
        cache_size_bytes(1, 1, 1, "float32")
    with pytest.raises(CorpusError, match="there are no rounds"):
        write(tmp_path / "cache", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot be written"):
        write(tmp_path / "file" / "cache")
    (tmp_path / "cache").mkdir()
    with pytest.raises(CorpusError, match="exists; choose another name, or delete it"):
        write(tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "file"]


@pytest.mark.refusal
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reads", "writes"])
def test_activations_that_are_not_finite_are_refused(tmp_path: Path, side: str, value: float) -> None:
    rounds = make_rounds()
    getattr(rounds[1], side)[0, 3, 2] = value
    with pytest.raises(CorpusError, match=f"round 1 of activations has {side} that are not finite"):
        write(tmp_path / "cache", rounds)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
def test_another_key_is_refused_with_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "cache")
    with pytest.raises(CorpusError, match=r"caches other activations: text is sha256:cd, expected sha256:ef\. Choose"):
        ActivationCache.open(tmp_path / "cache", key=KEY | {"text": "sha256:ef"})
    with pytest.raises(CorpusError, match="hooks is absent, expected a to b; text is sha256:cd, expected none"):
        ActivationCache.open(tmp_path / "cache", key={"model": "sha256:ab", "hooks": "a to b"})


@pytest.mark.refusal
def test_damaged_shards_are_refused_when_the_cache_is_opened(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache")
    path = tmp_path / "cache" / "round-000001.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:50], b""):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"round-000001\.safetensors: is missing or not a whole"):
            ActivationCache.open(tmp_path / "cache", key=KEY)
        with pytest.raises(CorpusError, match="delete the cache and write it again"):
            cache.round(1)
    path.unlink()
    with pytest.raises(CorpusError, match=r"round-000001\.safetensors: is missing"):
        ActivationCache.open(tmp_path / "cache", key=KEY)
    path.write_bytes(whole)
    save_file({name: tensor[:, 1:].contiguous() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(CorpusError, match="expected reads, writes, reads_scale, writes_scale of 40 tokens, it holds"):
        ActivationCache.open(tmp_path / "cache", key=KEY)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2, this attrgraph reads 1"),
        ({"dtype": "int4"}, r"index\.json: has a missing or wrong value .dtype or n_rounds"),
        ({"n_rounds": 9}, "wrong value .dtype or n_rounds"),
        ({"key": [], "n_rounds": "3"}, "wrong value .key, n_rounds"),
    ],
)
def test_wrong_indices_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorpusError, match=message):
        ActivationCache.open(tmp_path / "cache", key=KEY)


@pytest.mark.refusal
def test_folders_that_are_no_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no index\.json; is it a cache of activations"):
        ActivationCache.open(tmp_path / "nowhere", key=KEY)
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "is not the index of a cache"),
        ("{}", "is not the"),
    ):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(CorpusError, match=message):
            ActivationCache.open(tmp_path, key=KEY)
