"""`attrgraph features` and `attrgraph feature` through their doors."""

import gzip
import json
import struct
from pathlib import Path

import pytest

import attrgraph as ag
from attrgraph.cli.main import main

pytestmark = pytest.mark.doors

SENTENCES = [
    "in the state containing dallas the capital is austin",
    "eugene is in oregon",
    "the opposite of hot is cold",
    "in texas the capital is austin",
]
CHOSEN = "3/458,1/1023"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(text: Path, folder: Path, *more: str) -> int:
    return main(["features", "demo", "demo", "--text", str(text), "-o", str(folder), "--features", CHOSEN, *more])


def test_python_and_command_line_write_the_same_bytes(text: Path, tmp_path: Path) -> None:
    assert write(text, tmp_path / "pages") == 0
    ag.describe_features(ag.load_model("demo"), SENTENCES, CHOSEN.split(",")).save(tmp_path / "mine")
    ag.describe_features(ag.load_model("demo"), text, CHOSEN.split(",")).save(tmp_path / "file")
    assert files_of(tmp_path / "pages") == files_of(tmp_path / "mine") == files_of(tmp_path / "file")
    assert not (tmp_path / "pages.state").exists()


def test_files_have_the_layouts_of_circuit_tracer_and_neuronpedia(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    assert write(text, folder) == 0
    page = ag.FeaturePages.load(folder)["3/458"]
    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))
    offsets = index["3"]["offsets"]
    assert len(offsets) == 2049
    blob = (folder / "features" / index["3"]["filename"]).read_bytes()[offsets[458] : offsets[459]]
    (length,) = struct.unpack("<I", blob[:4])
    record = json.loads(gzip.decompress(blob[4 : 4 + length]))
    assert len(blob) == 4 + length and record == page.record and record["index"] == 458
    theirs = {"top_logits", "bottom_logits", "act_min", "act_max", "quantile_values", "histogram"}
    assert theirs | {"activation_frequency", "examples_quantiles"} <= set(record)
    batches = [json.loads(path.read_text()) for path in sorted((folder / "neuronpedia").iterdir())]
    assert [(batch["layer"], [one["feature_index"] for one in batch["features"]]) for batch in batches] == [
        (1, [1023]),
        (3, [458]),
    ]
    for batch in batches:
        assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
        assert (batch["model_id"], batch["sae_set"]) == ("demo", "demo")
    (dashboard,) = batches[1]["features"]
    taken = {
        "pos_str": page["top_logits"],
        "pos_values": page["top_logit_values"],
        "neg_str": page["bottom_logits"],
        "neg_values": page["bottom_logit_values"],
        "frac_nonzero": page["activation_frequency"],
        "freq_hist_data_bar_heights": page["histogram"],
        "logits_hist_data_bar_heights": page["logit_histogram"],
        "n_prompts_total": len(SENTENCES),
        "n_tokens_in_prompt": sum(len(sentence.split()) for sentence in SENTENCES) // len(SENTENCES),
    }
    assert {name: dashboard[name] for name in taken} == taken
    more = {"feature_index", "freq_hist_data_bar_values", "logits_hist_data_bar_values", "activations"}
    assert set(dashboard) == {*taken, *more}
    for name, ends in (("freq", page["histogram_edges"]), ("logits", page["logit_range"])):
        middles, heights = (dashboard[f"{name}_hist_data_bar_{what}"] for what in ("values", "heights"))
        assert len(middles) == len(heights) and ends[0] < middles[0] and middles[-1] < ends[-1]
        assert middles == sorted(middles)
    assert dashboard["activations"]
    activation = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}
    for one in dashboard["activations"]:
        assert set(one) == activation and 0 < one["bin_contains"] <= 1
        assert len(one["tokens"]) == len(one["values"]) > one["qualifying_token_index"]
        assert one["bin_min"] <= one["values"][one["qualifying_token_index"]] <= one["bin_max"]
        # both put tokens together as they are
        assert "".join(one["tokens"]).strip() in SENTENCES


def test_a_page_is_printed_and_written(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(text, Path("pages")) == 0
    capsys.readouterr()
    assert main(["feature", "pages", "1/1023"]) == 0
    shown = capsys.readouterr().out
    assert "city in texas" in shown and "Top activations" in shown and "dallas" in shown
    assert main(["feature", "pages", "1/1023", "--html", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "city in texas" in page and "<script" not in page and "default-src 'none'" in page
    assert main(["feature", "pages", "1/1023", "--html", "page.html"]) == 1
    assert main(["feature", "pages", "1/2"]) == 1
    assert "has no page here" in capsys.readouterr().err


def test_all_features_are_listed_in_the_terminal_and_in_one_file(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(text, Path("pages")) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["feature", "label", "from", "score", "control", "fires", "max"]
    assert rows[0].startswith("1/1023   city in texas  given      -")
    assert main(["feature", "pages", "--html", "all.html"]) == 0
    page = Path("all.html").read_text()
    assert "3/458" in page and "city in texas" in page and "given" in page
    capsys.readouterr()
    assert main(["feature", "pages", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1/1023" in shown and "city in texas" in shown and "given" in shown and "3/458" not in shown
    assert main(["feature", "pages", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["index"], row["label_score"]) for row in rows if row["label_source"] == "given"] == [(1023, None)]


@pytest.mark.parametrize("name", ["3/458", "3_458", "3:458", "L3/458", "L3 feature 458", "3_458_7", "3/458@7"])
def test_a_feature_is_found_by_every_name_that_it_has(name: str, text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({name: "mine"}))
    assert ag.load_labels(tmp_path / "mine.json") == {(3, 458): "mine"}
    assert list(ag.describe_features(ag.load_model("demo"), SENTENCES[-1:], [name])) == ["3/458"]


def test_a_folder_without_pages_is_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, problem in ((tmp_path / "none", "there is no such folder"), (tmp_path, "holds no feature pages")):
        assert main(["feature", str(folder), "3/458"]) == 1
        said = capsys.readouterr().err
        assert problem in said and "attrgraph features" in said and "Errno" not in said and said.count("\n") == 1


def test_labels_go_into_graphs_and_given_names_win(text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"3/458": "says the capital"}')
    assert write(text, tmp_path / "pages", "--labels", str(tmp_path / "mine.json")) == 0
    pages = ag.FeaturePages.load(tmp_path / "pages")
    assert pages.labels == {(1, 1023): "city in texas", (3, 458): "says the capital"}
    assert ag.load_labels(tmp_path / "pages") == pages.labels
    model = ag.load_model("demo")
    assert model.transcoders is not None
    model.transcoders.labels = pages.labels
    nodes = ag.trace(model, SENTENCES[0]).nodes
    (label,) = set(nodes[(nodes["layer"] == 3) & (nodes["feature"] == 458)]["label"])
    assert label == "says the capital"


def test_names_that_are_typed_later_are_saved_beside_what_was_found(text: Path, tmp_path: Path) -> None:
    assert write(text, tmp_path / "pages") == 0
    pages = ag.FeaturePages.load(tmp_path / "pages")
    named = pages.with_labels({(3, 458): 'says <the> "capital"'})
    named.save(tmp_path / "named")
    again = ag.FeaturePages.load(tmp_path / "named")
    assert list(again) == list(pages)
    assert ag.load_labels(tmp_path / "named") == {(1, 1023): "city in texas", (3, 458): 'says <the> "capital"'}
    assert again["3/458"].record == pages["3/458"].record | {"label": 'says <the> "capital"', "label_source": "given"}
    assert again["1/1023"].record == pages["1/1023"].record
    with pytest.raises(ag.AttrGraphError, match="has no page here"):
        pages.with_labels({(3, 459): "x"})


def test_what_is_there_stays_without_force(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(text, tmp_path / "pages") == 0
    before = files_of(tmp_path / "pages")
    assert write(text, tmp_path / "pages") == 1
    assert "--force" in capsys.readouterr().err
    assert write(text, tmp_path / "pages", "--force") == 0
    assert files_of(tmp_path / "pages") == before
    assert write(text, tmp_path / "more", "--graph", "x.json") == 1


@pytest.mark.parametrize("name", ["3", "9/1", "3/99999", "x/1", "3/-1"])
def test_a_feature_that_there_is_not_is_refused(name: str, text: Path, tmp_path: Path) -> None:
    assert main(["features", "demo", "demo", "--text", str(text), "-o", str(tmp_path / "p"), "--features", name]) == 1
