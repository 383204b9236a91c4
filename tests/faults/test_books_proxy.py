"""The whole proxy under load while it or its store is killed: afterwards the books equal what upstream counted."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from policies.values import Entry
from router.launch import running_proxy
from router.ledger import codec
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.ledger.sums import GPU_FIELD
from router.reports import Report, report, window
from router.reports.sources import JournalSource, StoreSource, data_dir_source
from tests.contracts.stores_servers import Server, redis_server, running

pytestmark = pytest.mark.anyio
INPUT_NANOS, OUTPUT_NANOS = 123, 4_567
"""Nano-dollars per token: prices that no rounding would survive."""


@dataclass
class Upstream:
    """Answers with usage of its own making, and keeps count: what it said, by the request's ``user``."""

    port: int = 0
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        usage = (random.randint(1, 10_000), random.randint(1, 5_000))
        self.counted[body["user"]] = usage
        await asyncio.sleep(random.random() * 0.02)
        message = {"role": "assistant", "content": "42"}
        tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": tokens}
        )


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    counting = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", counting.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    counting.port = runner.addresses[0][1]
    try:
        yield counting
    finally:
        await runner.cleanup()


TOKENS = f"{{input_usd_per_mtok: {INPUT_NANOS / 1000}, output_usd_per_mtok: {OUTPUT_NANOS / 1000}}}"


def write_policy(path: Path, port: int, redis: str = "", cost: str = TOKENS) -> None:
    path.write_text(f"""
version: 1
tiers:
  only:
    backends:
      - {{name: counting, kind: openai, model: m, base_url: "http://127.0.0.1:{port}/v1", api_key: none, cost: {cost}}}
redis: "{redis}"
""")


@dataclass
class Load:
    """Clients that ask without pause, and what they were answered: by ``user``, the entry's id, from when to when."""

    answered: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    numbers: int = 0
    stopping: bool = False

    async def run(self, url: str, clients: int = 8) -> None:
        self.stopping = False
        async with aiohttp.ClientSession(base_url=url) as session:
            await asyncio.gather(*(self._ask(session) for _ in range(clients)))

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        while not self.stopping:
            self.numbers += 1
            user = f"u{self.numbers}"
            body: dict[str, Any] = {"model": "auto", "user": user, "messages": [{"role": "user", "content": "6 x 7?"}]}
            asked = time.time()
            try:
                async with session.post("/v1/chat/completions", json=body) as response:
                    await response.read()
                    assert response.status == 200
            except aiohttp.ClientError:
                return
            self.answered[user] = (response.headers["x-tierwise-request-id"], asked, time.time())


def entries_in(data: Path) -> list[Entry]:
    file = JournalFile(data / JOURNAL_NAME, create=False)
    found = [codec.decode(body) for body in file.bodies(0, 2e9)]
    file.close()
    return found


def cost(usage: tuple[int, int]) -> int:
    return usage[0] * INPUT_NANOS + usage[1] * OUTPUT_NANOS


async def reported(read: Callable[[range], object]) -> Report:
    asked = window("24h", None, datetime.now(UTC))
    return report(await asyncio.to_thread(read, asked.hours), asked)  # type: ignore[arg-type]


async def wait_until_answered(load: Load, more: int) -> None:
    goal, deadline = len(load.answered) + more, time.monotonic() + 90
    while len(load.answered) < goal:
        assert time.monotonic() < deadline, "requests are no longer answered"
        await asyncio.sleep(0.01)


async def test_whatever_happens_to_the_store_the_books_equal_what_upstream_counted(tmp_path: Path) -> None:
    policy, data, load = tmp_path / "policy.yaml", tmp_path / "data", Load()
    with running(redis_server(), tmp_path / "redis") as server:
        async with upstream() as counting:
            write_policy(policy, counting.port, server.url)
            with running_proxy(policy, data) as proxy:
                await asyncio.to_thread(proxy.wait_until_ready)
                asking = asyncio.create_task(load.run(proxy.url))
                await disturb(server, load)
                await asking
        assert len(load.answered) == load.numbers == len(counting.counted)
        spent = sum(map(cost, counting.counted.values()))
        for read in (StoreSource(server.url).sums, JournalSource(data / JOURNAL_NAME).sums):
            total = (await reported(read)).total
            assert (total.requests, total.errors, total.cost_nanos) == (load.numbers, 0, spent)
            assert total.input_tokens == sum(usage[0] for usage in counting.counted.values())
            assert total.output_tokens == sum(usage[1] for usage in counting.counted.values())


async def disturb(server: Server, load: Load) -> None:
    """Kill, freeze, wipe and fill the store while requests go on; then let them come to an end."""
    for fault in (_kill, _pause, _wipe, _fill):
        await wait_until_answered(load, 60)
        await fault(server, load)
    await wait_until_answered(load, 60)
    load.stopping = True


async def _kill(server: Server, load: Load) -> None:
    server.kill()
    await wait_until_answered(load, 60)
    server.start()


async def _pause(server: Server, load: Load) -> None:
    server.pause()
    await wait_until_answered(load, 60)
    server.resume()


async def _wipe(server: Server, load: Load) -> None:
    with server.client() as client:
        client.flushall()


async def _fill(server: Server, load: Load) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        await wait_until_answered(load, 60)
        client.config_set("maxmemory", 0)


async def test_a_proxy_killed_under_load_loses_the_commit_under_way_and_what_came_after(tmp_path: Path) -> None:
    """No request is lost that was answered before another was asked that is not.

    How long ago that may be: see `tests/router/ledger/test_journal.py`. Neither has a clock for a busy machine to miss.
    """
    policy, data, load = tmp_path / "policy.yaml", tmp_path / "data", Load()
    kills: list[float] = []
    async with upstream() as counting:
        write_policy(policy, counting.port)
        for round in range(3):
            with running_proxy(policy, data) as proxy:
                await asyncio.to_thread(proxy.wait_until_ready)
                asking = asyncio.create_task(load.run(proxy.url))
                await wait_until_answered(load, random.randint(150, 400))
                if round < 2:
                    proxy.process.kill()
                    kills.append(time.time())
                load.stopping = True
                await asking
    found = {entry.id: entry for entry in entries_in(data)}
    users = {id: user for user, (id, _, _) in load.answered.items()}
    for began, kill in pairwise((0.0, *kills)):
        here = [answer for answer in load.answered.values() if began < answer[1] < kill]
        written = max(asked for id, asked, _ in here if id in found)
        assert all(at > written for id, _, at in here if id not in found), "lost, though one that came after it is not"
    for id, entry in found.items():
        if id in users:
            usage = counting.counted[users[id]]
            assert (entry.usage.input_tokens, entry.usage.output_tokens) == usage
            assert entry.cost_nanos == cost(usage)
    total = (await reported(data_dir_source(data).sums)).total
    assert total.requests == len(found)
    assert total.cost_nanos == sum(entry.cost_nanos or 0 for entry in found.values())
    assert len(found) <= len(counting.counted)


async def test_workers_keep_one_set_of_books(tmp_path: Path) -> None:
    policy, data, load = tmp_path / "policy.yaml", tmp_path / "data", Load()
    async with upstream() as counting:
        write_policy(policy, counting.port)
        with running_proxy(policy, data, "--workers", "2") as proxy:
            await asyncio.to_thread(proxy.wait_until_ready)
            asking = asyncio.create_task(load.run(proxy.url))
            await wait_until_answered(load, 300)
            load.stopping = True
            await asking
    total = (await reported(data_dir_source(data).sums)).total
    assert total.requests == len(counting.counted) == load.numbers
    assert total.cost_nanos == sum(map(cost, counting.counted.values()))


async def test_a_gpu_s_bill_closes_over_kills_and_the_time_between(tmp_path: Path) -> None:
    """Killed twice under load and left dead for a while: billed for every second from the first start to the stop."""
    policy, data, load = tmp_path / "policy.yaml", tmp_path / "data", Load()
    hour_nanos, began, ready = 3_600_000_000_007, time.time(), 0.0
    async with upstream() as counting:
        write_policy(policy, counting.port, cost=f"{{gpu_hour_usd: {hour_nanos / 1e9:.9f}}}")
        for round in range(3):
            with running_proxy(policy, data) as proxy:
                await asyncio.to_thread(proxy.wait_until_ready)
                ready = ready or time.time()
                asking = asyncio.create_task(load.run(proxy.url, clients=4))
                await wait_until_answered(load, 30)
                if round < 2:
                    proxy.process.kill()
                load.stopping = True
                await asking
                stopping = time.time()
            if round < 2:
                await asyncio.sleep(2.5)
    stopped = time.time()
    seconds = {
        hour * 3600 + second
        for hour, name, packed in data_dir_source(data).sums(range(2**40))
        if name.startswith(GPU_FIELD)
        for second in range(3600)
        if packed[1 + second // 8] >> second % 8 & 1
    }
    first, last = min(seconds), max(seconds)
    assert seconds == set(range(first, last + 1)), "no second is missing"
    assert int(began) <= first <= ready
    assert int(stopping) <= last <= stopped
    (bill,) = (await reported(data_dir_source(data).sums)).gpus
    entries = [entry for entry in entries_in(data) if entry.outcome == "ok"]
    assert bill.paid_nanos == sum(entry.cost_nanos or 0 for entry in entries_in(data)) > 0
    assert bill.seconds == last - first + 1, "and none counts twice"
    assert bill.billed_to == last + 1
    assert bill.paid_nanos + bill.idle_nanos == bill.billed_nanos == hour_nanos * bill.seconds // 3600
    assert bill.idle_nanos > 5 * hour_nanos // 3600, "nobody used it while no proxy was there"
    assert len(entries) >= 60


async def test_a_disk_that_fills_up_under_load_and_is_freed_loses_nothing(tmp_path: Path) -> None:
    """No file of the proxy may grow past a few bytes for a while: the kernel refuses writes as on a full disk."""
    policy, data, load = tmp_path / "policy.yaml", tmp_path / "data", Load()
    async with upstream() as counting:
        write_policy(policy, counting.port)
        with running_proxy(policy, data) as proxy:
            await asyncio.to_thread(proxy.wait_until_ready)
            asking = asyncio.create_task(load.run(proxy.url))
            await wait_until_answered(load, 30)
            resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
            async with asyncio.timeout(90):
                while not (await asyncio.to_thread(proxy.wait_until_ready))["ledger_problem"]:
                    await wait_until_answered(load, 1)
            await wait_until_answered(load, 60)
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, unlimited)
            await wait_until_answered(load, 30)
            load.stopping = True
            await asking
    total = (await reported(data_dir_source(data).sums)).total
    assert total.requests == len(counting.counted) == len(load.answered) == load.numbers
    assert total.cost_nanos == sum(map(cost, counting.counted.values()))
    assert total.input_tokens == sum(usage[0] for usage in counting.counted.values())
    assert total.output_tokens == sum(usage[1] for usage in counting.counted.values())
    assert len(entries_in(data)) == total.requests
