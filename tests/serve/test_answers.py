"""What the server answers is what the library says."""

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sites import PROMPT, answer
from starlette.testclient import TestClient

import attrgraph as ag
from attrgraph.errors import FeatureError, GraphFileError
from attrgraph.serve.app import Site
from attrgraph.serve.graph_page import graph_page
from attrgraph.serve.shelf import Shelf
from attrgraph.serve.worker import Worker


def about(page: str) -> dict[str, object]:
    packed = page.split('id="about">')[1].split("<")[0]
    content = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert isinstance(content, dict)
    return content


def traced(client: TestClient, **asked: object) -> str:
    name = answer(client.post("/trace", json={"prompt": PROMPT, "targets": [], **asked}))["result"]["graph"]
    return str(name)


def test_a_trace_is_that_of_the_library(client: TestClient, site: Site) -> None:
    ours = site.shelf.find(traced(client, targets=["austin", "the"], max_feature_nodes=40)).load()
    theirs = ag.trace(site.model, PROMPT, targets=["austin", "the"], max_feature_nodes=40)
    assert ours.nodes.equals(theirs.nodes) and (ours.adjacency != theirs.adjacency).nnz == 0
    assert ours.metadata == theirs.metadata


def test_progress_arrives_before_the_answer(client: TestClient) -> None:
    lines = client.post("/trace", json={"prompt": PROMPT, "targets": []}).text.splitlines()
    told = [json.loads(line) for line in lines]
    assert len(told) > 1 and set(told[0]) == {"ahead", "phase", "done", "total"} and "result" in told[-1]


@pytest.mark.parametrize("mode", ["frozen", "frozen-attention", "constrained", "free"])
def test_an_intervention_has_the_numbers_of_the_library(client: TestClient, site: Site, mode: str) -> None:
    name = traced(client)
    nodes = site.shelf.find(name).load().nodes
    best = nodes[nodes["kind"] == "feature"].sort_values("influence").index[-1]
    token = nodes.index[nodes["kind"] == "embedding"][1]
    changes = [f"{best}*-1", f"{token}*0"]
    new_tokens = 2 if mode in ("constrained", "free") else 0
    body = {"graph": name, "changes": changes, "mode": mode, "new_tokens": new_tokens}
    found = answer(client.post("/intervene", json=body))["result"]
    sets = [ag.Intervention(best, scale=-1.0), ag.Intervention(token, scale=0.0)]
    effect = ag.intervene(site.model, PROMPT, sets, mode=mode)
    assert found["kl"] == effect.kl and found["is_flipped"] == effect.is_flipped
    assert found["top_after"] == [list(each) for each in effect.top_after]
    row = found["answers"][0]
    at = int(nodes.loc[row["node_id"], "feature"])
    assert row["before"] == pytest.approx(float(effect.logits_before.double().softmax(-1)[at]))
    assert row["after"] == pytest.approx(float(effect.logits_after.double().softmax(-1)[at]))
    change = effect.uncapped_change.double()
    assert row["measured"] == pytest.approx(float(change[at] - change.mean()))
    if mode == "frozen":  # where what edges predict is exact
        assert row["predicted"] == pytest.approx(row["measured"], rel=1e-3)
    if new_tokens:
        how = {"max_new_tokens": new_tokens, "mode": mode}
        assert found["texts"] == {
            "unchanged": ag.generate(site.model, PROMPT, **how).text,
            "changed": ag.generate(site.model, PROMPT, sets, **how).text,
        }


def test_what_the_graph_lacks_is_said(client: TestClient) -> None:
    name = traced(client)
    found = answer(client.post("/intervene", json={"graph": name, "changes": ["3/0@4=2"]}))["result"]
    assert found["notes"] == ["1 of the nodes that are set are not in the graph, and not in the prediction"]
    assert found["answers"][0]["predicted"] == 0.0
    changes = ["head:2.0@4*0", "attn:1*2"]
    found = answer(client.post("/intervene", json={"graph": name, "changes": changes}))["result"]
    assert found["notes"] == ["2 of the nodes that are set are not in the graph, and not in the prediction"]
    assert found["answers"][0]["predicted"] == 0.0 and found["kl"] > 0


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"graph": "7", "changes": ["3/0@4=2"]}, "there is no graph of this name"),
        ({"graph": "1", "changes": ["3/0@4"]}, "sets nothing"),
        ({"graph": "1", "changes": []}, "nothing is set"),
        ({"graph": "1", "changes": ["attn:1=mean:/etc/passwd"]}, "sets nothing"),
        ({"graph": "1", "changes": ["3/0@400=2"]}, "not in this prompt's run"),
        ({"graph": "1", "changes": ["3/0@4=2"], "mode": "wild"}, "expected one of frozen"),
        ({"graph": "1", "changes": ["3/0@4=2"], "mode": "frozen", "new_tokens": 2}, "constrained or free"),
        ({"graph": "1", "changes": ["3/0@4=2"], "new_tokens": 10**6}, "expected at most 200"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(client: TestClient, body: dict[str, object], why: str) -> None:
    assert traced(client) == "1"
    response = client.post("/intervene", json=body)
    told = response.text if response.status_code == 400 else json.loads(response.text.splitlines()[-1])["error"]
    assert why in told and len(told.splitlines()) == 1


def test_a_graph_of_another_model_is_not_measured(client: TestClient, site: Site, tmp_path: Path) -> None:
    graph = ag.trace(site.model, PROMPT)
    graph.metadata["model"]["digest"] = "sha256:0"
    graph.save(tmp_path / "other.safetensors")
    told = answer(client.post("/intervene", json={"graph": "other.safetensors", "changes": ["3/0@4=2"]}))
    assert "its digest is" in told["error"]


def test_a_bug_is_told_without_its_traceback(client: TestClient, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    graph = ag.trace(site.model, PROMPT)
    site.shelf.add(graph)
    graph.metadata["token_ids"] = object()
    told = answer(client.post("/intervene", json={"graph": "1", "changes": ["3/0@4=2"]}))
    assert "Traceback" not in told["error"] and len(told["error"].splitlines()) == 1


def test_only_with_write_are_graphs_saved(demo: ag.LanguageModel, tmp_path: Path) -> None:
    graph = ag.trace(demo, PROMPT)
    assert Shelf(tmp_path).add(graph) == "1" and list(tmp_path.iterdir()) == []
    shelf = Shelf(tmp_path, is_written=True)
    names = [shelf.add(graph), shelf.add(graph)]
    assert names == ["in-texas-the-capital-is.safetensors", "in-texas-the-capital-is-2.safetensors"]
    assert shelf.find(names[1]).load().nodes.equals(graph.nodes)
    shutil.rmtree(tmp_path)
    with pytest.raises(GraphFileError, match=r"is in memory only \(as graph 1\): in-texas"):
        shelf.add(graph)
    assert shelf.find("1").load() is graph


def test_a_job_ends_at_the_time_limit(demo: ag.LanguageModel) -> None:
    worker = Worker(0.05)

    def work(progress: ag.progress.Progress) -> None:
        while True:
            progress("work", 0, 1)

    job = worker.add(work)
    while job.answer is None:
        pass
    assert "the time limit of this server" in job.answer["error"]
    assert worker.add(lambda _: 1) is not None


def test_pages_of_features_are_shown_with_graphs(demo: ag.LanguageModel, tmp_path: Path) -> None:
    ag.describe_features(demo, [f"{PROMPT} austin"], ["3/458"]).save(tmp_path / "pages")
    site = Site(demo, Shelf(), Worker(60), tmp_path / "pages")
    name = site.shelf.add(ag.trace(demo, PROMPT))
    found = site.shelf.find(name)
    page, _ = graph_page(site.shelf, name, found, site.features)
    bare, _ = graph_page(site.shelf, name, found, None)
    assert len(page) > len(bare) + 100
    with pytest.raises(FeatureError, match="no folder of feature pages"):
        Site(demo, Shelf(), Worker(60), tmp_path)
    card = json.loads((tmp_path / "pages" / "card.json").read_text())
    card["transcoders"]["digest"] = "sha256:1"
    (tmp_path / "pages" / "card.json").write_text(json.dumps(card))
    with pytest.raises(FeatureError, match="the model's are"):
        Site(demo, Shelf(), Worker(60), tmp_path / "pages")
    assert len(graph_page(site.shelf, name, found, site.features)[0]) == len(bare)  # as a graph of other transcoders


def test_a_validation_is_that_of_the_library(client: TestClient, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name, asked = traced(client), list[object]()
    graph = site.shelf.find(name).load()
    node = str(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    report = {"verdict": [], "tables": {"nodes": [{"node_id": node, "predicted_free": 1.5, "measured_free": 2.0}]}}

    def validate(model: object, graph: object, *, progress: Callable[[str, int, int], None], **sizes: int) -> object:
        asked.extend([model, graph, sizes])
        progress("take out", 1, 2)
        return SimpleNamespace(to_dict=lambda: report)

    monkeypatch.setattr("attrgraph.serve.app.validate", validate)  # which takes a quarter of a minute
    measured = {node: {"free": {"predicted": 1.5, "measured": 2.0}}}
    found = answer(client.post("/validate", json={"graph": name, "n_nodes": 5}))
    assert found == {"result": {**report, "measured": measured}}
    assert asked == [site.model, graph, {"n_nodes": 5, "n_controls": 5}]
    # whoever opens the page later sees what was measured
    page = str(graph.explore(validation=site.shelf.validations[graph]))
    assert about(page)["measured"] == about(client.get(f"/graph/{name}").text)["measured"] == measured


def test_a_faulty_line_of_prompts_says_why_and_not_where_the_folder_is(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n[1]\n")
    (file,) = client.get("/list").json()["prompts"]
    assert file["error"].startswith("some.jsonl, line 2: expected an object") and len(file["prompts"]) == 1
