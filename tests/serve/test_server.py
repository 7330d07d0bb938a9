"""A server on a real port: many at once, clients that leave, bodies that never end, Ctrl-C."""

import json
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sites import PROMPT, HeldSite, answer

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.serve.app import Site
from attrgraph.serve.listen import listening
from attrgraph.serve.shelf import Shelf
from attrgraph.serve.worker import Worker


@pytest.fixture
def held(demo: ag.LanguageModel) -> HeldSite:
    return HeldSite(demo, Shelf(), Worker(60))


def asker(address: str) -> httpx2.Client:
    parts = urlsplit(address)
    return httpx2.Client(
        base_url=f"http://{parts.netloc}",
        headers={"Authorization": f"Bearer {parts.query.removeprefix('token=')}"},
        timeout=30,
        limits=httpx2.Limits(max_connections=100),
    )


def raw(address: str, what: str, *headers: str) -> socket.socket:
    """A connection on which a request has been sent."""
    parts = urlsplit(address)
    sent = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10)
    token = parts.query.removeprefix("token=")
    lines = [f"POST {what} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {token}", *headers]
    sent.sendall("\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode())
    return sent


def until(what: object) -> None:
    """Wait until it is so."""
    end = monotonic() + 10
    while not what():  # type: ignore[operator]
        assert monotonic() < end
        sleep(0.01)


def test_a_real_server_traces(site: Site) -> None:
    with listening(site) as (address, _), asker(address) as client:
        assert client.get("/").status_code == 200
        found = answer(client.post("/trace", json={"prompt": PROMPT, "targets": []}))
        assert client.get(f"/graph/{found['result']['graph']}").status_code == 200


def test_many_at_once_wait_their_turn_and_too_many_are_refused(held: HeldSite) -> None:
    with listening(held) as (address, _), asker(address) as client, ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(client.post, "/trace", json={}) for _ in range(40)]
        until(lambda: sum(one.done() for one in asked) == 7)
        assert {one.result().status_code for one in asked if one.done()} == {503}
        held.may_end.set()
        told = [one.result() for one in asked]
        assert [answer(one) for one in told if one.status_code == 200] == [{"result": "done"}] * 33
        ahead = {json.loads(one.text.splitlines()[0])["ahead"] for one in told if one.status_code == 200}
        assert max(ahead) > 20


def test_who_leaves_gives_up_a_place_in_the_queue_or_the_work(held: HeldSite) -> None:
    with listening(held) as (address, _), asker(address) as client, ThreadPoolExecutor(1) as pool:
        running = raw(address, "/trace", "Content-Length: 0")
        until(lambda: running.recv(4096).count(b'"hold"'))
        waiting = raw(address, "/trace", "Content-Length: 0")
        until(lambda: held.worker.n_waiting == 1)
        waiting.close()
        until(lambda: held.worker.n_waiting == 0)
        last = pool.submit(client.post, "/trace", json={})
        until(lambda: held.worker.n_waiting == 1)
        running.close()
        until(lambda: held.worker.n_waiting == 0)
        held.may_end.set()
        assert answer(last.result()) == {"result": "done"}


def test_a_huge_body_is_refused_before_it_is_sent_or_while(held: HeldSite) -> None:
    with listening(held) as (address, _), asker(address) as client:
        for path in ("/graph/../../../etc/passwd", "/graph/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"):
            with raw(address, path, "Content-Length: 0") as sent:
                assert re.match(rb"HTTP/1.1 40[45]", sent.recv(64))
        with raw(address, "/trace", "Content-Length: 50000000") as sent:
            assert sent.recv(64).startswith(b"HTTP/1.1 413")
        huge = b" " * 50_000_000
        kind = {"Content-Type": "application/json"}
        assert client.post("/trace", content=huge, headers=kind).status_code == 413
        assert client.post("/trace", content=iter([huge[:70_000]] * 100), headers=kind).status_code == 413
        assert client.get("/list").status_code == 200 and held.worker.n_waiting == 0


def test_connections_that_ask_nothing_and_bodies_that_do_not_come_are_ended(
    held: HeldSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrgraph.serve.listen._REQUEST_S", 0.2)
    monkeypatch.setattr("attrgraph.serve.security._BODY_S", 0.2)
    with listening(held) as (address, _), asker(address) as client:
        parts = urlsplit(address)
        idle = [socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) for _ in range(210)]
        for one in idle[::2]:
            one.sendall(b"GET /li")
        assert client.get("/list").status_code == 503
        assert {one.recv(64) for one in idle} == {b""}
        with raw(address, "/trace", "Content-Length: 100") as slow:
            slow.sendall(b"{")
            assert slow.recv(64).startswith(b"HTTP/1.1 408")
        assert client.get("/list").status_code == 200
        for one in idle:
            one.close()


def test_pages_wait_for_each_other_and_end_at_the_time_limit(
    demo: ag.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, limited = Event(), Site(demo, Shelf(), Worker(0.3))
    name = limited.shelf.add(ag.trace(demo, PROMPT))
    explore = ag.Graph.explore

    def slow(graph: ag.Graph, **how: Any) -> str:
        assert may_end.wait(10)
        return explore(graph, **how)

    monkeypatch.setattr(ag.Graph, "explore", slow)
    with listening(limited) as (address, _), asker(address) as client, ThreadPoolExecutor(40) as pool:
        response = client.get(f"/graph/{name}")
        assert response.status_code == 400 and "the time limit of this server" in response.text
        asked = [pool.submit(client.get, f"/graph/{name}") for _ in range(40)]  # the first one is still being made
        until(lambda: sum(one.done() for one in asked) == 8)
        assert {one.result().status_code for one in asked if one.done()} == {503}
        assert client.get("/list").status_code == 200
        monkeypatch.setattr(limited.pages, "limit_s", 60.0)
        may_end.set()
        assert [one.result().status_code for one in asked].count(200) == 32


@pytest.mark.doors
def test_the_command_prints_the_address_and_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def visit(address: str) -> None:
        found.append(httpx2.get(address).status_code)
        os.kill(os.getpid(), signal.SIGINT)

    def print_text(address: str) -> None:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        Thread(target=visit, args=[address]).start()

    monkeypatch.setattr("attrgraph.cli.serve.print_text", print_text)
    assert main(["serve", "demo", "--port", "0", "--graphs", str(tmp_path)]) == 130
    said = capsys.readouterr().err.splitlines()
    assert found == [200] and len(said) == 2 and said[1].startswith("attrgraph: stopped")


@pytest.mark.doors
@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--write"], 2, "--write needs --graphs"),
        (["--graphs", "nowhere"], 1, "--graphs nowhere: is no folder"),
        (["--host", "0.0.0.0"], 2, "No such option"),
        (["--port", "70000"], 2, "65535"),
    ],
)
def test_what_cannot_be_served_is_said(
    arguments: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == code
    assert why in capsys.readouterr().err


@pytest.mark.doors
def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"port {port} cannot be had" in capsys.readouterr().err
