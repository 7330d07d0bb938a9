"""`attrgraph explore`: of a graph, of a prompt, and what it refuses before work begins."""

import json
from pathlib import Path

import pytest
from six_nodes import six_nodes

from attrgraph.cli.main import main

pytestmark = pytest.mark.doors


@pytest.fixture
def graph(tmp_path: Path) -> str:
    six_nodes().save(tmp_path / "six.safetensors")
    return str(tmp_path / "six.safetensors")


def test_a_graph_becomes_a_page_with_names_for_its_features(
    graph: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"1": {"3": "a name"}}), encoding="utf-8")
    page = tmp_path / "page.html"
    assert main(["explore", graph, "-o", str(page), "--labels", str(tmp_path / "names.json")]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-o", "page.svg"], 1, "unknown ending '.svg'; expected .html"),
        (["-o", "there.html"], 1, "exists; choose another name or pass --force"),
        (["-o", "page.html", "--model", "demo"], 2, "with a graph, options of a model have no use, except --labels"),
        (["-o", "page.html", "--features", "."], 1, "holds no feature pages"),
        (["-o", "page.html", "--validation", "none.json"], 1, "none.json"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str],
    code: int,
    said: str,
    graph: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("there.html").write_text("mine", encoding="utf-8")
    assert main(["explore", graph, *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert code == 2 or error.count("\n") == 1
    assert Path("there.html").read_text(encoding="utf-8") == "mine" and not Path("page.html").exists()
