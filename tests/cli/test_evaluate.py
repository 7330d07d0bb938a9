"""`attrgraph evaluate` through its door."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_transcoders

import attrgraph as ag
from attrgraph.cli.evaluate import evaluate as verb
from attrgraph.cli.main import main
from attrgraph.data.corpus import is_held_out, read_corpus
from attrgraph.evaluation import choose_split, evaluate
from attrgraph.transcoders import save_transcoders

SENTENCES = [
    "in the state containing dallas the capital is austin",
    "eugene is in oregon",
    "the opposite of hot is cold",
    "the french word for big is grand",
    "cincinnati is in ohio",
    "fort worth is in texas",
    "le contraire de grand est petit",
    "the spanish word for hot is caliente",
    "the opposite of small is big",
    "dallas is in texas",
]
MEASURES = "nmse l0 dead_fraction top1_agreement kl ce ce_model ce_zero_ablation ce_recovered".split()
INTERVALS = "nmse l0 top1_agreement kl ce_recovered graph_replacement graph_completeness".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return path


@pytest.fixture
def trained(tmp_path: Path, text: Path) -> Path:
    """A folder of transcoders whose record says that it was trained on `text`, but for half of the documents."""
    model = ag.load_model("demo")
    save_transcoders(model.transcoders, tmp_path / "trained")
    record = {"text": read_corpus(model, [text]).sources, "held_out_share": 0.5, "n_tokens": 1}
    (tmp_path / "trained/training.yaml").write_text(yaml.safe_dump(record))
    return tmp_path / "trained"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["evaluate", *(str(argument) for argument in arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_json_has_the_measures_of_the_transcoders_and_of_what_is_beside(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(capsys, "demo", "demo", "--text", text, "--compare-with", "demo-per-layer", "--n-graphs", 2)
    assert list(report["compared"]) == ["demo-per-layer", "top-k neurons"]
    for evaluation in (report, *report["compared"].values()):
        assert all(isinstance(evaluation[name], float) for name in MEASURES)
        assert list(evaluation["intervals"]) == INTERVALS
        assert [layer["layer"] for layer in evaluation["per_layer"]] == [0, 1, 2, 3]
        assert evaluation["n_documents"] == 10
        assert evaluation["model"]["id"] == "demo"
        assert list(evaluation["text"]) == [str(text)]
    assert report["nmse"] < report["compared"]["top-k neurons"]["nmse"]
    assert report["graphs"]["n"] == 2 and report["compared"]["top-k neurons"]["graphs"]["n"] == 0
    low, high = report["intervals"]["nmse"]
    assert low < report["nmse"] < high
    assert (report["split"], report["held_out_share"]) == ("all", None)


def test_result_is_that_of_the_library_function(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "demo", "demo", "--text", text, "--no-neurons", "--n-graphs", 0)
    model = ag.load_model("demo")
    expected = evaluate(model, model.transcoders, read_corpus(model, [text]), n_graphs=0).to_dict()
    assert {name: report[name] for name in expected} == expected
    assert report["compared"] == {}


def test_tables_show_measures_intervals_and_layers(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "demo", "demo", "--text", str(text), "--n-graphs", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.split() for line in out.splitlines()]
    n_tokens = sum(len(sentence.split()) for sentence in SENTENCES)
    chosen = "all documents (no transcoders here have a training.yaml)"
    assert out.startswith(f"{n_tokens} tokens in 10 documents: {chosen}; left out 10: BOS\n")
    assert ["demo", "top-k", "neurons"] in lines
    shown = {line[0]: line for line in lines if line}
    assert shown["NMSE"][2].startswith("(") and shown["NMSE"][3] == "to"
    assert "%" in shown["dead"][1]
    for name in ("L0", "top-1", "KL,", "CE", "graph", "layer"):
        assert name in shown
    assert "-" in shown["graph"]  # neurons have no graphs
    assert [line[0] for line in lines[-4:]] == ["0", "1", "2", "3"]


def test_report_and_figure_are_written(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    report, figure = tmp_path / "report.json", tmp_path / "figure.svg"
    arguments = ["demo", "demo", "--text", text, "--n-graphs", 0, "-o", report, "--figure", figure]
    printed = run_json(capsys, *arguments)
    assert json.loads(report.read_text()) == printed
    assert "top-k neurons" in figure.read_text()
    assert main(["evaluate", *map(str, arguments), "--no-neurons", "--force"]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {report}\nwrote {figure}\n")
    assert "top-k neurons" not in figure.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.svg", "report.json", "sentences.txt"]


def test_documents_that_were_trained_on_are_left_out(
    text: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n_held_out = sum(is_held_out(sentence.encode(), 0.5) for sentence in SENTENCES)
    assert 1 < n_held_out < len(SENTENCES)
    options = ["--no-neurons", "--n-graphs", 0]

    held_out = run_json(capsys, "demo", trained, "--text", text, *options)
    assert (held_out["split"], held_out["held_out_share"]) == ("held-out", 0.5)
    assert held_out["n_documents"] == n_held_out
    assert str(trained) in held_out["split_reason"]
    # a set beside it that was trained on them counts too; so does reading less of the file
    beside = run_json(capsys, "demo", "demo", "--compare-with", trained, "--text", text, *options, "--max-documents", 9)
    assert beside["split"] == "held-out"

    everything = run_json(capsys, "demo", trained, "--text", text, *options, "--all")
    assert (everything["split"], everything["n_documents"]) == ("all", len(SENTENCES))
    other = tmp_path / "other.txt"
    other.write_text("\n".join(SENTENCES[:5]) + "\n")
    assert run_json(capsys, "demo", trained, "--text", other, *options)["split"] == "all"
    asked = run_json(capsys, "demo", trained, "--text", other, *options, "--held-out")
    assert (asked["split"], asked["held_out_share"]) == ("held-out", 0.5)


def test_folders_of_text_are_recognised_too(tmp_path: Path, trained: Path, text: Path) -> None:
    model = ag.load_model("demo")
    folder = tmp_path / "texts"
    folder.mkdir()
    text.rename(folder / "a.txt")
    assert choose_split([folder], [trained]).split == "all"
    record = {"text": read_corpus(model, [folder]).sources, "held_out_share": 0.5}
    (trained / "training.yaml").write_text(yaml.safe_dump(record))
    assert choose_split([folder], [trained, "demo"]).split == "held-out"


def test_defaults_are_those_of_the_library() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(verb).parameters.items()}
    assert defaults["n_graphs"] == inspect.signature(evaluate).parameters["n_graphs"].default
    assert defaults["text_field"] == inspect.signature(read_corpus).parameters["text_field"].default


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "demo"], "nowhere: no such folder"),
        (["demo", "./nowhere"], "nowhere: no such folder"),
        (["demo", "demo", "--compare-with", "./nowhere"], "nowhere: no such folder"),
        (["demo", "demo", "--compare-with", "demo"], "demo: is named twice"),
        (["demo", "small"], "the model has 4 layers x d_model 128"),
        (["demo", "demo", "--text", "nowhere.txt"], "nowhere.txt: no such file"),
        (["demo", "demo", "-o", "report.txt"], "unknown ending '.txt'; the report is written as .json"),
        (["demo", "demo", "-o", "no/such/folder.json"], "does not exist"),
        (["demo", "demo", "-o", "mine.json"], "exists; choose another name or pass --force"),
        (["demo", "demo", "--figure", "figure.txt"], "unknown ending '.txt'; expected one of .svg, .png, .pdf"),
        (["demo", "broken"], "broken/training.yaml: expected YAML with `text`"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(
    arguments: list[str],
    message: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("mine")
    if "small" in arguments:
        save_transcoders(make_transcoders(), "small")
    if "broken" in arguments:
        save_transcoders(ag.load_model("demo").transcoders, "broken")
        Path("broken/training.yaml").write_text("text: [1]\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["evaluate", *arguments, "--text", text.name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("attrgraph: ")
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Path("mine.json").read_text() == "mine"


@pytest.mark.refusal
def test_a_figure_without_matplotlib_is_refused_before_measuring(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["evaluate", "demo", "demo", "--text", str(text), "--figure", str(tmp_path / "f.svg")]) == 1
    assert "pip install 'attrgraph[draw]'" in capsys.readouterr().err


@pytest.mark.refusal
def test_text_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "demo", "demo"]) == 2
    assert "--text" in capsys.readouterr().err
