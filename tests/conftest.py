"""Fixtures that every test may use."""

import os

import pytest

# Before numpy loads: on few cores, threads that spin for each other cost several times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
