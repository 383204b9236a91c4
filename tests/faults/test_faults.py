"""Every fault of the table, in both modes: what the client sees, which attempts were made, what was billed, no leak."""

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.harness import LOOPS, run


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_fault(fault: Fault, stream: bool) -> None:
    result = await run(fault, stream)
    expected = fault.stream if stream else fault.whole
    assert (result.client, result.attempts, result.billed) == (expected.client, expected.attempts, expected.billed)
    assert not result.leaked
