"""Digests of files and of weights in memory, and whether weights are still those that were recorded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders, digests, load_transcoders, save_transcoders
from attrgraph.transcoders.digests import Origin, digest_files, digest_tensors


def sparse(path: Path, n_bytes: int) -> Path:
    """A file that takes no room."""
    with path.open("wb") as file:
        file.truncate(n_bytes)
    return path


def with_bytes(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


def test_one_byte_of_a_large_file_changes_the_digest(tmp_path: Path) -> None:
    path = sparse(tmp_path / "large.safetensors", 70 * 2**20)
    before = digest_files([path])
    assert before.startswith("sha256:")
    with_bytes(path, 30 * 2**20 + 100_000, b"x")
    assert digest_files([path]) != before


def test_above_a_limit_samples_and_times_decide_and_the_digest_says_so(tmp_path: Path) -> None:
    path = sparse(tmp_path / "large.safetensors", 10 * 2**20)
    before = digest_files([path], most_bytes=2**20)
    assert before.startswith("sampled-dated-sha256:") and before == digest_files([path], most_bytes=2**20)
    with_bytes(path, 5 * 2**20 + 70_000, b"x")  # between two samples
    assert digest_files([path], most_bytes=2**20) != before


def test_every_element_decides_the_digest_of_tensors() -> None:
    weights = torch.zeros(3, 2**20 + 1)
    before = digest_tensors({"W": weights, "none": None})
    for at in ((0, 70_000), (2, 2**20)):
        weights[at] = 1e-30
        assert digest_tensors({"W": weights}) != before
        weights[at] = 0
    assert digest_tensors({"W": weights}) == before != digest_tensors({"W": weights}, settings={"eps": 1})


Change = Callable[[LanguageModel], object]
CHANGES: dict[str, Change] = {
    "rope": lambda model: model.hf_model.config.rope_parameters.update(rope_theta=7.0),
    "eps": lambda model: setattr(model.hf_model.config, "rms_norm_eps", 0.1),
    "buffer": lambda model: model.hf_model.model.rotary_emb.inv_freq.mul_(2),
    "in place": lambda model: model.hf_model.model.layers[1].mlp.up_proj.weight.mul_(2),
    "through data": lambda model: model.hf_model.model.layers[1].mlp.up_proj.weight.data.neg_(),
    "another": lambda model: setattr(
        model.hf_model.lm_head, "weight", torch.nn.Parameter(model.hf_model.lm_head.weight * 2)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_from_files", [False, True])
def test_what_is_changed_in_a_model_in_memory_is_recorded(change: Change, is_from_files: bool) -> None:
    model = make_model("llama")
    if is_from_files:
        model = LanguageModel(model.hf_model, source={"id": "owner/model", "revision": "abc"})
    before = dict(model.source)
    model.run(torch.tensor([1, 5, 7]))
    assert model.source == before
    with torch.no_grad():
        change(model)
    after = dict(model.source)
    assert after["digest"].startswith("tensors-sha256:") and after["digest"] != before.get("digest")
    assert "revision" not in after and after["id"] == before["id"] and model.source == after


def test_what_changes_no_number_changes_no_digest() -> None:
    model, other = make_model("llama"), make_model("llama")
    other.hf_model.config.use_cache, other.hf_model.config.name_or_path = False, "elsewhere"
    assert model.source["digest"] == other.source["digest"]


def test_frequencies_that_follow_from_a_prompts_length_are_no_change() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    tiny = make_model("llama")
    tiny.hf_model.config.rope_parameters = rope
    hf_model = type(tiny.hf_model)(tiny.hf_model.config).eval()
    model = LanguageModel(hf_model, source={"id": "owner/model", "revision": "abc"})
    hf_model.model.rotary_emb.inv_freq.mul_(2)  # as a run of a long prompt does
    assert model.source["revision"] == "abc"


@pytest.mark.parametrize("name", ["b_enc", "W_dec"])
def test_transcoders_that_are_changed_no_longer_have_their_files_digest(name: str, tmp_path: Path) -> None:
    save_transcoders(make_transcoders(), tmp_path / "set")
    for transcoders in (load_transcoders(tmp_path / "set"), make_transcoders()):
        before = dict(transcoders.source)
        transcoders.encode_layer(0, torch.ones(2, transcoders.d_model))
        assert transcoders.source == before
        getattr(transcoders.layers[1], name)[0] += 1
        after = transcoders.source
        assert after["digest"] != before["digest"] and after["digest"].startswith("tensors-sha256:")
    transcoders = make_transcoders()
    other = Transcoders(transcoders.layers, replace(transcoders.config, k=3))
    assert other.source["digest"] != transcoders.source["digest"]


def test_large_weights_whose_files_are_overwritten_are_recorded_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_MOST_READ_BYTES", 16)
    for name, seed in (("set", 0), ("other", 1)):
        save_transcoders(make_transcoders(seed=seed), tmp_path / name)
    mine, theirs = (tmp_path / name / "W_dec_0.safetensors" for name in ("set", "other"))
    kept = mine.read_bytes()
    model = ag.load_model(make_model("llama").hf_model, tmp_path / "set")
    transcoders, before = model.need_transcoders(), model.need_transcoders().source
    (tmp_path / "new").write_bytes(theirs.read_bytes())
    W_dec = transcoders.layers[0].W_dec.clone()
    mine.write_bytes(theirs.read_bytes())  # as `cp` does
    assert not torch.equal(transcoders.layers[0].W_dec, W_dec)
    found = ag.trace(model, [1, 5, 9, 2], max_feature_nodes=10).metadata["transcoders"]
    assert found["changed"] == "in its files after loading" and found["digest"].startswith("tensors-sha256:")
    assert found["digest"] == digest_tensors(transcoders._named(), transcoders._deciding())

    mine.write_bytes(kept)
    transcoders = load_transcoders(tmp_path / "set")
    (tmp_path / "new").replace(mine)  # the views stay those of the old file
    (tmp_path / "set" / "W_enc_0.safetensors").unlink()
    assert torch.equal(transcoders.layers[0].W_dec, W_dec) and transcoders.source == before


@pytest.mark.parametrize("most_read", [2**20, 100])
def test_weights_that_are_put_back_are_those_of_their_files(most_read: int) -> None:
    W = torch.ones(100)
    origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda: {"W": W}, lambda: None, most_read=most_read)
    W += 1
    assert origin.now()["changed"] == "in memory after loading"
    W -= 1
    assert ("changed" in origin.now()) == (most_read == 100)  # of what is not read only that it was changed is known


@pytest.mark.usefixtures("_both_readers")
@pytest.mark.parametrize("form", ["sparse", "conjugated", "negated", "strided", "expanded", "wide"])
def test_tensors_are_read_however_they_hold_their_numbers(form: str) -> None:
    numbers = torch.arange(20_000.0).to(torch.complex128 if form == "wide" else torch.complex64) * (1 + 2j)
    forms = {
        "sparse": lambda: numbers.real[:9].diag().to_sparse(),
        "conjugated": numbers.conj,
        "negated": lambda: numbers.conj().imag,
        "strided": lambda: numbers[::2],
        "expanded": lambda: numbers[3].expand(50),
        "wide": lambda: numbers,
    }
    held = {"W": forms[form]()}
    origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda: held, lambda: None)
    held["W"] = held["W"].clone()
    assert origin.now()["digest"] == "sha256:0"
    held["W"] = held["W"] * 2
    assert origin.now()["digest"] == digest_tensors(held)


@pytest.fixture(params=["here", "on a device"])
def _both_readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents are read, or as on devices other than the CPU summed."""
    if request.param != "here":
        monkeypatch.setattr(digests, "_quick_digest", lambda tensor: digests._sums(digests._flat(tensor)))


@pytest.mark.usefixtures("_both_readers")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_sums_notice_signs_single_elements_and_odd_places(dtype: torch.dtype) -> None:
    whole = torch.randint(1, 100, (40_001,), generator=torch.Generator().manual_seed(0)).to(dtype)
    for held in (whole, whole[1:], whole[:1], whole[:8], whole[:40_000].view(200, 200).T):
        origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda held=held: {"W": held}, lambda: None)  # type: ignore[misc]
        assert origin.now()["digest"] == "sha256:0"
        held.data.neg_()
        assert (first := origin.now()["digest"]).startswith("tensors-")
        held.data.view(held.shape)[(-1,) * held.ndim] += 1
        assert origin.now()["digest"] != first


@pytest.mark.usefixtures("_both_readers")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("width", [1, 8, 24, 511, 1000])
def test_sums_notice_that_rows_change_places(width: int, dtype: torch.dtype) -> None:
    W = torch.randint(1, 100, (4000, width), generator=torch.Generator().manual_seed(0)).to(dtype)
    W[12] = -W[7]
    origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda: {"W": W}, lambda: None)
    assert origin.now()["digest"] == "sha256:0"
    W.data[[7, 12]] = W.data[[12, 7]]
    assert origin.now()["digest"] == digest_tensors({"W": W})


def test_larger_tensors_are_asked_for_their_changes_only() -> None:
    W = torch.zeros(1000)
    origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda: {"W": W}, lambda: None, most_read=100)
    W.data[0] = 1  # what is said not to be seen
    assert origin.now()["digest"] == "sha256:0"
    W[0] = 2
    assert origin.now()["digest"] == digest_tensors({"W": W})


@pytest.mark.usefixtures("_both_readers")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_notice_signs_that_change_in_pairs(dtype: torch.dtype) -> None:
    held = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    origin = Origin({"id": "x", "digest": "sha256:0"}, "x", lambda: {"W": held}, lambda: None)
    seen = {origin.now()["digest"]}
    for pair in (([7, 12], [1, 1]), ([3, 3], [1, 3]), ([5, 40], [95, 7])):
        held.data[tuple(pair)] *= -1
        seen.add(origin.now()["digest"])
    assert len(seen) == 4
