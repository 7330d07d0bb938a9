"""What has the wrong type is refused in one line of the package's own, wherever a public function is given it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.errors import AttrGraphError, InterventionError, checked

PROMPT = "in the state containing dallas the capital is"


@pytest.fixture(scope="module")
def model() -> ag.LanguageModel:
    return ag.load_model("demo")


Ask = Callable[[ag.LanguageModel], Any]
WRONG: dict[str, tuple[Ask, str]] = {
    "prepend": (lambda model: ag.trace(model, PROMPT, prepend=None), "prepend is None; expected text"),
    "targets": (
        lambda model: ag.trace(model, PROMPT, targets=1.0),
        "target 1.0 is a float; expected a token's text or id",
    ),
    "flag": (
        lambda model: ag.trace(model, PROMPT, allow_inexact="no"),
        "allow_inexact is 'no'; expected True or False",
    ),
    "a node": (lambda model: ag.intervene(model, PROMPT, "3/458@8"), "interventions is '3/458@8'; expected an Interv"),
    "of a list": (lambda model: ag.intervene(model, PROMPT, ["3/458@8"]), "an element of several is '3/458@8'"),
    "scales": (lambda model: ag.dose_response(model, PROMPT, "3/458@8", scales=0.5), "scales is 0.5; expected a list"),
    "layer": (lambda model: ag.explain_attention(model, PROMPT, True, 0, 8, 5), "layer is True"),
    "upto_layer": (lambda model: intervene(model, upto_layer=2.7), "upto_layer is 2.7; expected a whole number"),
    "upto_layer too": (lambda model: intervene(model, upto_layer=True), "upto_layer is True; expected a whole number"),
    "new tokens": (lambda model: ag.generate(model, PROMPT, max_new_tokens=1.5), "max_new_tokens is 1.5; expected a"),
    "one graph": (lambda _: ag.union(six_nodes()), "graphs is a Graph; expected a list"),
    "no graph": (lambda _: ag.union([1]), "an element of graphs is 1; expected a Graph"),
    "groups": (lambda _: six_nodes().group(None), "groups is None; expected a dictionary"),
    "paths": (lambda _: six_nodes().paths(k=10**30), r"k is 1e\+30; expected at most 1,000,000 paths"),
    "file": (lambda _: ag.load_graph(None), "path is None; expected text or a path"),
    "surrogate": (lambda _: ag.load_graph("\ud800.json"), "without NUL and halves of surrogate pairs"),
    "nul": (lambda _: six_nodes().save("a\0.safetensors"), "path is 'a.x00.safetensors'; expected a path without NUL"),
    "names": (lambda _: ag.name_features(six_nodes(), {"a": 1}), "paths is a dict; expected text or a path"),
    "labels": (lambda _: ag.load_transcoders("demo", labels="a.json"), "labels is 'a.json'; expected a list"),
    "table": (lambda _: ag.read_corpus(None, pd.DataFrame()), "expected"),
    "template": (
        lambda _: ag.load_model("demo", chat_template_kwargs="x=1"),
        "chat_template_kwargs is 'x=1'; expected",
    ),
}


def intervene(model: ag.LanguageModel, **how: Any) -> ag.Effect:
    return ag.intervene(model, PROMPT, ag.Intervention("1_1023_5", scale=0.0), **how)


@pytest.mark.refusal
@pytest.mark.parametrize(("ask", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_type_is_one_line(ask: Ask, message: str, model: ag.LanguageModel) -> None:
    with pytest.raises(AttrGraphError, match=message) as error:
        ask(model)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.refusal
@pytest.mark.parametrize("number", ["abc", 10**400, float("nan"), True])
def test_a_node_is_set_by_a_number(number: Any) -> None:
    with pytest.raises(InterventionError, match="expected a finite number"):
        ag.Intervention("3_458_8", value=number)


def test_what_numpy_and_torch_hold_is_taken() -> None:
    @checked
    def asked(number: float, flag: bool, path: str | Path, several: list[int] | None = None, **more: Any) -> str:
        return f"{number} {flag} {path} {several} {more}"

    assert asked(np.float32(2), np.bool_(True), Path("a"), other=1) == "2.0 True a None {'other': 1}"
    assert asked(torch.tensor(2.0), False, "a").startswith("2.0")
    with pytest.raises(TypeError, match="missing"):
        asked(1.0)


def test_quotations_are_one_line() -> None:
    assert str(AttrGraphError("a\nb")) == r"a\nb"
