"""Requests that no page of the server has made are refused."""

import json
import os
from pathlib import Path

import pytest
from sites import OWN, PORT, PROMPT, TOKEN, answer
from starlette.testclient import TestClient

import attrgraph as ag
from attrgraph.serve.app import Site, make_app

BASE = f"http://127.0.0.1:{PORT}"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def stranger(site: Site) -> TestClient:
    return TestClient(make_app(site, token=TOKEN, port=PORT), base_url=BASE)


@pytest.mark.parametrize("how", ["", "?token=", "?token=Secret", "?token=secre", "?token=%ff", "?token=secret1"])
@pytest.mark.parametrize("path", ["/", "/list", "/graph/1", "/ask.js", "/nothing"])
def test_nothing_is_told_without_the_token(stranger: TestClient, path: str, how: str) -> None:
    response = stranger.get(path + how)
    assert response.status_code == 403
    assert response.text.startswith("The token is missing or wrong") and response.text.count("\n") == 1
    assert "set-cookie" not in response.headers


def test_the_token_in_the_address_becomes_a_cookie(stranger: TestClient) -> None:
    cookie = stranger.get(f"/?token={TOKEN}").headers["set-cookie"]
    assert f"attrgraph-{PORT}={TOKEN}" in cookie and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert stranger.get("/list").status_code == 200
    assert stranger.get("/list?token=wrong", headers={"Cookie": f"attrgraph-{PORT}=wrong"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", ""])
def test_a_name_that_is_not_this_machines_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/list", headers={"Host": host}).status_code == 403
    assert client.get("/list", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1"])
def test_a_foreign_page_is_refused(client: TestClient, origin: str) -> None:
    for headers in (OWN, {"Cookie": f"attrgraph-{PORT}={TOKEN}"}):
        response = client.post("/trace", json={"prompt": PROMPT, "targets": []}, headers={**headers, "Origin": origin})
        assert response.status_code == 403 and "Origin" in response.text


def test_with_the_cookie_alone_an_origin_is_needed(stranger: TestClient) -> None:
    stranger.cookies.set(f"attrgraph-{PORT}", TOKEN)
    assert stranger.post("/intervene", json={}).status_code == 403
    assert stranger.post("/intervene", json={}, headers={"Origin": BASE}).status_code == 400


def test_what_is_no_json_or_too_large_is_refused(client: TestClient) -> None:
    assert client.post("/trace", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post("/trace", content=b" " * (2**16 + 1), headers=JSON).status_code == 413
    assert client.post("/trace", content=iter([b" " * 2**16, b" "]), headers=JSON).status_code == 413
    assert client.put("/trace", json={}).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 60_000,
        b"[]",
        b'{"prompt": 1, "targets": []}',
        b'{"prompt": "a", "targets": "b"}',
        b'{"prompt": "a"}',
        b'{"prompt": "a", "targets": [], "path": "/etc/passwd"}',
        b'{"prompt": "a", "targets": [], "max_feature_nodes": 1e9}',
        b'{"prompt": "a", "targets": [], "max_feature_nodes": 1000000}',
        b'{"prompt": "a", "targets": [], "max_feature_nodes": true}',
    ],
)
def test_what_is_no_such_request_is_told_in_one_line(client: TestClient, body: bytes) -> None:
    response = client.post("/trace", content=body, headers=JSON)
    assert response.status_code == 400 and response.text.count("\n") == 1 and "Traceback" not in response.text


def test_a_name_opens_no_file_outside_the_folder(client: TestClient, site: Site, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.safetensors"
    ag.trace(site.model, PROMPT).save(outside)
    (tmp_path / "link.safetensors").symlink_to(outside)
    (tmp_path / "up").symlink_to(tmp_path.parent)
    (tmp_path / "round.safetensors").symlink_to("round.safetensors")
    os.mkfifo(tmp_path / "pipe.json")
    inside = f"up/{outside.name}", f"../{outside.name}", str(outside), "link.safetensors", f"./{outside.name}"
    escaped = [name.replace("/", "%2f").replace(".", "%2e") for name in inside]
    for name in [*inside, *escaped, f"..%2f{outside.name}", f"..%5c{outside.name}", "%00"]:
        assert client.get(f"/graph/{name}").status_code in (400, 404), name
    for name in inside:
        response = client.post("/validate", json={"graph": name})
        assert response.status_code == 400 and response.text.startswith("there is no graph of this name")
    assert client.get("/list").json()["graphs"] == []


def test_a_graph_that_was_replaced_is_not_taken_for_the_one_on_the_page(
    client: TestClient, site: Site, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    ag.trace(site.model, PROMPT).save(path)
    here = json.loads(client.get("/graph/a.safetensors").text.split('id="server">')[1].split("<")[0])
    asked = {**here, "changes": ["3/458@5*0"]}
    assert "result" in answer(client.post("/intervene", json=asked))
    ag.trace(site.model, "in ohio the capital is").save(path)
    for verb, body in (("intervene", asked), ("validate", here)):
        response = client.post(f"/{verb}", json=body)
        assert response.status_code == 400 and "has been replaced since this page was opened" in response.text


def test_without_its_folder_the_server_goes_on(client: TestClient, tmp_path: Path) -> None:
    name = answer(client.post("/trace", json={"prompt": PROMPT, "targets": []}))["result"]["graph"]
    tmp_path.rmdir()
    found = client.get("/list").json()
    assert [graph["name"] for graph in found["graphs"]] == [name]
    assert found["note"] == "the folder of graphs cannot be read (No such file or directory)."
    assert client.get(f"/graph/{name}").status_code == 200
    assert client.get("/graph/a.safetensors").text == f"{found['note']}\n"


def test_pages_may_ask_this_server_only(client: TestClient, site: Site) -> None:
    name = answer(client.post("/trace", json={"prompt": PROMPT, "targets": []}))["result"]["graph"]
    for path in ("/", f"/graph/{name}"):
        response = client.get(path)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "script-src 'self'" in policy or "script-src 'sha256-" in policy
        assert "http-equiv" not in response.text
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer" and response.headers["cache-control"] == "no-store"


def test_hostile_names_and_prompts_stay_text(client: TestClient, site: Site, tmp_path: Path) -> None:
    name = '"><img src=x onerror=alert(1)>.safetensors'
    ag.trace(site.model, PROMPT).save(tmp_path / name)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "<script>alert(1)</script>"}) + "\nno json\n")
    found = client.get("/list")
    assert found.headers["content-type"] == "application/json"
    assert [graph["name"] for graph in found.json()["graphs"]] == [name]
    assert found.json()["prompts"][0]["prompts"] == [{"prompt": "<script>alert(1)</script>", "targets": []}]
    page = client.get("/graph/" + name.replace("%", "%25")).text
    assert "<img" not in page and page.count("<script") == page.count("</script>") == 5
