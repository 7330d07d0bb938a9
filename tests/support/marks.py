"""What a test needs that not every machine has."""

import os
from importlib.util import find_spec

import pytest

needs_gpu = pytest.mark.gpu  # collected only where there is a GPU; see conftest.py
needs_interpreter = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None,
    reason="needs Triton's interpreter, which is not used where there is a GPU",
)
