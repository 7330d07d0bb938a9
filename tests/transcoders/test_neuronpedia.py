"""Names from Neuronpedia: asked for only with `online`, kept, never worth a trace. The server here is a local one."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.transcoders import known_sets, neuronpedia

DALLAS = "in the state containing dallas the capital is"
Answer = Callable[[BaseHTTPRequestHandler, list[dict[str, Any]]], None]


class Server(ThreadingHTTPServer):
    """Answers as `answer` says, and keeps what it was asked."""

    answer: Answer
    asked: list[list[dict[str, Any]]]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        assert self.path == "/api/features"
        self.server.answer(self, body)

    def do_GET(self) -> None:
        raise AssertionError("nothing is fetched from elsewhere")

    def log_message(self, *args: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    with suppress(OSError):  # the client has given up
        handler.wfile.write(content)


def names(handler: BaseHTTPRequestHandler, body: list[dict[str, Any]]) -> None:
    """As Neuronpedia: features in any order, numbers as text, some without an explanation, some not there."""
    records = [
        {**one, "index": str(one["index"]), "explanations": [{"description": f"about\n{one['index']}"}]} for one in body
    ]
    records[0]["explanations"] = []
    send(handler, json.dumps(records[-2::-1]).encode())


def all_names(handler: BaseHTTPRequestHandler, body: list[dict[str, Any]]) -> None:
    records = [{**one, "explanations": [{"description": f"about {one['index']}"}]} for one in body]
    send(handler, json.dumps(records).encode())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), _Handler)
    found.answer, found.asked = names, []
    thread = Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("ATTRGRAPH_NEURONPEDIA", f"http://127.0.0.1:{found.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(known_sets._SETS_THERE, "demo", ("a-model", "a-set"))
    yield found
    found.shutdown()
    found.server_close()


def notes(graph: ag.Graph) -> list[str]:
    return list(graph.metadata.get("notes", []))


def test_names_of_the_pruned_graphs_features_arrive_and_are_kept(server: Server) -> None:
    model = ag.load_model("demo")
    plain = ag.trace(model, DALLAS)
    assert server.asked == []
    kept = plain.prune().nodes
    unnamed = kept[kept["label"].str.fullmatch(r"L\d+ feature \d+")]
    places = list(dict.fromkeys(zip(unnamed["layer"].tolist(), unnamed["feature"].tolist(), strict=True)))

    graph = ag.trace(model, DALLAS, online=True)
    assert [(one["layer"], one["index"]) for one in server.asked[0]] == [(f"{lay}-a-set", f) for lay, f in places]
    assert {one["modelId"] for one in server.asked[0]} == {"a-model"}
    named = {f"{layer}_{feature}": f"about {feature}" for layer, feature in places[1:-1]}
    for node, label in graph.nodes["label"].items():
        expected = named.get(str(node).rsplit("_", 1)[0], plain.nodes.loc[node, "label"])
        assert label == expected
    n, where = len(places), "Neuronpedia (a-model, a-set)"
    assert notes(graph) == [f"names of {n - 2} of {n} features asked for are from {where}"]

    # a second time only for the feature that was not there
    again = ag.name_features(plain, online=True)
    assert again.nodes["label"].equals(graph.nodes["label"])
    assert [one["index"] for one in server.asked[1]] == [places[-1][1]]
    assert len(server.asked) == 2


def test_a_request_asks_for_a_hundred_features(server: Server) -> None:
    server.answer = all_names
    found, problem = neuronpedia.ask({"model": "m", "source_set": "s"}, [(1, i) for i in range(250)] * 2)
    assert sorted(map(len, server.asked)) == [50, 100, 100]
    assert (len(found), problem) == (250, "")


def trickle(handler: BaseHTTPRequestHandler, body: list[dict[str, Any]]) -> None:
    for _ in range(20):
        time.sleep(0.05)
        send(handler, b" ")


BAD: dict[str, tuple[Answer, str]] = {
    "slow": (lambda handler, body: time.sleep(0.6), "TimeoutError: "),
    "trickling": (trickle, ""),
    "500": (lambda handler, body: send(handler, b"", 500), "HTTPError: HTTP Error 500"),
    "garbage": (lambda handler, body: send(handler, b"<html>"), "JSONDecodeError: "),
    "another shape": (lambda handler, body: send(handler, b'{"a": 1}'), "TypeError: "),
    "deep": (lambda handler, body: send(handler, b"[" * 100_000), "RecursionError: "),
    "infinite": (lambda handler, body: send(handler, b'[{"layer": "0-a-set", "index": 1e999}]'), "OverflowError: "),
    "another set": (
        lambda handler, body: send(handler, json.dumps([{**one, "layer": "0-other"} for one in body]).encode()),
        "ValueError: the answer is about a-model, other",
    ),
    "another model": (
        lambda handler, body: send(handler, json.dumps([{**one, "modelId": "b"} for one in body]).encode()),
        "ValueError: the answer is about b, a-set",
    ),
    "objects": (
        lambda handler, body: send(
            handler, json.dumps([{**one, "explanations": [{"description": {"a": 1}}]} for one in body]).encode()
        ),
        "",
    ),
    "huge": (lambda handler, body: send(handler, b" " * 10_000), "HTTPException: the answer has more than"),
    "file": (lambda handler, body: send(handler, b"", 302, Location="file:///etc/passwd"), "HTTPError: "),
    "elsewhere": (lambda handler, body: send(handler, b"", 302, Location="/other"), "HTTPError: "),
}


@pytest.mark.parametrize("kind", BAD)
def test_whatever_a_server_does_the_trace_goes_on_and_one_line_says_it(
    kind: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer, problem = BAD[kind]
    monkeypatch.setattr(neuronpedia, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(neuronpedia, "_MOST_BYTES", 1000 if kind == "huge" else 2**20)
    graph = ag.trace(ag.load_model("demo"), DALLAS, online=True)
    (note,) = notes(graph)
    assert note.startswith("names of 0 of ") and "\n" not in note
    assert note.endswith("(a-model, a-set)") if kind == "objects" else f"(a-model, a-set); {problem}" in note
    assert len(server.asked) <= 1
    assert graph.nodes["label"].equals(ag.trace(ag.load_model("demo"), DALLAS).nodes["label"])


def test_a_server_that_is_not_there_or_no_server_and_a_cache_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, places = {"model": "m", "source_set": "s"}, [(0, 1), (0, 2)]
    for address, problem in (("http://127.0.0.1:9", "URLError: "), ("file:///etc/passwd", "ValueError: ATTRGRAPH_NEU")):
        with monkeypatch.context() as other:
            other.setenv("ATTRGRAPH_NEURONPEDIA", address)
            found, said = neuronpedia.ask(who, places)
        assert found == {} and said.startswith(problem)
    (tmp_path / "cache").write_text("no folder")
    found, said = neuronpedia.ask(who, [*places, (0, 3)])
    assert found == {(0, 2): "about 2"} and said.startswith("they cannot be kept in")


def test_only_sets_that_are_known_there_are_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(known_sets._SETS_THERE, "demo")
    graph = ag.trace(ag.load_model("demo"), DALLAS, online=True)
    told = "Neuronpedia was not asked for names: no pages there are known for the transcoders demo"
    assert (notes(graph), server.asked) == ([told], [])


@pytest.mark.doors
def test_verbs_ask_with_online_only(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, small = str(tmp_path / "g.safetensors"), str(tmp_path / "s.json")
    server.answer = all_names
    assert main(["trace", DALLAS, "-o", graph]) == 0
    assert main(["prune", graph, "-o", small]) == 0
    assert (server.asked, capsys.readouterr().err) == ([], "")
    assert main(["query", small, "label == 'about 458'", "--online"]) == 0
    shown = capsys.readouterr()
    assert "3_458_8" in shown.out and "features asked for are from Neuronpedia (a-model, a-set)" in shown.err
    assert main(["trace", DALLAS, "--online"]) == 0
    assert "note         names of " in capsys.readouterr().out
    (tmp_path / "q.jsonl").write_text(f'{{"prompt": "{DALLAS}", "id": "a"}}\n{{"prompt": "{DALLAS}", "id": "b"}}\n')
    assert main(["trace", "--prompts", str(tmp_path / "q.jsonl"), "-o", str(tmp_path / "graphs"), "--online"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attrgraph: a: names of ")
