"""Triton runs on a GPU, PyTorch elsewhere, unless ATTRGRAPH_KERNELS says otherwise."""

import sys
from importlib.util import find_spec

import pytest
import torch

from attrgraph.errors import AttrGraphError
from attrgraph.kernels.choose import uses_triton


@pytest.fixture
def triton_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRGRAPH_KERNELS", "triton")


def test_a_cpu_tensor_uses_torch_unless_triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTRGRAPH_KERNELS", raising=False)
    assert not uses_triton(torch.ones(1))
    for asked in ("auto", "torch"):
        monkeypatch.setenv("ATTRGRAPH_KERNELS", asked)
        assert not uses_triton(torch.ones(1))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_triton_that_was_asked_for_is_used(monkeypatch: pytest.MonkeyPatch, triton_asked: None) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert uses_triton(torch.ones(1))


@pytest.mark.refusal
def test_an_unknown_implementation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRGRAPH_KERNELS", "cuda")
    with pytest.raises(AttrGraphError, match="ATTRGRAPH_KERNELS is 'cuda'; expected torch, triton or auto"):
        uses_triton(torch.ones(1))


@pytest.mark.refusal
def test_triton_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch, triton_asked: None) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(AttrGraphError, match="triton is not installed; install it or unset the variable"):
        uses_triton(torch.ones(1))


@pytest.mark.refusal
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_triton_on_a_cpu_without_its_interpreter_is_refused(
    monkeypatch: pytest.MonkeyPatch, triton_asked: None
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(AttrGraphError, match="the tensor is on cpu; expected a CUDA device, or TRITON_INTERPRET=1"):
        uses_triton(torch.ones(1))
