"""Fixtures that every test may use."""

import os

import pytest
from hypothesis import settings

# A busy machine is late, not wrong: nothing here is a timed test.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Before numpy loads: on few cores, threads that spin for each other cost several times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
