"""The page of a feature, whatever its tokens are."""

import json

import pytest

import attrgraph as ag
from attrgraph.features.pages import FeaturePage

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
    assert "שלום" in shown


def test_html_is_text_and_asks_for_nothing(page: FeaturePage) -> None:
    shown = page._repr_html_()
    assert "<script" not in shown and "\x1b" not in shown and "\u202e" not in shown
    assert "http" not in shown and "$title" in shown


def test_a_feature_that_never_fires_has_a_page() -> None:
    some = [(3, feature) for feature in range(50)]
    pages = ag.describe_features(ag.load_model("demo"), ["in texas the capital is austin"], some, labels={})
    silent = next(page for page in pages.values() if page["n_firings"] == 0)
    assert "no label" in str(silent) and "no label" in silent._repr_html_()
    assert json.dumps(silent.record, allow_nan=False)
    assert (silent["act_max"], silent["histogram"], silent["label"]) == (0.0, [], "")
