"""The verbs that change a model's run, through their door: intervene, swap, validate."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.interventions.setting import parse_setting
from attrgraph.interventions.swap import features_at
from attrgraph.transcoders import save_transcoders
from attrgraph.validation import validate

DALLAS = "in the state containing dallas the capital is"
CHICAGO = "in the state containing chicago the capital is"
FAST = ["--nodes", "12", "--controls", "2"]


@pytest.fixture(scope="module")
def graph() -> ag.Graph:
    return ag.trace(ag.load_model("demo"), DALLAS)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a verb writes to stdout."""
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments, "--json"), parse_constant=refuse)


def refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# -- intervene ---------------------------------------------------------------------------------------------------------

SETTINGS: list[tuple[str, ag.Intervention]] = [
    ("3/458@8=0", ag.Intervention((3, 458, 8), value=0.0)),
    ("3/458@8*-1.5", ag.Intervention((3, 458, 8), scale=-1.5)),
    ("3/458@8+-2e-1", ag.Intervention((3, 458, 8), add=-0.2)),
    ("3_458_8 = 2", ag.Intervention("3_458_8", value=2.0)),
    ("3_-1_8*0", ag.Intervention("3_-1_8", scale=0.0)),
    ("E_145_5*0", ag.Intervention("E_145_5", scale=0.0)),
    ("1/1023@5:=1", ag.Intervention((1, 1023, slice(5, None)), value=1.0)),
    ("1/1023@:6=1", ag.Intervention((1, 1023, slice(None, 6)), value=1.0)),
    ("1/1023@2:5+1", ag.Intervention((1, 1023, slice(2, 5)), add=1.0)),
    ("1/1023@:*0", ag.Intervention((1, 1023, slice(None)), scale=0.0)),
    ("head:2.0@8*0", ag.Intervention("head:2.0@8", scale=0.0)),
    ("attn:1@5:*-1", ag.Intervention("attn:1@5:", scale=-1.0)),
    ("resid_mid:1 * 2", ag.Intervention("resid_mid:1", scale=2.0)),
]


@pytest.mark.parametrize(("text", "expected"), SETTINGS)
def test_a_setting_is_what_the_library_takes(text: str, expected: ag.Intervention) -> None:
    found = parse_setting(text)
    assert (found.each(), found.value, found.scale, found.add) == (
        expected.each(),
        expected.value,
        expected.scale,
        expected.add,
    )


def test_components_are_set_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{CHICAGO}\nthe opposite of hot is\n")
    settings = ["head:2.0@8*0", f"attn:3@8=from:{CHICAGO}", f"resid:1@5 = mean: {texts}"]
    arguments = ["intervene", DALLAS, *(part for text in settings for part in ("--set", text))]
    model = ag.load_model("demo")
    sets = [
        ag.Intervention("head:2.0@8", scale=0.0),
        ag.Intervention("attn:3@8", from_prompt=CHICAGO),
        ag.Intervention("resid:1@5", mean=[CHICAGO, "the opposite of hot is"]),
    ]
    effect = ag.intervene(model, DALLAS, sets)
    found = run_json(capsys, *arguments, "--new-tokens", "2")
    assert found["kl"] == pytest.approx(effect.kl, rel=1e-5) and effect.kl > 0.1
    assert found["texts"]["changed"] == ag.generate(model, DALLAS, sets, max_new_tokens=2).text
    doses = run_json(capsys, "intervene", DALLAS, "--set", "head:2.0@8", "--doses", "0,1")
    # doses go through in a batch, whose sums are added in another order
    assert doses[0]["kl"] == pytest.approx(ag.intervene(model, DALLAS, sets[0]).kl, rel=1e-3)
    assert abs(doses[1]["kl"]) < 1e-6


def test_a_model_without_transcoders_is_changed_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    make_model("llama").hf_model.save_pretrained(folder)
    capsys.readouterr()  # transformers' bar
    arguments = ["intervene", "1 7 12 33", "--ids", "--model", str(folder)]
    found = run_json(capsys, *arguments, "--set", "head:1.0@2*0")
    effect = ag.intervene(ag.load_model(folder), [1, 7, 12, 33], ag.Intervention("head:1.0@2", scale=0.0))
    assert found["kl"] == pytest.approx(effect.kl) and found["features"] == []
    assert main([*arguments, "--set", "1/3@2=1"]) == main([*arguments, "--set", "attn:1*0", "--mode", "frozen"]) == 1
    assert capsys.readouterr().err.count("name its transcoders") == 2


@pytest.mark.parametrize("mode", ["constrained", "frozen"])
def test_intervene_gives_what_the_library_gives(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["3/458@8*-1", "1/1023@3:6+2", "E_145_5*0"]
    arguments = [part for text in texts for part in ("--set", text)]
    found = run_json(capsys, "intervene", DALLAS, *arguments, "--mode", mode, "--top", "4")
    sets = [
        ag.Intervention((3, 458, 8), scale=-1.0),
        ag.Intervention((1, 1023, slice(3, 6)), add=2.0),
        ag.Intervention("E_145_5", scale=0.0),
    ]
    effect = ag.intervene(ag.load_model("demo"), DALLAS, sets, mode=mode)
    assert found["top_after"] == [list(pair) for pair in effect.top_after]
    assert found["top_before"][0][0] == "austin"
    assert (found["mode"], found["kl"], found["is_flipped"]) == (mode, effect.kl, effect.is_flipped)
    change = (effect.features["after"] - effect.features["before"]).abs().nlargest(4)
    assert [abs(row["change"]) for row in found["features"]] == change.tolist()
    assert found["texts"] == {}


def test_intervene_as_text_goes_on_with_new_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["intervene", DALLAS, "--set", "1/1023@5*-1", "--set", "1/815@5*-1", "--set", "1/738@5*-1"]
    out = run(capsys, *arguments, "--new-tokens", "3", "--top", "2")
    lines = out.splitlines()
    assert lines[0].startswith("before    austin") and lines[1].startswith("after     ")
    assert "KL" in lines[2] and "mode constrained" in lines[2]
    model = ag.load_model("demo")
    sets = [ag.Intervention(node, scale=-1.0) for node in ("1_1023_5", "1_815_5", "1_738_5")]
    for name, changes in (("unchanged", []), ("changed", sets)):
        text = ag.generate(model, DALLAS, changes, max_new_tokens=3).text
        assert f"{name:<10}{text}" in lines
    assert len(out.split("most changed features\n")[1].splitlines()) == 3
    assert "most changed" not in run(capsys, *arguments, "--top", "0")


def test_doses_are_a_table_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "doses.svg"
    arguments = ["intervene", DALLAS, "--set", "3/458@8", "--set", "1_1023_5", "--doses", "-1,0,1,2"]
    out = run(capsys, *arguments, "--figure", str(path))
    assert out.splitlines()[0].split() == ["scale", "logit", "change", "probability", "kl", "top"]
    assert out.splitlines()[-1] == f"wrote {path}" and len(out.splitlines()) == 6
    assert path.read_text().startswith("<?xml")
    found = run_json(capsys, *arguments, "--mode", "free")
    curve = ag.dose_response(
        ag.load_model("demo"), DALLAS, ["3_458_8", "1_1023_5"], scales=(-1.0, 0.0, 1.0, 2.0), mode="free"
    )
    assert found == curve.reset_index().to_dict("records")
    assert main([*arguments, "--figure", str(path)]) == 1
    assert "pass --force" in capsys.readouterr().err
    run(capsys, *arguments, "--figure", str(path), "--force")


# -- swap --------------------------------------------------------------------------------------------------------------


def test_swapping_a_city_makes_the_answer_follow_and_the_control_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "swap", DALLAS, CHICAGO, "--at", "5", "--top", "1")
    lines = out.splitlines()
    assert lines[0] == "answers  austin, springfield; the first follows the second"
    assert lines[1].startswith("control  with ") and lines[1].endswith(
        "active features of the same place the answer does not follow"
    )
    found = run_json(capsys, "swap", DALLAS, CHICAGO, "--at", "5,5")
    model = ag.load_model("demo")
    graphs = [ag.trace(model, prompt) for prompt in (DALLAS, CHICAGO)]
    places = [features_at(graph, 5) for graph in graphs]
    assert features_at(graphs[0], 5 - len(graphs[0].prompt_tokens)) == places[0]
    by_hand = ag.swap(model, DALLAS, CHICAGO, places[0].kept, places[1].kept)
    assert found["is_swapped"] is by_hand.is_swapped is True and found["control_is_swapped"] is False
    assert found["top_after"] == [list(pair) for pair in by_hand.effect.top_after]
    assert found["n_swapped"] == [len(place.kept) for place in places] == found["n_control"]


def test_named_features_are_swapped(graph: ag.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = ag.load_model("demo"), ag.trace(ag.load_model("demo"), CHICAGO)
    out_of, into = features_at(graph, 5).kept[:2], features_at(other, 5).kept[:1]
    layer, feature, pos = out_of[0].split("_")
    named = ["--take-out", f"{layer}/{feature}@{pos}", "--take-out", out_of[1], "--put-in", into[0]]
    found = run_json(capsys, "swap", DALLAS, CHICAGO, *named, "--dose", "1.5", "--mode", "free")
    by_hand = ag.swap(model, DALLAS, CHICAGO, out_of, into, dose=1.5, mode="free")
    assert found["kl"] == by_hand.effect.kl and found["is_swapped"] is by_hand.is_swapped
    assert "control_is_swapped" not in found
    only_out = run_json(capsys, "swap", DALLAS, CHICAGO, "--take-out", out_of[0])
    effect = ag.intervene(model, DALLAS, ag.Intervention(out_of[0], scale=0.0))
    assert only_out["kl"] == pytest.approx(effect.kl) and only_out["is_swapped"] is False
    assert run(capsys, "swap", DALLAS, CHICAGO, *named, "--dose", "0").startswith(
        "answers  austin, springfield; the first"
    )


def test_where_pruning_keeps_every_feature_there_is_no_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model("gpt2").hf_model.save_pretrained(tmp_path / "m")
    save_transcoders(make_transcoders(n_features=1), tmp_path / "t")
    capsys.readouterr()  # of what saving says
    named = ["--ids", "--model", str(tmp_path / "m"), "--transcoders", str(tmp_path / "t"), "--at", "1"]
    found = run_json(capsys, "swap", "1 9", "1 12", *named)
    assert found["n_control"] == [0, 0] and found["control_is_swapped"] is None
    assert "control" not in run(capsys, "swap", "1 9", "1 12", *named)


# -- validate ----------------------------------------------------------------------------------------------------------


def test_a_prompt_is_validated_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pages = [tmp_path / "r.html", tmp_path / "r.json"]
    groups = tmp_path / "groups.json"
    groups.write_text('{"texas": ["1_1023_5", "1_815_5"]}')
    outputs = [part for page in pages for part in ("-o", str(page))]
    more = ["--supernodes", str(groups), "--paraphrase", CHICAGO, "--compare-with", "demo-per-layer"]
    more += ["--mode", "frozen"]
    out = run(capsys, "validate", DALLAS, *FAST, *more, *outputs)
    assert out.startswith(f"<bos> {DALLAS} → austin 0.99")
    assert "the edges predict every change exactly" in out and "hops" in out and "paraphrases" in out
    assert [f"wrote {page}" for page in pages] == out.splitlines()[-2:]
    assert pages[0].read_text(encoding="utf-8").startswith("<!doctype html>")
    written = json.loads(pages[1].read_text(encoding="utf-8"))
    assert {row["supernode"] for row in written["tables"]["supernodes"]} == {"texas"}
    assert [row["kind"] for row in written["tables"]["compared"]] == ["cross_layer_transcoder", "transcoder_set"]
    assert written["settings"] | {"n_nodes": 12, "n_controls": 2, "mode": "frozen"} == written["settings"]
    before = [page.read_bytes() for page in pages]
    assert main(["validate", DALLAS, *FAST, *outputs]) == 1
    assert "exists; choose another name or pass --force" in capsys.readouterr().err
    assert [page.read_bytes() for page in pages] == before
    run(capsys, "validate", DALLAS, *FAST, "--mode", "frozen", *outputs, "--force")
    assert json.loads(pages[1].read_text(encoding="utf-8"))["tables"].get("supernodes", []) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.json", "r.html", "r.json"]


def test_a_saved_graph_is_validated_on_the_model_that_it_names(
    graph: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    settings = {"mode": "frozen", "n_nodes": 12, "n_controls": 2}
    expected = validate(ag.load_model("demo"), graph, **settings).to_dict() | {"files": []}
    for model in ([], ["--model", "demo", "--dtype", "float32", "--device", "cpu"]):
        assert run_json(capsys, "validate", str(path), *FAST, "--mode", "frozen", *model) == expected


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["intervene", DALLAS, "--set", "3/458@8"], "sets nothing; expected NODE=VALUE"),
        (["intervene", DALLAS, "--set", "3/458@8=much"], "sets nothing; expected NODE=VALUE"),
        (["intervene", DALLAS, "--set", "3/458@8=nan"], "with a finite number"),
        (["intervene", DALLAS, "--set", "3/458@8*inf"], "with a finite number"),
        (["intervene", DALLAS, "--set", "attn:1=mean:"], "or NODE=mean:FILE or NODE=from:PROMPT"),
        (["intervene", DALLAS, "--set", "attn:1=mean:nowhere.txt"], "nowhere.txt: no such file"),
        (["intervene", DALLAS, "--set", "attn:1=from:dallas"], "from_prompt has 2 tokens, the prompt 9"),
        (["intervene", DALLAS, "--set", "attn:1=0"], "node attn:1 is a vector of 128 numbers"),
        (["intervene", DALLAS, "--set", "3/458@=1"], "is not in this prompt's graph"),
        (["intervene", DALLAS, "--set", "3/458=1"], "not in this prompt's graph"),
        (["intervene", DALLAS, "--set", "3/458@99=1"], "not in this prompt's run"),
        (["intervene", DALLAS, "--set", "3/458@8=1", "--set", "3_458_8*2"], "is set twice"),
        (["intervene", DALLAS, "--set", "3/458@8=1", "--mode", "thawed"], "mode is 'thawed'"),
        (["intervene", DALLAS, "--set", "3/458@8=1", "--mode", "free", "--upto-layer", "3"], "upto_layer is for mode"),
        (["intervene", DALLAS, "--set", "3/458@8=0", "--doses", "1,2"], "not in this prompt's graph"),
        (["intervene", DALLAS, "--set", "3/458@8", "--doses", "1", "--figure", "f.txt"], "unknown ending '.txt'"),
        (["intervene", DALLAS, "--set", "3/458@8", "--doses", "1", "--figure", "no/f.svg"], "does not exist"),
        (["intervene", DALLAS, "--set", "3/458@8=1", "--model", "nowhere"], "name its transcoders"),
        (["intervene", DALLAS, "--set", "3/458@8=1", "--ids"], "is not a list of token ids"),
        (["swap", DALLAS, CHICAGO, "--at", "1"], "pruning to 0.8 of influence keeps none"),
        (["swap", DALLAS, CHICAGO, "--put-in", "3_-1_8"], "is no active feature"),
        (["swap", DALLAS, CHICAGO, "--at", "5", "--align", "middle"], "align is 'middle'"),
        (["swap", DALLAS, "", "--at", "5"], "the prompt is empty"),
        (["validate", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["validate", "/dev/zero"], "is a device or a pipe"),
        (["validate", __file__], "a graph file ends in .safetensors or .json"),
        (["validate", DALLAS, "-o", "r.pdf"], "a report is written as .html or .json"),
        (["validate", DALLAS, "-o", "no/r.json"], "does not exist"),
        (["validate", DALLAS, "-o", "r.json", "-o", "r.json"], "is named twice"),
        (["validate", DALLAS, "--mode", "thawed"], "mode is 'thawed'"),
        (["validate", DALLAS, "--supernodes", "nowhere.json"], "cannot be read as JSON"),
        (["validate", DALLAS, "--compare-with", "./nowhere"], "nowhere: no such folder"),
        (["validate", DALLAS, "--model", "nowhere"], "name its transcoders"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("attrgraph: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('["1_1023_5"]', "expected JSON of the form"),
        ('{"texas": "1_1023_5"}', "expected JSON of the form"),
        ('{"texas": [5]}', "expected JSON of the form"),
        ('{"texas": ["9_9_9"]}', "supernode 'texas' has '9_9_9'"),
        ('{"texas": []}', "supernode 'texas' has no node"),
    ],
)
def test_malformed_supernodes_are_told_in_one_line(
    written: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "groups.json").write_text(written)
    assert main(["validate", DALLAS, *FAST, "--supernodes", str(tmp_path / "groups.json")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err


@pytest.mark.refusal
def test_a_graph_that_cannot_be_validated_is_told_in_one_line(
    graph: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, pruned = tmp_path / "g.safetensors", tmp_path / "g.json"
    graph.save(whole)
    graph.prune().to_json(pruned)
    for arguments, message in (
        ([str(pruned)], "the graph is pruned"),
        ([str(whole), "--model", "demo", "--transcoders", "demo-per-layer"], "the graph was traced with"),
        ([str(whole), "--model", "demo", "--dtype", "float64"], "the graph was traced with float32"),
    ):
        assert main(["validate", *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and message in err
    # what could not be used is not left aside in silence
    for option in (["--transcoders", "demo-per-layer"], ["--dtype", "float64"], ["--device", "cpu"]):
        assert main(["validate", str(whole), *option]) == 2
        assert "need a --model" in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.refusal
@pytest.mark.parametrize(
    "arguments",
    [
        ["intervene", DALLAS],
        ["intervene", DALLAS, "--set", "3/458@8", "--doses", "a,b"],
        ["intervene", DALLAS, "--set", "3/458@8", "--doses", ""],
        ["intervene", DALLAS, "--set", "3/458@8", "--doses", "1,nan"],
        ["intervene", DALLAS, "--set", "3/458@8", "--doses", "1", "--new-tokens", "2"],
        ["intervene", DALLAS, "--set", "3/458@8=1", "--figure", "f.svg"],
        ["intervene", DALLAS, "--set", "3/458@8=1", "--new-tokens", "-1"],
        ["swap", DALLAS],
        ["swap", DALLAS, CHICAGO],
        ["swap", DALLAS, CHICAGO, "--at", "5", "--put-in", "1_2_3"],
        ["swap", DALLAS, CHICAGO, "--at", "here"],
        ["swap", DALLAS, CHICAGO, "--at", "1,2,3"],
        ["validate"],
        ["validate", DALLAS, "--nodes", "0"],
        ["validate", DALLAS, "--controls", "-1"],
    ],
)
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Usage" in err
