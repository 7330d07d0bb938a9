"""`attrgraph check`, and the repairs that `attrgraph convert` says."""

import json
from pathlib import Path

import pytest
from graph_documents import document

from attrgraph.cli.main import main


@pytest.fixture
def broken(tmp_path: Path) -> str:
    content = document("circuit-tracer schema 1")
    content["links"].append({"source": "0_7_1", "target": "nowhere\n", "weight": 1.0})
    content["metadata"]["scan"] = "a/b"
    (tmp_path / "broken.json").write_text(json.dumps(content))
    return str(tmp_path / "broken.json")


def test_every_problem_is_one_line_with_what_it_breaks(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", broken]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"{broken}: error dangling-link: 1 links from or to a node that is not in the file: ")
    assert lines[0].endswith("(breaks: Neuronpedia, circuit-tracer's viewer, Anthropic's viewer)")
    assert [line.split()[1] for line in lines] == ["error", *["warning"] * (len(lines) - 2), "note"]
    assert err == ""


def test_a_converted_file_passes_and_repairs_are_on_stderr(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "sound.json")
    assert main(["convert", broken, "-o", output]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [output]
    assert err.splitlines() == [
        "repaired: 1 link ('0_7_1 -> nowhere\\n') left out that lead from or to no node",
        "repaired: 2 ids ('0_-1_1', '2_-1_3') given to nodes that the file calls otherwise",
        "repaired: scan 'a/b' became 'a-b'",
    ]
    assert main(["check", output]) == 0
    assert main(["convert", output, "-o", str(tmp_path / "again.json")]) == 0
    assert capsys.readouterr().err == ""
    assert main(["convert", broken, "-o", str(tmp_path / "g.dot")]) == 0
    assert "repaired: 1 link" in capsys.readouterr().err


def test_larger_files_are_read_when_asked_for(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native = str(tmp_path / "g.safetensors")
    assert main(["convert", broken, "-o", native, "--max-bytes", "1K"]) == 1
    assert "at most 0 MiB of JSON are parsed" in capsys.readouterr().err
    assert main(["convert", broken, "-o", native, "--max-bytes", "a lot"]) == 1
    assert "--max-bytes is 'a lot'; expected a number of bytes, or a size" in capsys.readouterr().err
    assert main(["convert", broken, "-o", native, "--max-bytes", "1M"]) == 0


def test_files_are_listed_as_json(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native = str(tmp_path / "g.safetensors")
    assert main(["convert", broken, "-o", native]) == 0
    capsys.readouterr()
    assert main(["check", native, broken, "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first == {"file": native, "problems": []}
    assert second["problems"][0]["code"] == "dangling-link"
    assert set(second["problems"][0]) == {"severity", "code", "message", "breaks"}
    assert main(["check", native]) == 0
    assert capsys.readouterr().out == f"{native}: nothing is wrong\n"


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere.json"]) == 1
    assert capsys.readouterr().out.startswith("nowhere.json: error unreadable: no such file.")
