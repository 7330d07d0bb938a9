"""What is wrong with a graph file is found and named, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graph_documents import FLAVOURS, attention_document, document

import attrgraph as ag
from attrgraph.io.check import check_document, check_graph_file
from attrgraph.io.document import Document
from attrgraph.io.problems import Problem
from attrgraph.models.language_model import LanguageModel

Change = Callable[[dict[str, Any]], object]


def sound() -> dict[str, Any]:
    """A graph with nothing wrong: every viewer's common ground."""
    content = document("circuit-tracer schema 1, newer error ids")
    for node in content["nodes"]:
        node["jsNodeId"] = node["node_id"]
        node["activation"] = node["activation"] or 0.0
        if node["feature_type"] == "logit":
            del node["influence"]
    return content


def check_content(content: Any) -> list[Problem]:
    return check_document(Document(content, size=2000, constants=[], repeated_keys=[], n_broken=0))


def found(content: Any) -> dict[str, str]:
    return {problem.code: problem.severity for problem in check_content(content)}


def test_a_sound_file_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps(sound()))
    assert check_graph_file(tmp_path / "g.json") == []


def test_what_is_traced_here_has_no_problems_but_nulls(
    traced_model: Callable[..., LanguageModel], prompt: list[int], tmp_path: Path
) -> None:
    graph = ag.trace(traced_model(), prompt).prune()
    for profile in ("neuronpedia", "anthropic", "circuit-tracer"):
        graph.to_json(tmp_path / f"{profile}.json", profile)
        codes = {problem.code for problem in check_graph_file(tmp_path / f"{profile}.json")}
        assert codes <= ({"null", "duplicate-js-id"} if profile == "circuit-tracer" else {"null"})
    graph.save(tmp_path / "g.safetensors")
    assert check_graph_file(tmp_path / "g.safetensors") == []


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_other_tools_files_have_no_errors(flavour: str) -> None:
    assert "error" not in found(document(flavour)).values()


def test_attention_features_are_only_mentioned() -> None:
    # layers as numbers, empty qParams, a feature of an MLP in the layer of the attention feature that it reads
    assert found(attention_document()) == {
        "attention-types": "warning",
        "layer-type": "note",
        "null": "note",
        "params-keys": "note",
    }


@pytest.mark.parametrize(
    ("change", "code", "severity", "breaks"),
    [
        (lambda d: d["links"][0].update(source="x"), "dangling-link", "error", "Neuronpedia"),
        (lambda d: d["nodes"][0].update(node_id="1_40_2"), "duplicate-node-id", "error", "Neuronpedia"),
        (lambda d: d["nodes"][0].update(jsNodeId="1_40_2"), "duplicate-js-id", "warning", "Anthropic's viewer"),
        (lambda d: d["links"].append(d["links"][0]), "duplicate-link", "warning", "networkx"),
        (lambda d: d["links"][0].update(source="4_900_3"), "layer-order", "error", "attrgraph"),
        (lambda d: d["links"][1].update(source="1_40_3"), "same-layer", "warning", None),
        (lambda d: d["links"][0].update(source="0_7_1"), "cycle", "error", "attrgraph"),
        (lambda d: d["nodes"][4].pop("influence"), "no-influence", "warning", "circuit-tracer's viewer"),
        (lambda d: d["nodes"][4].update(influence=2.5), "influence-share", "warning", "Neuronpedia"),
        (lambda d: d["nodes"][10].update(clerp="Austin"), "logit-label", "error", "circuit-tracer's viewer"),
        (lambda d: d.pop("qParams"), "params-missing", "warning", "circuit-tracer's viewer"),
        (lambda d: d["qParams"].pop("sg_pos"), "params-keys", "note", None),
        (lambda d: d["qParams"].update(pinnedIds="1_40_2"), "params-text", "note", None),
        (lambda d: d["qParams"].update(pinnedIds=7), "params-type", "warning", "Neuronpedia"),
        (lambda d: d["qParams"].update(clerps="[]"), "params-clerps", "warning", "Neuronpedia"),
        (lambda d: d["qParams"].update(clerps=[]), "params-clerps", "warning", "circuit-tracer's viewer"),
        (lambda d: d["qParams"].update(clickedId="x"), "params-ids", "warning", "Neuronpedia"),
        (lambda d: d["metadata"].update(slug="a b"), "slug-characters", "warning", "Neuronpedia"),
        (lambda d: d["metadata"].update(scan="a/b"), "scan-characters", "warning", "Neuronpedia"),
        (lambda d: d["metadata"].update(schema_version=2), "schema-version", "warning", "Neuronpedia"),
        (lambda d: d["metadata"].update(node_threshold=80), "node-threshold", "warning", "circuit-tracer's viewer"),
        (lambda d: d["metadata"].pop("slug"), "metadata-missing", "error", "Neuronpedia"),
        (lambda d: d["metadata"].update(prompt_tokens="a b"), "prompt-tokens", "error", "attrgraph"),
        (lambda d: d["nodes"][4].update(feature_type="sae"), "unknown-types", "warning", "Neuronpedia"),
        (
            lambda d: d["nodes"][4].update(feature_type="lorsa error"),
            "attention-types",
            "warning",
            "Anthropic's viewer",
        ),
        (lambda d: d["links"][0].update(weight="1"), "link-weight", "error", "attrgraph"),
        (lambda d: d["links"][0].update(weight=1e300), "link-weight", "error", "attrgraph"),
        (lambda d: d["links"][0].update(weight=0), "zero-link", "note", None),
        (lambda d: d["links"][0].pop("target"), "link-shape", "error", "attrgraph"),
        (lambda d: d["links"].append(3), "link-shape", "error", "attrgraph"),
        (lambda d: d["nodes"].append("x"), "node-shape", "error", "attrgraph"),
        (lambda d: d["nodes"].append({"node_id": 3}), "node-shape", "error", "attrgraph"),
        (lambda d: d["nodes"][4].pop("clerp"), "node-keys", "error", "Neuronpedia"),
        (lambda d: d["nodes"][4].update(jsNodeId=3), "node-types", "error", "Neuronpedia"),
        (lambda d: d["nodes"][4].update(ctx_idx=17), "position", "error", "attrgraph"),
        (lambda d: d["nodes"][4].update(layer="top"), "layer", "error", "attrgraph"),
        (lambda d: d["nodes"][4].update(layer=0), "layer-type", "note", None),
        (lambda d: d["nodes"][4].update(activation=None), "null", "note", "networkx's GraphML, GEXF and GML writers"),
        (lambda d: d["nodes"][4].update(activation="x"), "number", "error", "attrgraph"),
        (lambda d: d["nodes"][4].update(token_prob=1.5), "probability", "error", "attrgraph"),
        (lambda d: d["nodes"][0].update(feature=8), "schema-id", "warning", "circuit-tracer's viewer"),
        (lambda d: d["nodes"][0].update(feature=-1), "feature-number", "warning", "Neuronpedia"),
    ],
)
def test_each_fault_is_found_alone(change: Change, code: str, severity: str, breaks: str | None) -> None:
    content = sound()
    change(content)
    problems = {problem.code: problem for problem in check_content(content)}
    assert problems[code].severity == severity
    assert breaks in problems[code].breaks if breaks else problems[code].breaks == ()
    # what follows from the fault, where something must
    followed = {
        "duplicate-node-id": {"dangling-link", "schema-id"},
        "cycle": {"same-layer"},
        "node-shape": set(),
        "prompt-tokens": set(),
    }
    assert set(problems) - {code} <= followed.get(code, set())


def test_messages_count_and_give_the_first_examples() -> None:
    content = sound()
    for link in content["links"][:5]:
        link["target"] = "nowhere"
    (problem,) = check_content(content)
    assert problem.message.startswith("5 links from or to a node that is not in the file: ")
    assert problem.message.endswith("E_101_1 -> nowhere, E_102_2 -> nowhere, 0_7_1 -> nowhere, ...")


def test_no_feature_above_layer_0_and_no_logit_are_found() -> None:
    content = sound()
    content["nodes"] = [node for node in content["nodes"] if node["layer"] in ("0", "E")]
    content["links"] = content["links"][:1]
    content["qParams"] |= {"pinnedIds": [], "supernodes": [], "clickedId": ""}
    assert found(content) == {"no-feature-above-0": "warning", "no-logit": "error"}


def test_numbers_that_a_browser_rounds_are_found() -> None:
    content = sound()
    content["metadata"]["schema_version"] = 0
    content["nodes"][0]["feature"] = 2**53 + 1
    assert found(content) == {"large-number": "warning"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "unreadable"),
        ('{"a": 1, "a": 2}', "repeated-key"),
        ('{"a": Infinity}', "not-a-number"),
        ('{"a": "\\ud83d"}', "broken-text"),
        ("[]", "shape"),
        ("[]", "file-size"),
    ],
)
def test_faults_of_the_file_itself_are_found(text: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(text)
    assert code in {problem.code for problem in check_graph_file(tmp_path / "g.json")}
    assert check_graph_file(tmp_path)[0].message == "is a folder; give a file name."
    assert check_graph_file(tmp_path / "none.json")[0].message == "no such file."


def test_errors_come_first_and_loading_keeps_the_problems(tmp_path: Path) -> None:
    content = sound()
    content["links"].append({"source": "x", "target": "y", "weight": 1.0})
    content["metadata"]["scan"] = "a/b"
    content["nodes"][4]["activation"] = None
    problems = check_content(content)
    assert [problem.severity for problem in problems] == ["error", "warning", "note"]
    (tmp_path / "g.json").write_text(json.dumps(content))
    kept = ag.load_graph(tmp_path / "g.json").metadata["problems"]
    assert [problem["code"] for problem in kept] == ["dangling-link", "scan-characters", "null"]
