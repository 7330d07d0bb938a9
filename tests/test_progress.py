"""Progress in notebooks: one bar a cell, written over."""

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from attrgraph import progress
from attrgraph.progress import shown, silent

LOOP = """
import time
from attrgraph.progress import shown
for prompt in range(3):
    tell = shown(None)
    for done in range(200):
        tell("trace <b>", done + 1, 200)
        time.sleep(0.002)
"""


def test_outside_of_notebooks_nobody_is_told_unless_somebody_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))  # imported, in no kernel
    assert shown(None) is silent
    shown(lambda *each: told.append(each))("a", 1, 2)
    assert told == [("a", 1, 2)]


def test_all_work_of_a_cell_shares_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[list[dict[str, str]]] = []

    def display(content: dict[str, str], **how: Any) -> Any:
        assert how == {"raw": True, "display_id": True}
        outputs.append([content])
        return SimpleNamespace(update=lambda content, raw: outputs[-1].append(content))

    shell, ipython = SimpleNamespace(kernel=None, execution_count=1), ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "_NotebookBar", type("Bar", (progress._NotebookBar,), {}))  # of no earlier cell
    shown(None)("quick", 1, 1)
    assert outputs == []  # there is nothing to wait for
    monkeypatch.setattr(progress, "_SHOWN_AFTER_S", 0.0)
    for _ in range(2):
        for done in range(1001):
            shown(None)("trace <b>", done, 1000)
    (written,) = outputs
    assert 2 <= len(written) < 200  # not one for each step
    assert written[-1]["text/plain"].startswith("trace <b>: 1,000 of 1,000, ")
    assert 'value="1000" max="1000"' in written[-1]["text/html"] and "<b>" not in written[-1]["text/html"]
    shell.execution_count = 2
    shown(None)("next", 1, 1)
    assert len(outputs) == 2


@pytest.mark.doors
def test_a_notebook_shows_one_bar_and_keeps_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "needs a kernel: pip install nbclient ipykernel"
    nbclient = pytest.importorskip("nbclient", reason=why)
    nbformat, _ = pytest.importorskip("nbformat", reason=why), pytest.importorskip("ipykernel", reason=why)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cells = [nbformat.v4.new_code_cell(source) for source in (LOOP, LOOP, 'shown(None)("quick", 1, 1)')]
    nbclient.NotebookClient(notebook := nbformat.v4.new_notebook(cells=cells), timeout=60).execute()
    for cell in notebook.cells[:2]:
        (output,) = cell.outputs
        assert output.output_type == "display_data" and 'value="200"' in output.data["text/html"]
        assert output.data["text/plain"].startswith("trace <b>: 200 of 200, ")
    assert notebook.cells[2].outputs == []
