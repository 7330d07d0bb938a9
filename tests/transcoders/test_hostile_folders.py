"""Folders of transcoders that are damaged or strange end in one line; the digest is of the weights that are used."""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from published import POINTS, PUBLISHED, saelens, set_json
from safetensors.torch import load_file, save_file
from tiny import make_transcoders

from attrgraph.errors import ModelLoadError, TranscoderError
from attrgraph.models.load_model import load_model
from attrgraph.transcoders import load_transcoders, save_transcoders

# repeated, and read from where they are repeated
_UNREAD = ("W_dec", "b_dec", "W_skip", "post_enc")
PLAIN = "model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_transcoders(make_transcoders(cross_layer=False), tmp_path / "set")
    return tmp_path / "set"


def digest(folder: Path) -> str:
    return load_transcoders(folder).source["digest"]


def test_the_digest_is_of_the_weights_used_wherever_they_are(folder: Path) -> None:
    before = digest(folder)
    (folder / "README.md").write_text("notes")
    assert digest(folder) == before
    names = [path.name for path in sorted(folder.glob("layer_*.safetensors"))]
    elsewhere = folder.parent / "weights"
    elsewhere.mkdir()
    for name in names:
        (folder / name).rename(elsewhere / name)
    with (folder / "config.yaml").open("a") as config:
        config.write(f"transcoders: {[f'../weights/{name}' for name in names]}\n")
    moved = digest(folder)
    weights = {name: tensor.clone() for name, tensor in load_file(elsewhere / names[1]).items()}
    save_file({**weights, "W_dec": -weights["W_dec"]}, elsewhere / names[1])
    assert digest(folder) != moved


def test_transcoders_in_memory_have_a_digest_of_their_weights() -> None:
    first, second, other = (make_transcoders(seed=seed).source["digest"] for seed in (0, 0, 1))
    assert first == second != other and first.startswith("tensors-sha256:")


def _bomb(level: str) -> str:
    """Forty levels, each of which names the one below several times."""
    return "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {level.format(i - 1)}\n" for i in range(1, 40))


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.yaml", "scan: " + "[" * 5000 + "]" * 5000, "is nested too deep"),
        ("config.yaml", "scan: 2026-01-01", "scan is a date; expected text"),
        ("config.yaml", "scan: [[x]]", "scan is a list; expected text or a list of texts"),
        ("config.yaml", "scan: 2026-13-45", "is not YAML"),
        ("config.yaml", "#" * 2**18, "at most 131072 are read"),
        ("config.yaml", _bomb("[*a{0}, *a{0}, *a{0}, *a{0}]"), "its aliases stand for too much"),
        ("config.yaml", _bomb("{{<<: [*a{0}, *a{0}, *a{0}, *a{0}]}}"), "its aliases stand for too much"),
        ("config.yaml", "more: &a [*a]", "its aliases stand for too much"),
        ("config.yaml", f"{PLAIN}k: 0x{'f' * 100_000}", "k is a number of 400000 bits"),
        ("config.yaml", f"{PLAIN}transcoders: [{'a' * 5000}.safetensors]", "must be a list of paths"),
        ("config.yaml", f'{PLAIN}transcoders: ["a\\0b.safetensors"]', "must be a list of paths"),
        ("config.yaml", f"{PLAIN}transcoders: ['hf://a/b/../c.safetensors']", "names no file on the hub"),
        ("config.yaml", f"{PLAIN}transcoders: ['hf://']", "names no file on the hub"),
        ("labels.json", "[" * 100_000, "is nested too deep"),
        ("labels.json", '{"0": {"1": "half \\ud83d"}}', "holds no labels of features"),
    ],
)
def test_strange_settings_and_labels_end_in_one_line(folder: Path, name: str, text: str, said: str) -> None:
    path = folder / name
    path.write_text((path.read_text() if path.exists() else "") + text + "\n")
    with pytest.raises(TranscoderError, match=said) as found:
        load_transcoders(folder)
    assert "\n" not in str(found.value)


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_weights_without_axes_are_refused(folder: Path, name: str) -> None:
    path = folder / "layer_1.safetensors"
    weights = {each: tensor.clone() for each, tensor in load_file(path).items()}
    save_file(weights | {name: torch.tensor(1.0)}, path)
    with pytest.raises(TranscoderError, match=rf"layer_1\.safetensors: {name} has shape \[\], expected a matrix"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_other_digits_are_no_numbers_of_layers(folder: Path) -> None:
    (folder / "layer_\u00b2.safetensors").write_bytes(b"")
    (folder / "layer_\u0663.safetensors").write_bytes(b"")
    assert load_transcoders(folder).n_layers == 3


@pytest.mark.refusal
def test_numbers_of_layers_that_no_model_has_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "layer_2.safetensors").rename(folder / "layer_999999999999.safetensors")
    with pytest.raises(TranscoderError, match="do not name one layer each"):
        load_transcoders(folder, allow_missing_layers=True)
    sets = saelens(tmp_path / "saelens").folder
    names = {"hook_name": "blocks.99999999999.hook_resid_mid", "hook_name_out": "blocks.99999999999.hook_mlp_out"}
    set_json(sets / "run_8" / "cfg.json", metadata=names)
    with pytest.raises(TranscoderError, match="says that it is of layer 99999999999; expected a layer below 1000"):
        load_transcoders(sets, allow_missing_layers=True)


@pytest.mark.refusal
def test_a_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    with pytest.raises(TranscoderError, match="is no regular file"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_a_pipe_in_place_of_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "layer_1.safetensors").unlink()
    os.mkfifo(folder / "layer_1.safetensors")
    with pytest.raises(TranscoderError, match=r"layer_1\.safetensors: is no regular file"):
        load_transcoders(folder)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelLoadError, match=r"config\.json: is no regular file"):
        load_model(tmp_path)


def _settings(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.json"), *folder.rglob("*.yaml")])


def _places(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested settings."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, inner in pairs:
        yield (*at, name)
        yield from _places(inner, (*at, name))


@pytest.mark.refusal
@pytest.mark.parametrize("layout", PUBLISHED)
def test_absurd_settings_end_in_one_line_in_every_layout(layout: str, tmp_path: Path) -> None:
    """Some mean something, and then it opens."""
    folder = PUBLISHED[layout](tmp_path / "there").folder
    # layers say much the same
    for path in [path for path in _settings(folder) if not re.search("[1-9]", path.parent.name)]:
        text = path.read_text()
        for place in list(_places(yaml.safe_load(text))):
            for absurd in (1e308, -1, 2**63, "4", None, [], True, math.nan):
                values = yaml.safe_load(text)
                inner = values
                for name in place[:-1]:
                    inner = inner[name]
                inner[place[-1]] = absurd
                path.write_text(json.dumps(values))
                try:
                    load_transcoders(folder, **POINTS)
                except TranscoderError as e:
                    assert "\n" not in str(e)
        path.write_text(text)


@pytest.mark.refusal
@pytest.mark.parametrize("layout", PUBLISHED)
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused_in_every_layout(
    layout: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = PUBLISHED[layout](tmp_path / "there").folder
    path = sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.npz")])[0]
    tensors = (
        load_file(path) if path.suffix == ".safetensors" else {n: torch.from_numpy(a) for n, a in np.load(path).items()}
    )
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    for name in names:
        changed = {n: tensor.to(dtype) if n == name else tensor.clone() for n, tensor in tensors.items()}
        if path.suffix == ".safetensors":
            save_file(changed, path)
        else:
            np.savez(path, **{n: tensor.numpy() for n, tensor in changed.items()})
        kind = str(dtype).removeprefix("torch.")
        if layout == "clt_training" and name in _UNREAD:
            continue
        with pytest.raises(TranscoderError, match=rf"{re.escape(name)} is {kind}; expected floating-point weights"):
            load_transcoders(folder, **POINTS)
