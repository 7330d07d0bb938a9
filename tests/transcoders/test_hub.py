"""Hub names resolve to pinned commits: tested on a local copy of the hub's cache, without a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.errors import ModelLoadError
from attrgraph.transcoders import save_transcoders

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_repository(cache: Path, name: str) -> Path:
    """The cache's folder for one commit of a repository, which its branch main points to."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def trace_offline(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "attrgraph.cli.main", "trace", "1 5 6", "--ids", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_model("llama").hf_model.save_pretrained(cached_repository(tmp_path / "hub", "owner/model"))
    save_transcoders(make_transcoders(), tmp_path / "t")
    shutil.copytree(tmp_path / "t", cached_repository(tmp_path / "hub", "owner/sets") / "clt" / "small")
    return tmp_path / "hub"


def test_hub_names_are_traced_and_their_commits_recorded(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    out = trace_offline(
        cache, "--model", "owner/model", "--transcoders", f"owner/sets/clt/small@{COMMIT}", "-o", str(path)
    )
    assert out.returncode == 0, out.stderr
    metadata = ag.load_graph(path).metadata
    assert metadata["model"]["id"] == "owner/model"
    assert metadata["model"]["revision"] == metadata["transcoders"]["revision"] == COMMIT
    assert metadata["transcoders"]["id"] == "owner/sets/clt/small"


@pytest.mark.refusal
def test_unknown_hub_names_are_refused_in_one_line(cache: Path) -> None:
    out = trace_offline(cache, "--model", "owner/other", "--transcoders", "demo", "--json")
    assert out.returncode == 1 and out.stdout == ""
    *progress, told = out.stderr.splitlines()  # what takes long says that it loads
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
