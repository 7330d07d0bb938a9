"""Fixtures for the ops' tests."""

from collections.abc import Iterator

import pytest
import torch
from marks import needs_gpu, needs_interpreter


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
        pytest.param("triton", marks=needs_interpreter),
        pytest.param("triton on a GPU", marks=needs_gpu),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device to compute on; ops run in PyTorch, in Triton's interpreter, or in Triton on a GPU."""
    monkeypatch.setenv("ATTRGRAPH_KERNELS", request.param.split()[0])
    return "cuda" if "GPU" in request.param else "cpu"
