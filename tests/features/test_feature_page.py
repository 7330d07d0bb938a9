"""The page of a feature, whatever its tokens are."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.features.pages import FeaturePage, check_folder
from attrgraph.io import feature_records

# tags, a terminal's colours, text from right to left, a byte, nothing, blanks, a very long word
NASTY = [
    "<script>alert(1)</script>",
    "\x1b[31mred",
    "\u202eabc",
    "\\xe6",
    "",
    " ",
    "\n",
    "x" * 3000,
    "&amp;",
    "שלום",
    "$title",
]


CARD = {
    "model": {"id": "<b>m", "digest": None},
    "transcoders": {"id": "t", "digest": "sha256:0123456789"},
    "text": "sha256:9876543210",
    "n_tokens": 6,
    "n_documents": 1,
}


@pytest.fixture(scope="module")
def page() -> FeaturePage:
    record = dict(ag.describe_features(ag.load_model("demo"), ["in texas the capital is austin"], ["3/458"])["3/458"])
    examples = [
        {"tokens": NASTY, "tokens_acts_list": [1.0] * len(NASTY), "train_token_ind": i, "is_repeated_datapoint": False}
        for i in range(len(NASTY))
    ]
    return FeaturePage(
        record
        | {"top_logits": NASTY, "top_logit_values": [1.0] * len(NASTY), "label": NASTY[0] + NASTY[1]}
        | {"examples_quantiles": [{"quantile_name": "Top activations", "examples": examples}]}
    )


def test_text_controls_no_terminal(page: FeaturePage) -> None:
    shown = str(page)
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "שלום" in shown and "[ ]" in shown  # a blank at which it fires


def test_a_repr_controls_no_terminal_either(page: FeaturePage) -> None:
    assert "\x1b" not in repr(FeaturePage(page.record | {"label": "\x1b[31m"}))


def test_html_is_text_and_asks_for_nothing(page: FeaturePage) -> None:
    shown = page._repr_html_()
    assert "<script" not in shown and "\x1b" not in shown and "\u202e" not in shown
    assert "http" not in shown and "$title" in shown


def test_all_features_stand_in_one_file_whose_script_is_its_own(page: FeaturePage, tmp_path: Path) -> None:
    pages = ag.FeaturePages({(3, 458): feature_records.packed(page.record | {"label": "</script><b>x"})}, CARD)
    pages.to_html(tmp_path / "all.html")
    shown = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert "http:" not in shown and "https:" not in shown and "<b>x" not in shown and "3/458" in shown
    assert shown.count("</script>") == 2
    script = shown.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in shown


def test_a_notebook_shows_the_best_of_many_features(page: FeaturePage) -> None:
    measured = {"label_source": "rule"}
    records = [page.record | measured | {"index": i, "label": f"<b>{i}", "label_score": i / 100} for i in range(100)]
    records[5] |= {"label_source": "given", "label_score": 1.0}
    pages = ag.FeaturePages({(3, one["index"]): feature_records.packed(one) for one in records}, CARD)
    shown = pages._repr_html_()
    assert "<td>3/99</td><td>&lt;b&gt;99</td>" in shown and "0.99" in shown and "the best 20 of 100" in shown
    assert "3/79" not in shown and "<b>99" not in shown and "<script" not in shown
    assert len(ag.FeaturePages({}, CARD)._repr_html_()) < 5000


def test_what_was_not_found_by_a_rule_has_no_score(page: FeaturePage) -> None:
    named = {"label": "mine", "label_source": "given", "label_score": 0.9}
    found = page.record | {"index": 1, "label": "says x", "label_source": "rule", "label_score": 0.7, "n_firings": 9}
    nothing = page.record | {"index": 2, "label": "", "label_source": "none", "label_score": 0.99}
    records = [nothing, page.record | named, found]
    table = ag.FeaturePages({(3, one["index"]): feature_records.packed(one) for one in records}, CARD).best()
    assert table["label"].tolist() == ["says x", "mine", ""]
    assert table["label_source"].tolist() == ["rule", "given", "none"]
    assert table["label_score"].isna().tolist() == [False, True, True]


def test_a_page_names_all_tokens_of_its_label(page: FeaturePage) -> None:
    found = page.record | {"label": 'says "a" or "b" or "c" or 1 other', "label_source": "rule", "label_score": 0.9}
    found |= {"label_interval": [0.8, 1.0], "label_precision": 0.9, "label_recall": 0.5, "label_claims": [9, 10]}
    control = {"score": 0.5, "interval": [0.4, 0.6]}
    found["label_controls"] = {"random_label": control, "random_dictionary": control}
    for texts in (["a", "b", "c", " d"], ["a", "b", "c"]):
        found["label_rule"] = {"kind": "says", "values": [1, 2, 3, 4], "texts": texts}
        shown = str(FeaturePage(found))
        assert ('all of its tokens: "a", "b", "c", " d"' in shown) == (len(texts) > 3)


@pytest.mark.refusal
@pytest.mark.parametrize("name", [(1, "*"), (1,), (1, 2, 3), 7, 1.5, "3", None, (True, 1), "³/1"])
def test_what_names_no_feature_is_told_in_one_line(name: object) -> None:
    pages: Any = ag.FeaturePages({}, CARD)
    with pytest.raises(ag.AttrGraphError, match="names no feature; expected layer/feature, such as 3/458"):
        pages[name]
    if isinstance(name, tuple):
        chosen: Any = [name]
        with pytest.raises(ag.AttrGraphError, match="names no feature"):
            ag.describe_features(ag.load_model("demo"), ["in texas"], chosen)


def test_a_page_says_what_it_is_of_and_who_its_neighbours_are(page: FeaturePage) -> None:
    with_neighbour = page.record | {"together": [{"layer": 1, "feature": 9, "weight": 0.5}]}
    records = [with_neighbour, page.record | {"layer": 1, "index": 9, "label": "<i>other"}]
    pages = ag.FeaturePages({(one["layer"], one["index"]): feature_records.packed(one) for one in records}, CARD)
    assert "1/9 <i>other +0.5" in str(pages["3/458"])
    shown = pages["3/458"]._repr_html_()
    assert "1/9 &lt;i&gt;other <small>+0.5" in shown and "&lt;b&gt;m (no digest)" in shown
    for said in (str(pages["3/458"]), shown):
        assert "transcoders t (01234567)" in said and "6 tokens of 1 documents (98765432)" in said
    damaged = ag.FeaturePages(
        {(3, 458): feature_records.packed(page.record)}, {"model": 1, "transcoders": {}, "text": []}
    )
    assert "fires" in str(damaged["3/458"]) and "<b>m" not in damaged._repr_html_()


def test_examples_that_are_shown_already_are_counted_not_repeated(page: FeaturePage) -> None:
    def example(word: str, *, is_again: bool) -> dict[str, Any]:
        return {"tokens": [word], "tokens_acts_list": [1.0], "train_token_ind": 0, "is_repeated_datapoint": is_again}

    top = {"quantile_name": "Top", "examples": [example("zebra", is_again=False), example("zebra", is_again=True)]}
    same = {"quantile_name": "Weak", "examples": [example("zebra", is_again=True)]}
    other = {"quantile_name": "Other", "examples": [example("xyz", is_again=False), example("zebra", is_again=True)]}
    all_same, some = (FeaturePage(page.record | {"examples_quantiles": [top, same, *more]}) for more in ([], [other]))
    for shown in (str(all_same), all_same._repr_html_()):
        assert (
            shown.count("zebra") == 1 and "Weak" not in shown and "drawn from all strengths are shown already" in shown
        )
    for shown in (str(some), some._repr_html_()):
        assert shown.count("zebra") == 1 and shown.count("xyz") == 1 and "from all strengths" not in shown
    assert some._repr_html_().count("and 1 that are shown already") == 2


@pytest.mark.parametrize(
    ("edges", "ends"), [([0.25, 0.3125, 0.375], {"0.25"}), ([1.25, 1.5], {"1.25"}), ([0.75, *range(1, 6)], {"1", "4"})]
)
def test_a_histogram_has_numbers_at_its_axes(page: FeaturePage, edges: list[float], ends: set[str]) -> None:
    heights = [1] * (len(edges) - 2) + [3000]
    shown = FeaturePage(page.record | {"histogram": heights, "histogram_edges": edges})
    assert f"{edges[0]:.3g} " in str(shown) and f" {edges[-1]:.3g}  (highest: 3,000 firings)" in str(shown)
    assert {f">{number}</text>" for number in ends | {"0", "3,000"}} <= set(
        re.findall(r">[^<>]*</text>", shown._repr_html_())
    )


def test_a_feature_that_never_fires_has_a_page() -> None:
    some = [(3, feature) for feature in range(50)]
    pages = ag.describe_features(ag.load_model("demo"), ["in texas the capital is austin"], some, labels={})
    silent = next(page for page in pages.values() if page["n_firings"] == 0)
    assert "no label" in str(silent) and "no label" in silent._repr_html_()
    assert json.dumps(silent.record, allow_nan=False)
    assert (silent["act_max"], silent["histogram"], silent["label"]) == (0.0, [], "")


@pytest.mark.refusal
def test_pages_with_files_of_others_among_them_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    check_folder(tmp_path, overwrite=True)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/one.png").write_text("")
    with pytest.raises(GraphFileError, match=r"something else than feature pages \(figures/one.png\)"):
        check_folder(tmp_path, overwrite=True)
