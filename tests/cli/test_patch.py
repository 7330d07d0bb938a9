"""`attrgraph patch` through its door: what is printed is what the library finds."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import AttrGraphError
from attrgraph.interventions.patch_figure import draw_patch

DALLAS = "in the state containing dallas the capital is"
CHICAGO = "in the state containing chicago the capital is"
TOKENS = ["--target", "austin", "--minus", "springfield"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the verb writes to stdout."""
    assert main(["patch", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json_is_the_table_and_its_convention(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, DALLAS, CHICAGO, *TOKENS, "--nodes", "head,mlp", "--direction", "noise", "--json"))
    metric = ag.LogitDifference("austin", "springfield")
    table = ag.patch(ag.load_model("demo"), DALLAS, CHICAGO, nodes=["head", "mlp"], metric=metric, direction="noise")
    assert found.pop("nodes") == table.to_dict("records")
    assert found == table.attrs
    assert found["direction"] == "noise" and found["is_normalised"] is False and found["gradient_at"] is None
    assert found["effect"] == "metric(clean run with the node as in the corrupt run) - metric(clean run)"


def test_csv_has_all_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, DALLAS, CHICAGO, "--nodes", "resid", "--csv"))))
    assert len(rows) == 5 * 9
    assert float(next(row for row in rows if row["node"] == "resid:4@8")["effect"]) == pytest.approx(26.44, abs=0.01)


def test_text_names_the_metric_and_the_largest_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, DALLAS, CHICAGO, *TOKENS, "--nodes", "head", "--top", "3")
    assert "logit 'austin' - 'springfield'" in out and "not normalised" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["head:3.1@8", "head:0.1@5", "head:0.2@5"]
    out = run(capsys, DALLAS, CHICAGO, "--kl", "--method", "ig", "--nodes", "mlp", "--refine", "5")
    assert "KL(clean || run)" in out and "sums of 4 sites are off by at most" in out and "Spearman" in out
    out = run(capsys, DALLAS, CHICAGO, "--target", "austin", "--method", "attribution", "--nodes", "attn", "--top", "0")
    assert "log p('austin')" in out and "gradient: corrupt run" in out and "largest" not in out


def test_positions_of_named_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--position", "end=-1,-1", "--position", "the=6,1"]
    found = json.loads(
        run(capsys, DALLAS, "the capital is", "--target", "austin", *places, "--nodes", "attn", "--json")
    )
    assert found["positions"] == {"end": [8, 3], "the": [6, 1]}
    assert {row["pos"] for row in found["nodes"]} == {6, 8}


def test_figures_are_drawn_and_the_same_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / f"{name}.svg" for name in "ab"]
    for path in paths:
        out = run(capsys, DALLAS, CHICAGO, *TOKENS, "--nodes", "head,resid", "--figure", str(path))
        assert f"wrote {path}" in out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = paths[0].read_text(encoding="utf-8")
    for word in ("head, sum over positions", "head, sum over heads", "resid", "dallas 5", "denoise"):
        assert word in text
    assert main(["patch", DALLAS, CHICAGO, "--figure", str(paths[0])]) == 1
    assert "--force" in capsys.readouterr().err
    # of pairs with tokens at other places
    model, end = ag.load_model("demo"), {"end": (-1, -1)}
    several = ag.patch(
        model, [DALLAS, "the capital is"], [CHICAGO, "the state is"], positions=end, metric=ag.KLDivergence()
    )
    draw_patch(several, tmp_path / "c.svg")
    assert "end" in (tmp_path / "c.svg").read_text(encoding="utf-8")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--minus", "austin"], 2, "--minus needs a --target"),
        (["--kl", "--target", "austin"], 2, "leave --target out"),
        (["--json", "--csv"], 2, "exclude each other"),
        (["--position", "a"], 2, "expected NAME=CLEAN,CORRUPT"),
        (["--nodes", "heads"], 1, "nodes has 'heads'"),
        (["--figure", "a.txt"], 1, "unknown ending"),
        (["--target", "two words"], 1, "target 'two words'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["patch", DALLAS, CHICAGO, *arguments]) == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.refusal
def test_lengths_are_named_and_no_empty_table_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patch", DALLAS, "the capital is"]) == 1
    assert "has 9 tokens, the corrupt one 4" in capsys.readouterr().err
    table: Any = ag.patch(ag.load_model("demo"), DALLAS, CHICAGO, nodes="mlp").head(0)
    with pytest.raises(AttrGraphError, match="without rows"):
        draw_patch(table, tmp_path / "a.svg")
