"""Graphs whose targets lie anywhere: files, pictures, comparison, heads, validation and the command line take them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explored import explored

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import AttrGraphError, TargetError
from attrgraph.serve.experiments import experiment

PROMPT = "in the state containing dallas the capital is"
COLUMNS = ["kind", "layer", "pos", "feature", "token", "probability", "label"]


@pytest.fixture(scope="module")
def model() -> ag.LanguageModel:
    return ag.load_model("demo")


@pytest.fixture(scope="module")
def graph(model: ag.LanguageModel) -> ag.Graph:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    directions = [ag.Direction(vector, layer=2, pos=-2), ag.Direction(-vector, layer=0, pos=4)]
    differences = [ag.At(-3, ag.LogitDifference("austin", "springfield"))]
    tokens = ["austin", ag.At(-2, "is"), ag.At(5, "austin")]
    return ag.trace(model, PROMPT, targets=[*tokens, *differences, *directions, ag.FeatureTarget(2, 5, 6)])


def targets_of(graph: ag.Graph) -> Any:
    return graph.nodes[graph.nodes["kind"] == "logit"].sort_index()[COLUMNS]


@pytest.mark.parametrize("profile", ["neuronpedia", "circuit-tracer", "anthropic"])
def test_files_keep_where_targets_are_read(profile: str, graph: ag.Graph, tmp_path: Path) -> None:
    pruned, file = graph.prune(), tmp_path / "graph.json"
    pruned.to_json(file, profile=profile)
    again = ag.load_graph(file)
    assert targets_of(again).equals(targets_of(pruned)) and len(targets_of(graph)) == 7
    names = pruned.nodes.index
    at = again.nodes.index.get_indexer(names)
    np.testing.assert_allclose(again.adjacency.toarray()[np.ix_(at, at)], pruned.adjacency.toarray(), rtol=1e-6)
    # to other readers all targets stand in one layer, the highest, and in their own columns
    nodes = [node for node in json.loads(file.read_text())["nodes"] if node["feature_type"] == "logit"]
    assert {node["layer"] for node in nodes} == {str(graph.n_layers + 1)}
    assert sorted(node["ctx_idx"] for node in nodes) == sorted(targets_of(graph)["pos"])
    assert len({node["jsNodeId"] for node in nodes}) == len({node["node_id"] for node in nodes}) == 7
    assert not [one for one in ag.check_graph_file(file) if one.severity == "error"]


def test_the_native_file_keeps_them_too(graph: ag.Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "graph.safetensors")
    again = ag.load_graph(tmp_path / "graph.safetensors")
    assert again.nodes.equals(graph.nodes) and again.metadata == graph.metadata


def test_the_explorer_and_pictures_show_them(browser: Any, graph: ag.Graph, tmp_path: Path) -> None:
    assert graph.prune().to_dot()
    with explored(browser, graph, tmp_path) as page:
        names = page.role("list", "Answers").get_by_role("listitem").all_inner_texts()
        assert len(names) == 7 and any("L2 feature 5" in name for name in names)
        for node in targets_of(graph).itertuples():
            page.select(str(node.Index))
            # pruning keeps what leads to an improbable token as little as its probability is
            assert (len(page.edges("Inputs")) > 0) == (node.probability > 0.01)
            assert f"at position {node.pos}" in page.role("region", "Node").inner_text()
        page.role("slider", "Node threshold").fill("0.7")
        assert page.n_nodes == len(graph.prune(0.7).nodes)
        assert {n["node_id"] for n in page.saved()["nodes"]} >= set(targets_of(graph).index)


def test_one_token_at_two_positions_is_compared_with_itself(graph: ag.Graph, model: ag.LanguageModel) -> None:
    same = ag.diff(graph, graph)
    assert set(same.nodes["status"]) == {"common"} and not same.nodes["influence_delta"].any()
    assert int((same.nodes["kind"] == "logit").sum()) == 7
    both = ag.union([graph, graph])
    assert targets_of(both)["pos"].tolist() == targets_of(graph)["pos"].tolist()
    longer = ag.trace(model, f"the {PROMPT}", targets=["austin", ag.At(-2, "is")])
    shorter = ag.trace(model, PROMPT, targets=["austin", ag.At(-2, "is")])
    nodes = ag.diff(longer, shorter).nodes
    assert nodes.loc[nodes["kind"] == "logit", "status"].tolist() == ["common"] * 2


def test_heads_split_edges_into_targets_anywhere(graph: ag.Graph, model: ag.LanguageModel) -> None:
    targets = targets_of(graph)
    for target in targets[~targets["token"].str.contains("direction")].itertuples():
        row = graph.adjacency[[graph.nodes.index.get_loc(target.Index)]].toarray()[0]
        is_source = graph.nodes["kind"].isin(["feature", "embedding", "error"]).to_numpy()
        source = graph.nodes.index[int(np.argmax(abs(row) * is_source))]
        loadings = ag.head_loadings(graph, source, str(target.Index), model=model)
        assert len(loadings) or graph.nodes.loc[source, "layer"] == target.layer - 1
        for total in loadings.groupby("layer")["effect"].sum():
            assert total == pytest.approx(row[graph.nodes.index.get_loc(source)], rel=1e-4)


@pytest.mark.refusal
def test_what_a_graph_does_not_keep_is_refused(graph: ag.Graph, model: ag.LanguageModel) -> None:
    words = graph.nodes[graph.nodes["kind"] == "embedding"]
    for target in targets_of(graph).query("token.str.contains('direction')").itertuples():
        with pytest.raises(TargetError, match="does not keep the vectors of directions"):
            ag.head_loadings(graph, words.index[3], target.Index, model=model)
    with pytest.raises(AttrGraphError, match="explains a direction, a difference or a feature; only graphs of tokens"):
        ag.validate(model, graph)
    earlier = ag.trace(model, PROMPT, targets=["austin", ag.At(-2, "is")])
    with pytest.raises(
        AttrGraphError, match=r"which is read before the prompt's end; .* graph of the prompt up to that"
    ):
        ag.validate(model, earlier)
    answer = ag.trace(model, PROMPT, targets="austin springfield")
    with pytest.raises(AttrGraphError, match="which is read before the prompt's end"):
        ag.validate(model, answer)


def test_experiments_measure_targets_after_the_prompts_end(graph: ag.Graph, model: ag.LanguageModel) -> None:
    node = graph.nodes[graph.nodes["kind"] == "feature"].nlargest(1, "influence").index[0]
    found = experiment(model, graph, [ag.Intervention(node, scale=0)], mode="frozen", progress=lambda *_: None)
    (only,) = found.answers.itertuples()
    assert only.token == "austin" and only.predicted == pytest.approx(only.measured, abs=1e-4)


def test_the_command_line_names_answers_positions_and_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: ag.LanguageModel
) -> None:
    def logits(*arguments: str) -> list[tuple[str, int, str]]:
        assert main(["trace", PROMPT, "--json", "--max-feature-nodes", "50", *arguments]) == 0
        return [(x["token"], x["pos"], x["node_id"]) for x in json.loads(capsys.readouterr().out)["logits"]]

    assert logits("--target", "austin springfield") == [("austin", 8, "5_45_8"), ("springfield", 9, "5_557_9")]
    assert logits("--at", "-2", "--target", "is", "--target", "austin") == [
        ("is", 7, "5_297_7"),
        ("austin", 7, "5_45_7"),
    ]
    assert logits("--at", "-2")[0] == ("is", 7, "5_297_7")
    (one,) = logits("--at", "3", "--target", "austin", "--minus", "springfield")
    assert one[:2] == ("austin - springfield", 3)
    assert logits("--feature", "2/5@6") == [("L2 feature 5", 6, f"5_{model.d_vocab}_6")]
    assert [one[0] for one in logits("--feature", "2_5_6", "--target", "austin")] == ["L2 feature 5", "austin"]
    file = tmp_path / "graph.json"
    assert main(["trace", PROMPT, "--target", "austin springfield", "-o", str(file)]) == 0
    said = capsys.readouterr().out
    assert "is austin → springfield" in said and "austin @8 0.991  springfield" in said
    assert "'austin' was put after the prompt" in said
    assert main(["info", str(file)]) == 0
    assert "austin @8 0.991  springfield" in capsys.readouterr().out
    assert ag.load_graph(file).metadata["answer"]["tokens"] == ["austin", "springfield"]
    (tmp_path / "prompts.jsonl").write_text(
        json.dumps({"prompt": "in the state", "id": "a", "target": "containing dallas"})
    )
    assert main(["trace", "--prompts", str(tmp_path / "prompts.jsonl"), "-o", str(tmp_path / "graphs")]) == 0
    assert "containing dallas" in capsys.readouterr().out
    answer = ag.load_graph(tmp_path / "graphs" / "a.safetensors").metadata["answer"]
    assert answer["appended"] == "containing" and answer["text"] == "containing dallas"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--at", "9"], "a target's position is 9"),
        (["--at", "2", "--target", "austin springfield"], "is not one token but 2"),
        (["--target", "austin springfield", "--target", "austin"], "As the only target"),
        (["--target", "austin", "--minus", "austin springfield"], "is not one token but 2"),
        (["--feature", "austin"], "--feature is 'austin'; expected layer, feature and position, such as 3/458@8"),
        (["--feature", "9/1@2"], "target 9/1: 4 layers"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", PROMPT, *arguments]) == 1
    said = capsys.readouterr().err
    assert why in said and len(said.strip().split("\n")) == 1
