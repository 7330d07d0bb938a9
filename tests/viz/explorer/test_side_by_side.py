"""Two graphs side by side: what is selected in one is selected in the other."""

from pathlib import Path
from typing import Any

import pytest
from six_nodes import A, B, C, six_nodes

import attrgraph as ag
from attrgraph.cli.main import main

pytestmark = pytest.mark.doors


def without_a() -> ag.Graph:
    return six_nodes().without(A)


def test_a_node_selected_in_one_is_selected_in_the_other(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "both.html"
    ag.diff(six_nodes(), without_a()).explore(file)
    page, said, requests = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    def wait() -> list[Any]:
        page.wait_for_selector("iframe")
        frames = [page.frame_locator(f"#{side}") for side in ("left", "right")]
        for frame in frames:
            frame.locator("body[data-ready]").wait_for()
        return frames

    def heading(frame: Any) -> Any:
        return frame.get_by_role("region", name="Node").get_by_role("heading")

    page.goto(file.as_uri())
    left, right = wait()
    left.get_by_role("searchbox").fill(C)
    left.get_by_role("searchbox").press("Enter")
    heading(right).get_by_text("feature 3").wait_for()
    expected = without_a().nodes["influence"][C]
    assert f"{C}, influence {expected:.3g}" in left.get_by_role("region", name="Node").inner_text()
    page.reload()
    left, right = wait()
    heading(right).get_by_text("feature 3").wait_for()
    assert heading(left).inner_text() == "feature 3"
    right.get_by_role("searchbox").fill(B)
    right.get_by_role("searchbox").press("Enter")
    heading(left).get_by_text("feature 2").wait_for()
    left.get_by_role("slider", name="Node threshold").fill("1")
    left.get_by_role("searchbox").fill(A)
    left.get_by_role("searchbox").press("Enter")
    heading(right).wait_for(state="detached")
    assert "does not have it" in left.get_by_role("region", name="Node").inner_text()
    assert said == []
    assert [url for url in requests if not url.startswith(("file:", "about:", "blob:", "data:"))] == []
    page.close()


def test_diff_writes_both_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = [tmp_path / name for name in ("left.safetensors", "right.safetensors")]
    six_nodes().save(graphs[0])
    without_a().save(graphs[1])
    page = tmp_path / "both.html"
    assert main(["diff", *map(str, graphs), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("srcdoc=") == 2
    assert main(["diff", *map(str, graphs), "-o", str(page)]) == 1
    assert "pass --force" in capsys.readouterr().err
