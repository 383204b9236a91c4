"""Carry a decision out: one backend at a time until one answers, and never a second one after content has begun.

`policies.cascade` says what follows an attempt; here the attempts are made, bounded in time, counted and priced. All
that an attempt holds is held by a `lane.Flight`, and let go when it lands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import random
from typing import Any

from policies import money, schema
from policies.cascade import OURS, Moment, Try, next_step
from policies.values import Attempt, Decision, Step
from router import stream
from router.backends import Backend, Call
from router.errors import REQUEST_KINDS, Exhausted, UpstreamError
from router.lane import Flight, Lane

_PASSED_ON = ("openai-processing-ms", "openai-version")
"""Response headers of a backend that a client may see."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask a backend: the path under its base URL, the client's body as JSON, and how the client wants it.

    ``input_tokens`` is the request's estimated size: what is billed where a backend reports no usage.
    """

    path: str
    body: Mapping[str, Any]
    stream: bool = False
    wants_usage: bool = False
    input_tokens: int = 0


class Answer:
    """An answer that has begun. ``body`` yields bytes once; ``whole`` has them where the answer is not streamed.

    Whoever holds it calls `aclose`, however it ended; until then a stream holds its backend.
    """

    __slots__ = ("_flight", "_trail", "body", "content_type", "headers", "model", "status", "step", "whole")

    def __init__(self, flight: Flight, trail: list[Attempt], step: Step, body: stream.Stream | bytes) -> None:
        headers = flight.reply.headers
        self.status = 200
        self.step, self.model = step, flight.model
        self.content_type = headers.get("content-type") or "application/json"
        self.headers: Mapping[str, str] = {name: headers[name] for name in _PASSED_ON if name in headers}
        self.whole = body if isinstance(body, bytes) else None
        self.body: AsyncIterator[bytes] = _once(body) if isinstance(body, bytes) else body
        self._flight, self._trail = flight, trail

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt so far, oldest first; complete when the body has ended or `aclose` was called."""
        return tuple(self._trail)

    @property
    def ttft_ms(self) -> float | None:
        """Milliseconds from the attempt's beginning to its first content, or to the whole body."""
        return self._flight.ttft_ms

    async def aclose(self) -> None:
        """Let go of the backend: cancels its work where the body has not ended, and bills what was used."""
        if isinstance(self.body, stream.Stream):
            await self.body.aclose()


class Dispatcher:
    """Makes the attempts of one policy. Build it inside a running event loop."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        policy: schema.Policy,
        wall: Callable[[], float] = time.time,
        on_rest: Callable[[str, float], None] | None = None,
    ) -> None:
        """``wall`` gives Unix time. ``on_rest`` is told when a backend begins to rest, and for how many seconds."""
        self._clock = asyncio.get_running_loop().time
        self._resting: set[str] = set()
        self._tell = on_rest
        self._lanes = {
            name: Lane(backend, policy, self._clock, wall, self._rests) for name, backend in backends.items()
        }
        self._retries = policy.retries
        self._deadline = policy.timeouts.deadline.total_seconds()
        self._windows = {
            name: window for name, lane in self._lanes.items() if (window := lane.backend.config.context_window)
        }

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The way to each backend, by name: for metrics and health."""
        return self._lanes

    def in_flight(self) -> dict[str, int]:
        """Calls under way or waiting for a slot, by backend."""
        return {name: lane.slots.in_flight + lane.slots.waiting for name, lane in self._lanes.items()}

    def cooling(self) -> frozenset[str]:
        """Backends that rest after failures."""
        self._resting = {name for name in self._resting if not self._lanes[name].closed}
        return frozenset(name for name in self._resting if self._lanes[name].cooling)

    def rest(self, backend: str, seconds: float) -> None:
        """Let a backend rest that another proxy found failing."""
        if backend in self._lanes:
            self._lanes[backend].rest(seconds)
            self._resting.add(backend)

    def _rests(self, backend: str, seconds: float) -> None:
        self._resting.add(backend)
        if self._tell is not None:
            self._tell(backend, seconds)

    async def run(self, order: Order, decision: Decision, trail: list[Attempt] | None = None) -> Answer:
        """Make attempts until one answers. Raises `Exhausted` when none does, before a byte of content.

        ``trail`` gets every attempt as it ends, those of a call that is cancelled too. Cancelling stops the backend.
        """
        trail = [] if trail is None else trail
        deadline = self._clock() + self._deadline
        errors: list[UpstreamError] = []
        while True:
            last = errors[-1] if errors else None
            moment = Moment(
                draw=random(),
                retry_after=last.retry_after if last else None,
                remaining=deadline - self._clock(),
                cooling=self.cooling(),
                windows=self._windows,
            )
            following = next_step(decision, trail, self._retries, moment)
            if not isinstance(following, Try):
                break
            if following.delay:
                await asyncio.sleep(following.delay)
            step = self._least_bad(following.step, decision, trail)
            try:
                return await self._attempt(step, order, deadline, trail, self._spare(step, decision, trail))
            except UpstreamError as error:
                errors.append(error)
        raise Exhausted(tuple(trail), _worth_telling(errors))

    async def _attempt(
        self, step: Step, order: Order, deadline: float, trail: list[Attempt], spare: Sequence[Step]
    ) -> Answer:
        """One call to one backend, up to its first content. Raises `UpstreamError`, with the attempt in the trail."""
        lane = self._lanes[step.backend]
        flight = await self._board(lane, step, order, deadline, trail, spare)
        try:
            await flight.watch.wait(self._send(lane, flight, order))
            return await self._open(lane, flight, step, order, deadline, trail)
        except UpstreamError as error:
            flight.fail(error)
            raise
        except asyncio.CancelledError:
            flight.land("cancelled")
            raise
        except BaseException:
            flight.land("error")
            raise

    async def _board(
        self, lane: Lane, step: Step, order: Order, deadline: float, trail: list[Attempt], spare: Sequence[Step]
    ) -> Flight:
        """Pass the breaker and take a slot. A refusal of our own goes into the trail as a rejected attempt."""
        limits, room = lane.limits, deadline - self._clock()
        patience = max(0.0, min(limits.first_token, room))
        if any(other.tier == step.tier and self._lanes[other.backend].slots.free for other in spare):
            patience = 0.0
        try:
            probe = await lane.admit(patience, insist=not spare)
            try:
                await lane.slots.take(patience)
            except BaseException:
                lane.settle("rejected", "full", None, probe=probe)
                raise
        except UpstreamError as error:
            refused = Attempt(step.backend, step.tier, lane.model, "rejected", error=error.kind, phase="connect")
            trail.append(replace(refused, cost_nanos=0))
            raise
        first = limits.first_token if order.stream else limits.answer
        now = self._clock()
        return Flight(lane, step, order.input_tokens, min(now + min(first, limits.total), deadline), trail, probe=probe)

    async def _send(self, lane: Lane, flight: Flight, order: Order) -> None:
        flight.carry(await lane.backend.send(Call(order.path, order.body, order.stream)))

    async def _open(
        self, lane: Lane, flight: Flight, step: Step, order: Order, deadline: float, trail: list[Attempt]
    ) -> Answer:
        """From a response that has begun to an answer that has."""
        reply = flight.reply
        if order.stream and not reply.headers.get("content-type", "").startswith("application/json"):
            choices = order.body.get("n")
            events = stream.Stream(
                flight,
                reply.chunks(),
                wants_usage=order.wants_usage,
                choices=choices if isinstance(choices, int) else 1,
                cost=lambda: _dollars([flight.cost_nanos, *(attempt.cost_nanos for attempt in trail)]),
            )
            await events.open()
            events.stream_on(min(flight.started + lane.limits.total, deadline), lane.limits.between_tokens)
            return Answer(flight, trail, step, events)
        body = await flight.watch.wait(reply.read())
        seen = stream.whole(body, order.path)
        flight.usage, flight.characters = seen.usage, seen.characters
        if order.stream:
            raise UpstreamError("malformed", "The backend was asked for a stream and did not send one.", status=200)
        flight.first()
        answer = Answer(flight, trail, step, body)
        flight.land("ok")
        return answer

    def _spare(self, step: Step, decision: Decision, trail: Sequence[Attempt]) -> list[Step]:
        """The steps that are left besides this one, and whose backends do not rest."""
        tried = {attempt.backend for attempt in trail}
        return [
            other
            for other in decision.steps
            if other.backend not in tried and other.backend != step.backend and not self._lanes[other.backend].cooling
        ]

    def _least_bad(self, step: Step, decision: Decision, trail: Sequence[Attempt]) -> Step:
        """The step itself, or, where its backend rests and so do all others left, the one that rests the shortest."""
        if not self._lanes[step.backend].cooling:
            return step
        tried = {attempt.backend for attempt in trail}
        left = [other for other in decision.steps if other.backend not in tried]
        return min(left or [step], key=lambda other: self._lanes[other.backend].rests_until)


def _worth_telling(errors: Sequence[UpstreamError]) -> UpstreamError:
    """The error that helps the client most: what is wrong with the request, else the last failure that was not ours."""
    if not errors:
        return UpstreamError("deadline", "No attempt could be made in time.", phase="connect")
    about_request = [error for error in errors if error.kind in REQUEST_KINDS]
    upstream = [error for error in errors if error.kind not in OURS]
    told = (about_request or upstream or errors)[-1]
    if told.kind in ("full", "cooling", "rate_limited"):
        waits = [error.retry_after for error in errors if error.retry_after is not None]
        told.retry_after = min(waits, default=None)
    return told


def _dollars(nanos: Sequence[int | None]) -> float | None:
    known = [part for part in nanos if part is not None]
    return float(money.usd(sum(known))) if len(known) == len(nanos) else None


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
