"""Fixtures for all tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # must be set before a kernel's module is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tiny import FAMILY_CONFIGS, MORE_FAMILIES, PROMPT, make_model, make_transcoders

from attrgraph.cli import progress
from attrgraph.models.language_model import LanguageModel

# what a busy machine says of its progress is no error, and tests look at all that is on stderr
progress._LINE_EVERY_S = 3600.0
# two test processes on two cores: more threads only wait for each other
torch.set_num_threads(1)
# which have every shape that is annotated: position embeddings; shared value heads; norms of heads and after parts;
# parallel blocks
SHAPED = ("gpt2", "llama", "gemma3", "gpt_neox")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need a GPU where there is none, as hundreds of skips would hide the others.

    Where shapes are checked, one case of each test for each family that has other shapes.
    """
    is_with_gpu, is_of_shapes = torch.cuda.is_available(), bool(config.getoption("--jaxtyping-packages"))
    families, seen = FAMILY_CONFIGS | MORE_FAMILIES, set[tuple[str, str]]()

    def is_left_out(item: pytest.Item) -> bool:
        params = getattr(getattr(item, "callspec", None), "params", {})
        family = next((p for p in params.values() if isinstance(p, str) and p in families), SHAPED[0])
        case = (item.nodeid.partition("[")[0], family)
        is_repeated = is_of_shapes and (family not in SHAPED or case in seen)
        seen.add(case)
        return is_repeated or (not is_with_gpu and item.get_closest_marker("gpu") is not None)

    left_out = [item for item in items if is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(params=sorted(FAMILY_CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def traced_model() -> Callable[..., LanguageModel]:
    """`traced_model(family, **transcoder settings)`: a tiny model with transcoders."""

    def build(name: str = "llama", **settings: Any) -> LanguageModel:
        model = make_model(name, dtype=settings.get("dtype", torch.float32))
        model.transcoders = make_transcoders(**settings)
        return model

    return build


@pytest.fixture
def prompt() -> list[int]:
    """Nine token ids, the first of them BOS."""
    return list(PROMPT)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser, where there is one."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
