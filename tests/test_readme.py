"""What README and the guide say to type works, in the order in which they say it, in one folder."""

import doctest
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from attrgraph.cli.main import main

pytestmark = pytest.mark.doors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MOST_LINES = 250


def words_of(text: str) -> list[str]:
    """The words, with figures that depend on the machine's rounding as #, and without trailing space."""
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", text).split()


@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_blocks_run_in_order_in_one_folder(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("commands.txt").write_text("info dallas.safetensors\n", encoding="utf-8")
    names: dict[str, object] = {}
    shown, ran = "", 0
    for kind, text in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        if kind == "text":
            assert words_of(shown) == words_of(text)
        elif kind == "python":
            exec(text, names)
        else:
            for line in text.splitlines():
                line = line.replace(".svg", ".dot") if shutil.which("dot") is None else line
                assert main(shlex.split(line)[1:]) == 0, line
                ran += 1
            shown = capsys.readouterr().out
    assert ran >= 8 and names["model"].n_layers == 4  # type: ignore[attr-defined]


def test_printed_summary_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = README.split("```text\n")[1].split("```")[0].splitlines()
    assert main(["trace", "in the state containing dallas the capital is"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    # figures of exactness depend on the machine's rounding
    kept = [line for line in shown if "exactness" not in line and not line.startswith("wrote")]
    assert [line for line in printed if "exactness" not in line] == kept


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    "module",
    [
        "attrgraph.attribution.trace",
        "attrgraph.circuits.head_scores",
        "attrgraph.prompts.prompts_of",
        "attrgraph.models.load_model",
        "attrgraph.interventions.intervene",
        "attrgraph.interventions.generate",
        "attrgraph.interventions.swap",
        "attrgraph.interventions.patch",
        "attrgraph.interventions.patch_paths",
        "attrgraph.attribution.heads",
        "attrgraph.attribution.qk",
        "attrgraph.graph.select",
        "attrgraph.graph.selections",
        "attrgraph.validation.validate",
    ],
)
def test_docstring_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted >= 2 and result.failed == 0


def test_both_set_up_commands_are_make_targets() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    commands = re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)
