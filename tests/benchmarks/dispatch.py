"""What calling a backend costs: ``python -m tests.benchmarks.dispatch [--json] [--rounds 5]``.

CPU per request of this process, pinned to one core with the upstream on another, for bare HTTP clients and for a
dispatched call with breaker, slots, timers, usage and price. Rounds are interleaved; the median is shown, and its ratio
to our own client's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from policies.schema import Policy
from policies.values import Decision, Step
from router.backends import open_backends
from router.backends.client import Client
from router.dispatch import Dispatcher, Order
from tests.benchmarks import machine

Call = Callable[[], Awaitable[None]]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello world " * 70}], "temperature": 0.2}
BODIES = {"whole": orjson.dumps(BODY), "stream": orjson.dumps({**BODY, "stream": True})}
DECISION = Decision((Step("only", "b"),), (), "hash")
REQUESTS = {"whole": 2000, "stream": 200}


async def measure(call: Call, requests: int, at_once: int) -> float:
    """Microseconds of this process's CPU per request."""

    async def client(count: int) -> None:
        for _ in range(count):
            await call()

    await asyncio.gather(*(client(3) for _ in range(at_once)))
    begun = time.process_time()
    await asyncio.gather(*(client(requests // at_once) for _ in range(at_once)))
    return (time.process_time() - begun) / (requests // at_once * at_once) * 1e6


def ours(url: str) -> tuple[dict[str, Call], Callable[[], Awaitable[None]]]:
    client = Client(url, {}, connect=1)

    async def whole() -> None:
        response = await client.post("chat/completions", BODIES["whole"])
        await response.read()

    async def stream() -> None:
        response = await client.post("chat/completions", BODIES["stream"])
        async for _ in response.chunks():
            pass

    return {"whole": whole, "stream": stream}, client.aclose


def dispatched(url: str) -> tuple[dict[str, Call], Callable[[], Awaitable[None]]]:
    price = {"input_usd_per_mtok": "0.1", "output_usd_per_mtok": "0.2"}
    backend = {"name": "b", "kind": "vllm", "model": "m", "base_url": url, "cost": price}
    policy = Policy.model_validate({"version": 1, "tiers": {"only": {"backends": [backend]}}})
    backends = open_backends(policy)
    dispatcher = Dispatcher(backends, policy)

    async def whole() -> None:
        await dispatcher.run(Order("chat/completions", BODY, input_tokens=200), DECISION)

    async def stream() -> None:
        order = Order("chat/completions", {**BODY, "stream": True}, True, False, 200)
        answer = await dispatcher.run(order, DECISION)
        async for _ in answer.body:
            pass
        await answer.aclose()

    return {"whole": whole, "stream": stream}, backends["b"].aclose


def aiohttp_client(url: str) -> tuple[dict[str, Call], Callable[[], Awaitable[None]]]:
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )

    async def whole() -> None:
        async with session.post(f"{url}/chat/completions", data=BODIES["whole"]) as response:
            await response.read()

    async def stream() -> None:
        async with session.post(f"{url}/chat/completions", data=BODIES["stream"]) as response:
            async for _ in response.content.iter_any():
                pass

    return {"whole": whole, "stream": stream}, session.close


def httpx_client(url: str) -> tuple[dict[str, Call], Callable[[], Awaitable[None]]]:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None), timeout=30)

    async def whole() -> None:
        await client.post(f"{url}/chat/completions", content=BODIES["whole"])

    async def stream() -> None:
        async with client.stream("POST", f"{url}/chat/completions", content=BODIES["stream"]) as response:
            async for _ in response.aiter_raw():
                pass

    return {"whole": whole, "stream": stream}, client.aclose


WAYS = {
    "our client, bare": ours,
    "dispatched": dispatched,
    "aiohttp, bare": aiohttp_client,
    "httpx, bare": httpx_client,
}


async def run(url: str, rounds: int, at_once: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Median microseconds by way and by mode and concurrency."""
    async with AsyncExitStack() as stack:
        calls = {}
        for name, way in WAYS.items():
            calls[name], close = way(url)
            stack.push_async_callback(close)
        found: dict[str, dict[str, list[float]]] = {name: {} for name in WAYS}
        for _ in range(rounds):
            for mode, requests in REQUESTS.items():
                for many in at_once:
                    for name in WAYS:
                        cost = await measure(calls[name][mode], requests, many)
                        found[name].setdefault(f"{mode}, {many} at once", []).append(cost)
    return {name: {at: statistics.median(costs) for at, costs in row.items()} for name, row in found.items()}


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    here, there = machine.cores()
    serve = [sys.executable, "-m", "tests.benchmarks.upstream"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE) as upstream:
        try:
            os.sched_setaffinity(upstream.pid, {there})
            machine.pin(here)
            assert upstream.stdout is not None
            url = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
            figures = uvloop.run(run(url, asked.rounds, (1, 32)))
        finally:
            upstream.terminate()
    _print(figures, as_json=asked.json)
    return 0


def _print(figures: dict[str, dict[str, float]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"cpu_us_per_request": figures, "machine": machine.describe()}))
        return
    columns = list(next(iter(figures.values())))
    table = Table("CPU per request, µs (ratio)", *columns, title="Calling a backend")
    least = figures["our client, bare"]
    for name, row in figures.items():
        table.add_row(name, *(f"{row[column]:.0f} ({row[column] / least[column]:.2f})" for column in columns))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main())
