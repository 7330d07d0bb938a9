"""The examples run, and say what they promise."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.doors

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    "picture",
    [
        "story.dot",
        pytest.param(
            "story.svg",
            marks=pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz"),
        ),
    ],
)
def test_dallas_tells_the_story_of_two_hops(
    picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dallas.py", str(tmp_path / picture)])
    names = runpy.run_path(str(EXAMPLES / "dallas.py"))
    out = capsys.readouterr().out
    assert "the capital is -> austin" in out
    assert "city in texas" in out
    assert names["turned"].is_flipped and names["turned"].top_after[0][0] != "austin"
    assert names["swapped"].is_swapped and names["swapped"].effect.top_after[0][0] == "springfield"
    drawn = (tmp_path / picture).read_text(encoding="utf-8").replace("&#160;", " ").replace("\xa0", " ")
    assert "cities in texas" in drawn and "4 nodes" in drawn and "austin" in drawn


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path.name
