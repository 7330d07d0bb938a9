"""Fixtures for all tests."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # must be set before a kernel's module is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tiny import FAMILY_CONFIGS, PROMPT, make_model, make_transcoders

from attrgraph.models.language_model import LanguageModel

# two test processes on two cores: more threads only wait for each other
torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need a GPU where there is none: hundreds of skips would hide the others."""
    if torch.cuda.is_available():
        return
    without = [item for item in items if item.get_closest_marker("gpu") is not None]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item.get_closest_marker("gpu") is None]


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
