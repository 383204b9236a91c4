"""A few seconds of the soak; ``python -m tests.faults.soak`` runs it for minutes."""

import random

import pytest

from tests.faults.harness import LOOPS
from tests.faults.soak import soak


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.mark.anyio
async def test_nothing_is_left_after_mixed_faults_and_leaving_clients() -> None:
    random.seed(1)
    tally, wrong = await soak(4)
    assert wrong == []
    assert tally.requests > 100
    assert tally.outcomes["ok"] > 0
    assert tally.outcomes["left"] > 0
