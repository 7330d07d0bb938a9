"""Fixtures for the ops' tests."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that was not written shows as NaN."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(
    params=[
        "torch",
        pytest.param(
            "triton",
            marks=pytest.mark.skipif(
                os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None,
                reason="needs Triton's interpreter, which is not used where there is a GPU",
            ),
        ),
        pytest.param(
            "triton on a GPU",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
        ),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device to compute on; ops run in PyTorch, in Triton's interpreter, or in Triton on a GPU."""
    monkeypatch.setenv("ATTRGRAPH_KERNELS", request.param.split()[0])
    return "cuda" if "GPU" in request.param else "cpu"
