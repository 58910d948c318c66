"""Settings of the test run."""

from __future__ import annotations

import pytest
import torch
from support import CONTINUOUS, PROCESSES

torch.set_num_threads(1)


@pytest.fixture(params=list(PROCESSES))
def sde(request: pytest.FixtureRequest):
    """Every process, tables included."""
    return PROCESSES[request.param]


@pytest.fixture(params=list(CONTINUOUS))
def continuous(request: pytest.FixtureRequest):
    """Every process with a closed form in time."""
    return CONTINUOUS[request.param]


@pytest.fixture
def float64_default():
    """torch's default dtype set to float64, as some users do."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
