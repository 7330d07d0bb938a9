"""`attrgraph train`: from text to a folder that traces, evaluates, and survives being killed."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import draws
import pytest
import yaml
from safetensors.torch import load_file

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.cli.train import effective_config, parse_count
from attrgraph.errors import AttrGraphError, TrainingError

pytestmark = pytest.mark.doors

SMALL = ["--features", "64", "--l0", "12", "--tokens", "12k", "--config"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of the demo's world, one a line."""
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    rng = random.Random(0)
    sentences = [draws.sample(rng, draws.FULL_MIX).words for _ in range(400)]
    path.write_text("\n".join(" ".join(words[1:]) for words in sentences), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text("batch_tokens: 256\nlearning_rate: 3e-3\nn_features: 9999\ndead_after: 5000\n", encoding="utf-8")
    return path


def train(arguments: list[str]) -> str:
    """What training the demo in this process prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["train", "demo", *arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def trained(text: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder from a run that nothing interrupted, and what the run printed."""
    folder = tmp_path_factory.mktemp("trained") / "set"
    figure = ["--figure", str(folder.with_name("curves.svg"))]
    return folder, json.loads(train(["--text", str(text), *SMALL, str(config), "-o", str(folder), "--json", *figure]))


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def test_output_traces_and_says_how_it_was_made(trained: tuple[Path, dict[str, Any]], text: Path) -> None:
    folder, printed = trained
    model = ag.load_model("demo", transcoders=folder)
    assert model.transcoders.n_features == [64] * 4 and model.transcoders.config.is_cross_layer
    ag.trace(model, "in the state containing dallas the capital is")
    record = yaml.safe_load((folder / "training.yaml").read_text(encoding="utf-8"))
    # options go before the file, the file before the defaults
    config = record["config"]
    assert (config["n_features"], config["batch_tokens"], config["learning_rate"]) == (64, 256, 3e-3)
    assert record["text"][str(text)].startswith("sha256:") and record["held_out_share"] == 0.05
    assert record["result"]["held_out"]["nmse"] == pytest.approx(printed["nmse"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| NMSE, mean over layers | {printed['nmse']:.4f} |" in card
    assert printed["l0"] == pytest.approx(12, rel=0.1) and printed["nmse"] < 0.9
    assert not folder.with_name("set.partial").exists()
    assert "top-1 agreement" in folder.with_name("curves.svg").read_text(encoding="utf-8")
    assert [step for step, _ in losses(folder)] == [20, 40, 47]


def test_evaluate_takes_the_documents_that_training_left_out(
    trained: tuple[Path, dict[str, Any]], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, printed = trained
    assert (
        main(["evaluate", "demo", str(folder), "--text", str(text), "--json", "--no-neurons", "--n-graphs", "0"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "held-out"
    assert found["nmse"] == pytest.approx(printed["nmse"]) and found["n_tokens"] == printed["n_tokens"]


def test_killed_and_resumed_is_as_if_nothing_had_happened(
    trained: tuple[Path, dict[str, Any]], text: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = trained[0], tmp_path / "set"
    arguments = ["--text", str(text), *SMALL, str(config), "-o", str(output), "--checkpoint-minutes", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "attrgraph.cli.main", "train", "demo", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "set.partial"
    while process.poll() is None and not any(partial.glob("checkpoint-0000000[2-9]0")):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    assert main(["train", "demo", *arguments, "--resume"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("attrgraph: ") and "set.partial: another process is training in it" in error
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not output.exists()
    train([*arguments, "--resume"])
    assert losses(output) == losses(folder)
    for path in sorted(folder.glob("*.safetensors")):
        ours, theirs = load_file(output / path.name), load_file(path)
        assert all(bool((ours[name] == theirs[name]).all()) for name in theirs), path.name


def test_per_layer_sets_caches_and_samples_of_the_model_itself(
    text: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attrgraph.data.self_generate._DEFAULT_LENGTH", 64)
    common = [*SMALL, str(config), "--tokens", "3k"]
    cache = ["--cache", str(tmp_path / "cache")]
    plain = ["train", "demo", "--text", str(text), *common, "--per-layer", "--activation", "topk"]
    assert main([*plain, "-o", str(tmp_path / "a"), *cache]) == 0
    assert (tmp_path / "cache" / "index.json").is_file()
    assert main([*plain, "-o", str(tmp_path / "b"), *cache, "--weights-dtype", "bfloat16"]) == 0
    assert ag.load_transcoders(tmp_path / "b").config.k == 3
    warning = "12 steps are too few to learn"
    assert f"warning: {warning}" in capsys.readouterr().out and warning in (tmp_path / "b" / "README.md").read_text()
    assert main(["train", "demo", "--self-generate", "2000", *common, "-o", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize(("given", "count"), [("500", 500), ("20k", 20_000), ("1.5M", 1_500_000), ("2b", 2 * 10**9)])
def test_token_counts(given: str, count: int) -> None:
    assert parse_count(given) == count


def test_training_record_can_be_the_config_of_another_run(trained: tuple[Path, dict[str, Any]]) -> None:
    again = effective_config(trained[0] / "training.yaml", {"seed": 3})
    assert (again.n_features, again.l0, again.seed) == (64, 12.0, 3)


@pytest.mark.refusal
def test_wrong_requests_are_told_in_one_line(
    text: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    unfinished = tmp_path / "new.partial"
    unfinished.mkdir()
    (unfinished / "run.yaml").write_text("model: {}")
    (tmp_path / "list.yaml").write_text("- 1\n")
    few = ["train", "demo", "--features", "8", "--l0", "4", "--tokens", "3k"]
    for arguments, message in [
        ([*few, "-o", "x"], "name the corpus with --text FILE"),
        (
            [*few, "--text", str(text), "-o", str(taken)],
            "exists; choose another name or pass --force",
        ),
        ([*few, "--text", str(text), "-o", str(tmp_path / "new")], "holds an unfinished run; continue with --resume"),
        ([*few, "--text", str(text), "-o", str(tmp_path / "y"), "--resume"], "holds no unfinished run to resume"),
        ([*few, "--text", str(tmp_path / "none.txt"), "-o", "x"], "none.txt"),
        ([*few, "--text", str(text), "-o", "x", "--config", str(tmp_path / "list.yaml")], "expected a mapping"),
        ([*few, "--text", str(text), "-o", "x", "--activation", "gelu"], "activation is 'gelu'"),
    ]:
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("attrgraph: ") and message in error


@pytest.mark.refusal
def test_unreadable_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--tokens is 'many'; expected a number such as"):
        parse_count("many")
    with pytest.raises(TrainingError, match=r"none\.yaml: cannot be read as YAML"):
        effective_config(tmp_path / "none.yaml", {})
    (tmp_path / "typo.yaml").write_text("lr: 1\n")
    with pytest.raises(AttrGraphError, match=r"typo\.yaml: lr is no setting"):
        effective_config(tmp_path / "typo.yaml", {})
