"""Active health hastens what the breaker would find out by itself."""

import asyncio

import pytest

from router.backends import open_backends
from router.dispatch import Dispatcher
from router.fleet import Fleet
from router.health import ask
from tests.faults.harness import decision, order, policy
from tests.faults.speech import well
from tests.faults.upstream import Upstream

pytestmark = pytest.mark.anyio


async def test_a_backend_that_is_not_well_rests_before_a_request_meets_it() -> None:
    async with Upstream(well) as good:
        settled = policy("http://127.0.0.1:9/v1", good.url)
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        await ask(dispatcher, 60)
        assert dispatcher.cooling() == {"b0"}
        answer = await dispatcher.run(order(False), decision(2))
        assert len(answer.attempts) == 1
        assert answer.step.backend == "b1"
        for backend in backends.values():
            await backend.aclose()


async def test_a_backend_that_is_well_again_is_probed_by_the_next_request() -> None:
    async with Upstream(well) as good:
        settled = policy(good.url)
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        dispatcher.rest("b0", 60)
        await ask(dispatcher, 1)
        assert dispatcher.cooling() == frozenset()
        assert dispatcher.lanes["b0"].state == "half-open"
        await dispatcher.run(order(False), decision(1))
        assert dispatcher.lanes["b0"].state == "closed"
        for backend in backends.values():
            await backend.aclose()


async def test_a_policy_says_how_often_until_its_fleet_is_closed() -> None:
    settled = policy("http://127.0.0.1:9/v1", cooldown={"ask": "10ms"})
    backends = open_backends(settled)
    dispatcher = Dispatcher(backends, settled)
    before = asyncio.all_tasks()
    fleet = Fleet(dispatcher, settled)
    async with asyncio.timeout(2):
        while not dispatcher.cooling():  # noqa: ASYNC110
            await asyncio.sleep(0)
    await fleet.close()
    assert asyncio.all_tasks() == before
    for backend in backends.values():
        await backend.aclose()
