"""What the server answers is what the library says."""

import json
from pathlib import Path

import pytest
from sites import PROMPT, answer
from starlette.testclient import TestClient

import attrgraph as ag
from attrgraph.serve.app import Site
from attrgraph.serve.shelf import Shelf
from attrgraph.serve.worker import Worker


def traced(client: TestClient, **asked: object) -> str:
    name = answer(client.post("/trace", json={"prompt": PROMPT, "targets": [], **asked}))["result"]["graph"]
    return str(name)


def test_a_trace_is_that_of_the_library(client: TestClient, site: Site) -> None:
    ours = site.shelf.graph(traced(client, targets=["austin", "the"], max_feature_nodes=40))
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
    nodes = site.shelf.graph(name).nodes
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


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"graph": "7", "changes": ["3/0@4=2"]}, "there is no graph of this name"),
        ({"graph": "1", "changes": ["3/0@4"]}, "sets nothing"),
        ({"graph": "1", "changes": []}, "nothing is set"),
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
    assert shelf.graph(names[1]).nodes.equals(graph.nodes)


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
