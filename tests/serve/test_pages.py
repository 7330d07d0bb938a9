"""The pages in a browser, used as a person does."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from explored import explored
from sites import PROMPT

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.serve.app import Site
from attrgraph.serve.listen import listening
from attrgraph.validation.subject import Subject


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that says nothing on the console, and asks no other server."""
    context = browser.new_context()
    opened, said, asked = context.new_page(), list[str](), set[str]()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.add(request.url.split("/")[2]))
    yield opened
    context.close()
    assert said == [] and len(asked) == 1


def test_a_prompt_is_typed_traced_and_changed(page: Any, site: Site, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": PROMPT, "target": ["austin", "the"]}))
    with listening(site) as (address, _):
        page.goto(address)
        page.get_by_text("asked.jsonl").click()
        page.get_by_role("button", name=PROMPT).click()
        assert "token" not in page.url and page.get_by_label("Targets").input_value() == "austin\nthe"
        page.get_by_role("button", name="Trace").click()
        page.wait_for_selector("body[data-ready]")
        page.keyboard.press("/")
        page.keyboard.insert_text("3/458")
        page.keyboard.press("Enter")
        page.get_by_label("Number", exact=True).fill("-1")
        page.get_by_label("New tokens").fill("2")
        page.get_by_role("button", name="Run").click()
        table = page.get_by_role("table", name="What followed")
        table.wait_for()
        rows = [row.get_by_role("cell").all_inner_texts() for row in table.get_by_role("row").all()[1:]]
        page.get_by_text("Result of 3/458@5*-1, constrained:").wait_for()
        page.get_by_role("link", name="All graphs").click()
        page.get_by_role("link", name=PROMPT).wait_for()
    effect = ag.intervene(site.model, PROMPT, ag.Intervention("3_458_5", scale=-1.0))
    nodes = site.shelf.find("1").load().nodes
    change = effect.uncapped_change.double() - effect.uncapped_change.double().mean()
    assert [row[0] for row in rows] == ["austin", "the"]
    for row in rows:
        at = int(nodes.loc[(nodes["kind"] == "logit") & (nodes["token"] == row[0]), "feature"].iloc[0])
        assert float(row[4]) == pytest.approx(float(change[at]), rel=0.006)


def test_a_validation_tells_what_it_will_do_and_shows_what_it_measured(
    page: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, found = ag.trace(site.model, PROMPT), list[ag.Validation]()
    name, may_end, is_typed = site.shelf.add(graph), Event(), Event()

    def small(*asked: Any, n_controls: int, **how: Any) -> ag.Validation:
        assert n_controls == 5
        if not may_end.is_set():
            while True:
                how["progress"]("take out", 1, 2)
        assert is_typed.wait(60)
        found.append(ag.validate(*asked, **how, modes=["frozen"], n_controls=0, n_paths=1, n_resamples=2))
        return found[0]

    monkeypatch.setattr("attrgraph.serve.app.validate", small)
    with listening(site) as (address, _):
        page.goto(address)
        page.goto(f"{address.split('?')[0]}graph/{name}")
        assert page.get_by_role("option").count() == 0  # nothing that a search would be thought to have found
        n_causes = int(Subject.of(site.model, graph).can_act.sum())
        page.get_by_label("Nodes taken out").fill("2")
        page.get_by_text(
            f"Takes 2 of {n_causes} nodes out one by one, in each of 4 modes (8 runs of the model)"
        ).wait_for()
        page.get_by_role("button", name="Validate").click()
        page.get_by_text("take out: 1 of 2").wait_for()
        assert page.get_by_role("progressbar", name="Progress").get_attribute("value") == "0.5"
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        may_end.set()
        page.get_by_role("searchbox").fill("3/458")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Validate").click()
        label = page.get_by_role("textbox", name="Label", exact=True)
        label.fill("half")
        is_typed.set()
        verdict = page.get_by_role("list", name="Verdict")
        verdict.wait_for()
        page.keyboard.insert_text("way")
        assert label.input_value() == "halfway"
        lines = verdict.get_by_role("listitem").all_inner_texts()
        nodes = found[0].tables["nodes"].set_index("node_id")
        page.keyboard.press("Escape")
        for is_opened_again in (False, True):
            if is_opened_again:
                page.reload()
            page.get_by_role("searchbox").fill(nodes.index[0])
            assert page.get_by_role("option").count() == 1
            page.keyboard.press("Enter")
            shown = page.get_by_role("region", name="Node").inner_text()
            digits = [f"{nodes[f'{what}_frozen'].iloc[0]:+.3g} {what}" for what in ("predicted", "measured")]
            assert f"answer's logit {', '.join(digits)}" in shown
        page.set_viewport_size({"width": 1280, "height": 300})
        assert page.evaluate("document.documentElement.scrollHeight") == 300  # only panels scroll
    assert lines == [f"{line.level} {line.text}" for line in found[0].verdict] and len(nodes) == 2


def test_errors_and_a_stop_are_told_on_the_page(page: Any, site: Site) -> None:
    with listening(site) as (address, _):
        page.goto(address)
        page.get_by_label("Prompt", exact=True).fill(PROMPT)
        page.get_by_label("Targets").fill("<img src=x onerror=alert(1)>")
        page.get_by_role("button", name="Trace").click()
        page.get_by_text("<img src=x onerror=alert(1)>", exact=False).last.wait_for()
        assert page.locator("img").count() == 0


def test_without_a_server_the_page_shows_the_command_that_does_the_same(
    browser: Any, demo: ag.LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with explored(browser, ag.trace(demo, PROMPT), tmp_path) as opened:
        opened.select("3_458_5")
        assert opened.page.locator("input[type=radio]").count() == 0
        opened.page.get_by_text("Intervene").click()
        opened.page.get_by_text("from there on").click()
        opened.page.get_by_label("Number", exact=True).fill("-2")
        opened.page.get_by_label("New tokens").fill("1")
        assert opened.page.get_by_role("button", name="Run").count() == 0
        command = opened.page.locator(".command").inner_text()
    assert command == f"attrgraph intervene '{PROMPT}' --set '3/458@5:*-2' --new-tokens 1"
    assert main([*shlex.split(command)[1:], "--json"]) == 0
    effect = ag.intervene(demo, PROMPT, ag.Intervention("3_458_5", scale=-2.0))
    assert json.loads(capsys.readouterr().out)["kl"] == effect.kl


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "prompt",
    [
        """-it's "the" $HOME `id` !x \\ capital is""",
        "--help\tin  texas \r\n the\u00a0capital\u202e is'\\x41!",
        " in texas\nthe capital is ",
        "~ * {a,b} ; # & | > < ( ) [x] é 🦔 the capital is",
    ],
)
def test_a_command_that_is_pasted_reads_the_prompt_of_the_graph(
    browser: Any, demo: ag.LanguageModel, tmp_path: Path, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ag.trace(demo, prompt, skip_positions=[0, 1])
    node = str(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    with explored(browser, graph, tmp_path) as opened:
        opened.select(node)
        opened.page.get_by_text("Intervene").click()
        # as it is copied: what is selected
        command = opened.page.locator(".command").evaluate(
            "e => (getSelection().selectAllChildren(e), `${getSelection()}`)"
        )
    assert "\n" not in command
    listing = """attrgraph() { printf '%s\\0' "$@"; }\n"""
    ran = subprocess.run(["bash", "-c", listing + command], capture_output=True, check=True, cwd=tmp_path)
    words = ran.stdout.decode().split("\0")[:-1]
    assert prompt in words and ran.stderr == b""
    assert main([words[0], "--json", *words[1:]]) == 0
    effect = ag.intervene(demo, prompt, ag.Intervention(node, scale=0.0), skip_positions=[0, 1])
    assert json.loads(capsys.readouterr().out)["kl"] == effect.kl
