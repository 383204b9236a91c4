"""Two proxies on one Redis, each with a journal of its own: one set of books, one budget, one bill for each GPU."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from router.launch import Proxy, running_proxy
from router.ledger.ledger import JOURNAL_NAME
from router.reports.sources import JournalSource, StoreSource
from tests.contracts.stores_servers import Server, redis_server, running
from tests.faults.test_books_proxy import (
    Load,
    Upstream,
    cost,
    disturb,
    entries_in,
    reported,
    upstream,
    wait_until_answered,
    write_policy,
)

pytestmark = pytest.mark.anyio
NAMES = ("a", "b")


@asynccontextmanager
async def two_proxies(
    folder: Path, more: str = "", **priced: str
) -> AsyncIterator[tuple[Server, Upstream, list[Proxy]]]:
    """A store, an upstream that counts, and two proxies between them; ``more`` is added to their policy."""
    policy = folder / "policy.yaml"
    with running(redis_server(), folder / "redis") as server, ExitStack() as stack:
        async with upstream() as counting:
            write_policy(policy, counting.port, server.url, **priced)
            policy.write_text(policy.read_text() + more)
            proxies = [stack.enter_context(running_proxy(policy, folder / name)) for name in NAMES]
            for proxy in proxies:
                await asyncio.to_thread(proxy.wait_until_ready)
            yield server, counting, proxies
            await asyncio.to_thread(stack.close)


async def test_whatever_happens_to_the_store_both_keep_one_set_of_books(tmp_path: Path) -> None:
    """The store is killed, frozen, wiped and full meanwhile; then it has what both journals have, and what was said."""
    load = Load()
    with running(redis_server(), tmp_path / "redis") as server:
        async with upstream() as counting:
            policy = tmp_path / "policy.yaml"
            write_policy(policy, counting.port, server.url)
            with running_proxy(policy, tmp_path / "a") as a, running_proxy(policy, tmp_path / "b") as b:
                for proxy in (a, b):
                    await asyncio.to_thread(proxy.wait_until_ready)
                asking = asyncio.gather(load.run(a.url, 4), load.run(b.url, 4))
                await disturb(server, load)
                await asking
        assert len(load.answered) == load.numbers == len(counting.counted)
        total = (await reported(StoreSource(server.url).sums)).total
        assert (total.requests, total.errors) == (load.numbers, 0)
        assert total.cost_nanos == sum(map(cost, counting.counted.values()))
        assert total.input_tokens == sum(usage[0] for usage in counting.counted.values())
        parts = [(await reported(JournalSource(tmp_path / name / JOURNAL_NAME).sums)).total for name in NAMES]
        assert all(part.requests for part in parts)
        assert sum(part.cost_nanos for part in parts) == total.cost_nanos
        ids = Counter(entry.id for name in NAMES for entry in entries_in(tmp_path / name))
        assert set(ids.values()) == {1}
        assert ids.keys() == {id for id, _, _ in load.answered.values()}


async def test_one_budget_is_not_spent_twice(tmp_path: Path) -> None:
    """Asked at once from both sides, as many requests are answered as there is a budget for, and no more get upstream.

    Closed while the store is away, so that a machine too busy to answer it in time cannot spend either.
    """
    budget = "budgets: [{name: all, per: day, requests: 50, store_away: fail_closed}]\n"
    async with two_proxies(tmp_path, budget) as (_, counting, proxies), aiohttp.ClientSession() as session:

        async def ask(number: int) -> int:
            url = f"{proxies[number % 2].url}/v1/chat/completions"
            messages = [{"role": "user", "content": "6 x 7?"}]
            async with session.post(url, json={"model": "auto", "user": f"u{number}", "messages": messages}) as got:
                await got.read()
                return got.status

        statuses: Counter[int] = Counter()
        deadline = time.monotonic() + 90
        while statuses[200] < 50:
            assert time.monotonic() < deadline, statuses
            statuses.update(await asyncio.gather(*(ask(statuses.total() + number) for number in range(80))))
        statuses.update(await asyncio.gather(*(ask(statuses.total() + number) for number in range(80))))
        assert statuses[200] == len(counting.counted) == 50


async def test_a_gpu_that_both_use_is_billed_once_and_its_bill_closes(tmp_path: Path) -> None:
    load, began = Load(), time.time()
    async with two_proxies(tmp_path, cost="{gpu_hour_usd: 3.6}") as (server, counting, proxies):
        asking = asyncio.gather(*(load.run(proxy.url, 4) for proxy in proxies))
        await wait_until_answered(load, 200)
        load.stopping = True
        await asking
        for proxy in proxies:
            proxy.process.terminate()
            await asyncio.to_thread(proxy.process.wait)
        [bill] = (await reported(StoreSource(server.url).sums)).gpus
        assert load.numbers == len(counting.counted)
    assert 0 < bill.paid_nanos <= bill.billed_nanos
    assert bill.paid_nanos + bill.idle_nanos == bill.billed_nanos
    assert bill.seconds <= time.time() - began + 2, "not once for each proxy"
