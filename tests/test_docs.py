"""What the documents say was measured is what the results hold."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.doors

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert tables.with_tables(text) == text
    assert text.count("| GPT-2 |") > 5  # they are there


def test_the_demo_s_text_is_written_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    exec(text.partition('python -c "')[2].partition('"')[0], {})
    sentences = capsys.readouterr().out.splitlines()
    assert f"all {len(sentences):,} that can be listed" in text
    assert "in the state containing dallas the capital is austin" in sentences


def test_files_that_documents_name_exist() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in document.read_text(encoding="utf-8").split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            if target and not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
