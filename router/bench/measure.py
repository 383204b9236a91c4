"""One measured request, one round of them, and a whole run over one or two backends in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import orjson

from policies.values import EngineView
from router.backends import Backend, Call
from router.backends.openai import OpenAI
from router.engines import ENGINES, engine_of, exposition
from router.engines.view import History, Reading
from router.errors import UpstreamError
from router.sse import Splitter, data_of
from router.usage import look


@dataclass(frozen=True, slots=True)
class Timing:
    """One request as its user felt it. ``error`` is a kind of failure; then the other figures say nothing.

    ``ttft_ms`` is the time to first content, ``tpot_ms`` the time per output token after it (None for one token).
    """

    ttft_ms: float = 0.0
    tpot_ms: float | None = None
    total_ms: float = 0.0
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """Some requests to one backend, so many at once, that took ``seconds`` in all."""

    target: str
    concurrency: int
    seconds: float
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: for each concurrency ``rounds`` rounds of ``requests`` requests, each to every target."""

    concurrencies: tuple[int, ...] = (1, 4, 16)
    rounds: int = 5
    requests: int = 8
    max_tokens: int = 128
    timeout: float = 120.0


async def ask(backend: Backend, messages: list[dict[str, Any]], plan: Plan) -> Timing:
    """Send one streaming request and time it. Never raises for what the backend does."""
    body = {"messages": messages, "max_tokens": plan.max_tokens, "stream": True, "temperature": 0}
    started = perf_counter()
    try:
        async with asyncio.timeout(plan.timeout):
            return await _timed(backend, body, started)
    except UpstreamError as error:
        return Timing(error=error.kind)
    except TimeoutError:
        return Timing(error="timeout")


async def _timed(backend: Backend, body: dict[str, Any], started: float) -> Timing:
    reply = await backend.send(Call("chat/completions", body, stream=True))
    splitter, first, said, usage = Splitter(), None, 0, None
    try:
        async for data in reply.chunks():
            for event in splitter.feed(data):
                payload = data_of(event)
                if payload is None or payload == b"[DONE]":
                    continue
                seen = look(orjson.loads(payload))
                usage = seen.usage or usage
                said += seen.text != ""
                if seen.content and first is None:
                    first = perf_counter()
    except orjson.JSONDecodeError:
        return Timing(error="malformed")
    finally:
        reply.close()
    if first is None:
        return Timing(error="empty")
    ended = perf_counter()
    tokens = usage.output_tokens if usage is not None else said
    tpot = (ended - first) * 1e3 / (tokens - 1) if tokens > 1 else None
    return Timing((first - started) * 1e3, tpot, (ended - started) * 1e3, tokens)


async def play(
    backend: Backend, conversations: Sequence[list[dict[str, Any]]], concurrency: int, plan: Plan
) -> tuple[float, tuple[Timing, ...]]:
    """Send all conversations, ``concurrency`` at once; seconds it took in all, and their timings."""
    waiting, timings = iter(conversations), []

    async def client() -> None:
        for messages in waiting:
            timings.append(await ask(backend, messages, plan))

    started = perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return perf_counter() - started, tuple(timings)


async def run(
    targets: Sequence[tuple[str, Backend]], conversations: Iterator[list[dict[str, Any]]], plan: Plan
) -> list[Round]:
    """Measure every target on the same conversations, in turn, each round in the opposite order of the one before.

    Each target is warmed up by one request that does not count. Slow changes of the machine thus meet all alike.
    """
    rounds: list[Round] = []
    for _, backend in targets:
        await play(backend, [next(conversations)], 1, plan)
    for concurrency in plan.concurrencies:
        for number in range(plan.rounds):
            asked = [next(conversations) for _ in range(max(plan.requests, concurrency))]
            for name, backend in targets if number % 2 == 0 else reversed(targets):
                rounds.append(Round(name, concurrency, *await play(backend, asked, concurrency, plan)))
    return rounds


async def kind_of(backend: OpenAI) -> str | None:
    """Which kind of engine a backend is, by the metrics that it tells; None where it tells none that are known."""
    pages: dict[str, bytes] = {}
    for kind, engine in ENGINES.items():
        if engine.metrics is None:
            continue
        try:
            if engine.metrics not in pages:
                pages[engine.metrics] = await backend.fetch(engine.metrics, exposition.LARGEST)
            if exposition.read(engine, pages[engine.metrics]):
                return kind
        except (UpstreamError, exposition.Unreadable):
            continue
    return None


class Observer:
    """Reads an engine's metrics before and after a run, where its kind has any."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._engine = engine_of(backend.config.kind)
        self._history = History()

    async def read(self) -> None:
        """Take one reading; a failed one counts for nothing."""
        if self._engine.metrics is None or not isinstance(self._backend, OpenAI):
            return
        try:
            page = await self._backend.fetch(self._engine.metrics, exposition.LARGEST)
            self._history.add(Reading(perf_counter(), exposition.read(self._engine, page)))
        except (UpstreamError, exposition.Unreadable):
            return

    def view(self) -> EngineView:
        """What the engine said over the run."""
        return self._history.view(0)
