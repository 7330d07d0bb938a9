"""Hub names resolve to pinned commits: tested on a local copy of the hub's cache, without a network."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import ModelLoadError
from attrgraph.graph.origin import check_traced_model
from attrgraph.transcoders import save_transcoders

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_repository(cache: Path, name: str) -> Path:
    """The cache's folder for one commit of a repository, which its branches main and v1 point to."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for branch in ("main", "v1"):
        (repository / "refs" / branch).write_text(COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which is all that can be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make_model("llama").hf_model.save_pretrained(cached_repository(tmp_path / "hub", "owner/model"))
    save_transcoders(make_transcoders(), tmp_path / "t")
    shutil.copytree(tmp_path / "t", cached_repository(tmp_path / "hub", "owner/sets") / "clt" / "small")
    return tmp_path / "hub"


def test_hub_names_are_traced_and_their_commits_recorded(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    named = ["--model", "owner/model", "--transcoders", f"owner/sets/clt/small@{COMMIT}"]
    assert main(["trace", "1 5 6", "--ids", *named, "-o", str(path)]) == 0
    metadata = ag.load_graph(path).metadata
    assert metadata["model"]["id"] == "owner/model"
    assert metadata["model"]["revision"] == metadata["transcoders"]["revision"] == COMMIT
    assert metadata["transcoders"]["id"] == "owner/sets/clt/small"


@pytest.mark.parametrize("asked", ["", "v1", COMMIT])
def test_the_revision_that_is_asked_for_and_its_commit_are_recorded(asked: str, cache: Path, tmp_path: Path) -> None:
    at = f"@{asked}" if asked else ""
    model = ag.load_model(f"owner/model{at}", f"owner/sets/clt/small{at}")
    for source in (model.source, ag.load_transcoders("owner/sets/clt/small", revision=asked or None).source):
        assert (source["revision"], source.get("asked_revision")) == (COMMIT, asked or None)
    graph = ag.trace(model, [1, 5, 6])
    graph.to_json(tmp_path / "g.json", profile="circuit-tracer")
    assert json.loads((tmp_path / "g.json").read_text())["metadata"]["scan"] == f"owner/sets//clt/small{at}"
    # the same commit by another name is the same set
    other = ag.load_model("owner/model", "owner/sets/clt/small")
    assert ag.diff(graph, ag.trace(other, [1, 5, 6])).notes == []
    check_traced_model(graph, other)


@pytest.mark.refusal
def test_unknown_hub_names_are_refused_in_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "1 5 6", "--ids", "--model", "owner/other", "--transcoders", "demo", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    *progress, told = err.splitlines()  # what takes long says that it loads
    assert set(progress) <= {"load"} and "not found on the Hugging Face hub" in told


def test_graph_metadata_is_json(tmp_path: Path) -> None:
    model = make_model("llama")
    model.transcoders = make_transcoders()
    metadata = ag.trace(model, [1, 5]).metadata
    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata


@pytest.mark.refusal
def test_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="a folder has no revision 'v1'"):
        ag.load_model(tmp_path, revision="v1")
