"""What a person writes, presses or opens stays as it is, whatever else changes."""

import re
from pathlib import Path
from typing import Any

import pytest
from explored import explored
from six_nodes import A, B, six_nodes

pytestmark = pytest.mark.doors


def test_groups_of_one_name_are_two_choices(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.ask(f"explorer.state.set({{groups: [['g', '{A}'], ['g', '{B}']]}})")
        page.page.get_by_text("Intervene").click()
        for node_id in (A, B):
            page.role("radio", f"g: {node_id}").click(timeout=2000)
            layer, feature, pos = node_id.split("_")
            assert f"{layer}/{feature}@{pos}*0" in page.page.locator(".command").inner_text()


def test_a_field_keeps_its_text_and_the_click_after_it_arrives(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(A)
        label = page.role("textbox", "Label")
        label.fill("half")
        page.ask("explorer.refresh()")
        page.page.keyboard.insert_text("way")
        assert label.input_value() == "halfway" and page.ask("explorer.state.choice.labels") == {}
        page.role("button", "Pin").click()
        assert page.heading == ["halfway"] and page.pinned() == ["halfway"]
        label.fill(" ")
        label.press("Enter")
        assert label.input_value() == "halfway"
        page.page.get_by_text("Intervene").click()
        page.role("textbox", "Number").click()
        page.ask("explorer.refresh()")
        page.press("p")
        assert page.pinned() == ["halfway"]
        page.ask(f"explorer.group([explorer.graph.place.get('{B}')])")
        page.page.locator("#groups summary").click()
        page.page.get_by_role("textbox", name=re.compile("Name of group")).fill("other")
        page.role("button", "Ungroup").click()
        assert page.ask("explorer.state.choice.groups") == []


def test_keys_do_nothing_behind_the_dialog(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(A)
        page.press("?", "p", "ArrowDown", "?")
        assert page.pinned() == [] and page.ask("explorer.state.choice.node") == A
        assert page.role("dialog", "Keys").count() == 0


def test_a_search_result_is_selected_by_a_click_only(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.find(A)
        page.role("option").click(button="right")
        assert page.ask("explorer.state.choice.node") == "" and page.role("option").count() == 1
        page.role("option").click()
        assert page.ask("explorer.state.choice.node") == A


def test_a_finger_does_what_the_pointer_does(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path, has_touch=True) as page:
        page.find(A)
        page.role("option").tap()
        assert page.ask("explorer.state.choice.node") == A
        label = page.role("textbox", "Label")
        label.tap()
        page.press("Control+a")
        page.page.keyboard.insert_text("named")
        page.role("button", "Pin").tap()
        assert page.pinned() == ["named"]
        page.page.touchscreen.tap(*page.place(B))
        assert page.ask("explorer.state.choice.node") == B


def test_a_right_click_takes_nothing_from_what_is_being_written(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(A)
        label = page.role("textbox", "Label")
        label.fill("half")
        label.click(button="right")
        page.role("application", "Graph").click(button="right")
        assert page.role("textbox", "Label").input_value() == "half"
        assert page.ask("explorer.state.choice.node") == A


def test_unknown_words_are_told(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    with explored(browser, graph.replace(metadata=graph.metadata | {"n_unknown_tokens": 1}), tmp_path) as page:
        page.page.get_by_text("1 token of the prompt unknown to the tokenizer").wait_for()
