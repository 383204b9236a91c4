"""One request on its way through attempts, until one answers: one at a time, or two where the request is hedged.

`policies.cascade` says what follows an attempt; an `Errand` makes the attempts and keeps what came of them. All that an
attempt holds is held by a `lane.Flight`, and let go when it lands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import random
from typing import TYPE_CHECKING, Any

from policies import money
from policies.cascade import OURS, Moment, Next, Try, first_step, next_step
from policies.checks import Answered, shortcoming
from policies.frozen import maker, quick
from policies.values import Attempt, Decision, Step
from router import escalation, stream
from router.backends import USAGE_PATHS, Call
from router.errors import REQUEST_KINDS, Exhausted, UpstreamError
from router.lane import Flight, Lane
from router.trail import Trail
from router.usage import Said

if TYPE_CHECKING:
    from router.dispatch import Dispatcher

_call = maker(Call)

_SLACK = 0.002
"""Seconds by which an event loop may wake a sleeper early: a backend that said when to come back still rests then."""


@quick
@dataclass(frozen=True, slots=True)
class Order:
    """What to ask a backend: the path under its base URL, the client's body as JSON, and how the client wants it.

    ``input_tokens`` is the request's estimated size: what stands in the trail where a backend reports no usage.
    """

    path: str
    body: Mapping[str, Any]
    stream: bool = False
    wants_usage: bool = False
    input_tokens: int = 0


class Answer:
    """An answer that has begun: ``whole`` where it is not streamed, and in any case ``body``.

    Whoever holds it calls `aclose`, however it ended; until then a stream holds its backend.
    """

    __slots__ = ("_events", "_flight", "_trail", "content_type", "model", "step", "whole")

    def __init__(self, flight: Flight, trail: Trail, body: stream.Stream | bytes) -> None:
        headers = flight.reply.headers
        self.step, self.model = flight.step, flight.model
        self.content_type = headers.get("content-type") or "application/json"
        self.whole: bytes | None
        self._events: stream.Stream | None
        self.whole, self._events = (body, None) if isinstance(body, bytes) else (None, body)
        self._flight, self._trail = flight, trail

    @property
    def body(self) -> AsyncIterator[bytes]:
        """The bytes, once."""
        return self._events if self._events is not None else _once(self.whole or b"")

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt so far, the one that answers last; complete when the body has ended or `aclose` was called."""
        return tuple(self._trail)

    @property
    def ttft_ms(self) -> float | None:
        """Milliseconds from the attempt's beginning to its first content, or to the whole body."""
        return self._flight.ttft_ms

    async def aclose(self) -> None:
        """Let go of the backend: cancels its work where the body has not ended, and bills what was used."""
        if self._events is not None:
            await self._events.aclose()

    def serve(self) -> None:
        """Make this answer's attempt the last of the trail, and one that answered: it is the one that is given."""
        attempt = self._flight.attempt
        if attempt is not None and attempt in self._trail:
            self._trail.remove(attempt)
            self._flight.attempt = replace(attempt, outcome="ok")
            self._trail.append(self._flight.attempt)


class Errand:
    """The attempts of one request under one decision."""

    __slots__ = ("_deadline", "_decision", "_dispatcher", "_errors", "_order", "_poor", "_queued", "_trail")

    def __init__(self, dispatcher: Dispatcher, order: Order, decision: Decision, trail: Trail, deadline: float) -> None:
        """``trail`` gets every attempt as it ends. ``deadline`` is over all of them, on the loop's clock."""
        self._dispatcher, self._order, self._decision = dispatcher, order, decision
        self._trail, self._deadline = trail, deadline
        self._errors: list[UpstreamError] = []
        self._queued: dict[str, float] = {}
        self._poor: Answer | None = None

    async def run(self) -> Answer:
        """Make attempts until one answers. Raises `Exhausted` when none does."""
        dispatcher = self._dispatcher
        step = first_step(self._decision, dispatcher.cooling_on(self._decision.steps))
        try:
            if step is not None:
                hedge = dispatcher.hedges.get(str(self._order.body.get("model"))) if dispatcher.hedges else None
                return await (self._attempt(step) if hedge is None else self._hedged(step, hedge))
        except UpstreamError as error:
            self._errors.append(error)
        while isinstance(following := self._following(), Try):
            if following.delay:
                await asyncio.sleep(following.delay + _SLACK)
            try:
                return await self._attempt(following.step)
            except UpstreamError as error:
                self._errors.append(error)
        if self._poor is not None:
            self._poor.serve()
            return self._poor
        raise Exhausted(tuple(self._trail), _worth_telling(self._errors))

    def _following(self) -> Next:
        """What to do after the attempts so far."""
        dispatcher = self._dispatcher
        moment = Moment(
            draw=random(),
            retry_after=self._errors[-1].retry_after if self._errors else None,
            remaining=self._deadline - dispatcher.clock(),
            cooling=dispatcher.cooling_on(self._decision.steps),
            windows=dispatcher.windows,
        )
        return next_step(self._decision, self._trail, dispatcher.retries, moment)

    async def _attempt(self, step: Step) -> Answer:
        """One call to one backend, up to its first content. Raises `UpstreamError`, with the attempt in the trail."""
        order, lane = self._order, self._dispatcher.lanes[step.backend]
        probe = False
        if not (lane.closed and lane.slots.grab()):
            step = self._least_bad(step)
            lane = self._dispatcher.lanes[step.backend]
            probe = not (lane.closed and lane.slots.grab()) and await self._board(lane, step)
        limits = lane.limits
        patience = limits.first if order.stream else limits.whole
        flight = Flight(lane, step, order.input_tokens, patience, self._deadline, self._trail, probe)
        try:
            whole = await flight.watch.wait(self._call(lane, flight))
            return await self._open_stream(lane, flight) if whole is None else self._open(lane, flight, whole)
        except UpstreamError as error:
            flight.fail(error)
            raise
        except asyncio.CancelledError:
            flight.land("cancelled")
            raise
        except BaseException:
            flight.land("error")
            raise

    async def _hedged(self, step: Step, patience: float) -> Answer:
        """Ask one backend, and after ``patience`` seconds a second one too; the first to answer is taken.

        The other is cancelled and billed. Raises `UpstreamError` when neither answers.
        """
        racing = {asyncio.ensure_future(self._attempt(step))}
        won: Answer | None = None
        try:
            done, _ = await asyncio.wait(racing, timeout=patience)
            spare = self._spare(step)
            if not done and spare:
                racing.add(asyncio.ensure_future(self._attempt(spare[0])))
            while True:
                done, racing = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
                won = next((task.result() for task in done if task.exception() is None), None)
                if won is not None:
                    racing |= {task for task in done if task.exception() is not None or task.result() is not won}
                    return won
                *earlier, last = (task.exception() for task in done)
                failures = [error for error in (*earlier, last) if isinstance(error, UpstreamError)]
                if not racing or len(failures) < len(done):
                    self._errors += failures[:-1]
                    raise last or UpstreamError("reset", "The attempt ended without an answer.")
                self._errors += failures
        finally:
            for task in racing:
                task.cancel()
            for late in await asyncio.gather(*racing, return_exceptions=True):
                if isinstance(late, Answer):
                    await late.aclose()
            if won is not None:
                won.serve()

    async def _board(self, lane: Lane, step: Step) -> bool:
        """Pass the breaker, as its probe or not, and take a slot. A refusal of ours goes into the trail as an attempt.

        A tier's queues together are waited in no longer than for a first token, whichever of its backends they are for.
        """
        limits, now = lane.limits, self._dispatcher.clock()
        spare = self._spare(step)
        patience = max(0.0, min(limits.first_token - self._queued.get(step.tier, 0.0), self._deadline - now))
        if any(other.tier == step.tier and self._dispatcher.lanes[other.backend].slots.free for other in spare):
            patience = 0.0
        try:
            probe = await lane.admit(patience, insist=not spare)
            try:
                await lane.slots.take(patience)
            except BaseException:
                lane.settle("rejected", "full", None, probe=probe)
                raise
        except UpstreamError as error:
            waited = self._dispatcher.clock() - now
            self._queued[step.tier] = self._queued.get(step.tier, 0.0) + waited
            refused = Attempt(step.backend, step.tier, lane.model, "rejected", error=error.kind, phase="connect")
            self._trail.append(replace(refused, cost_nanos=0))
            raise
        return probe

    async def _call(self, lane: Lane, flight: Flight) -> bytes | None:
        """Make the call, and read the answer where it comes whole; None where it is a stream."""
        order = self._order
        reply = await lane.backend.send(_call(order.path, order.body, order.stream, flight.sent))
        flight.carry(reply)
        if order.stream and not reply.headers.get("content-type", "").startswith("application/json"):
            return None
        return await reply.read()

    def _open(self, lane: Lane, flight: Flight, body: bytes) -> Answer:
        """From a whole response to an answer."""
        flight.usage, text = stream.whole(body, self._order.path)
        if flight.usage is None:
            flight.said = Said(text)
        if self._order.stream:
            raise UpstreamError("malformed", "The backend was asked for a stream and did not send one.", status=200)
        flight.first()
        answer = Answer(flight, self._trail, body)
        if lane.escalate is not None and self._above(flight.step):
            self._check(lane, escalation.answers_of(body), answer)
        flight.land("ok")
        return answer

    async def _open_stream(self, lane: Lane, flight: Flight) -> Answer:
        events = stream.Stream(
            flight,
            flight.reply.chunks(),
            wants_usage=self._order.wants_usage,
            choices=_choices(self._order),
            cost=lambda: _dollars([flight.cost_nanos, *(attempt.cost_nanos for attempt in self._trail)]),
        )
        await events.open()
        end = min(flight.started + lane.limits.total, self._deadline)
        if lane.escalate is not None and lane.escalate.hold_streams and self._above(flight.step):
            held = await events.hold(end, lane.limits.between_tokens)
            self._check(lane, escalation.answers_of_stream(held), Answer(flight, self._trail, events))
        events.stream_on(end, lane.limits.between_tokens)
        return Answer(flight, self._trail, events)

    def _check(self, lane: Lane, answers: Sequence[Answered], answer: Answer) -> None:
        """Keep an answer that will not do, in case no better one comes. Raises `UpstreamError` of kind ``poor``."""
        assert lane.escalate is not None
        asked = escalation.asked_of(self._order.body)
        failed = shortcoming(answers, asked, lane.escalate)
        if failed is not None:
            self._poor = answer
            raise UpstreamError("poor", f"The answer failed the check {failed!r}.", status=200, code=failed)

    def _above(self, step: Step) -> bool:
        """Whether another tier is left to escalate to."""
        tried = {attempt.backend for attempt in self._trail}
        return any(other.tier != step.tier and other.backend not in tried for other in self._decision.steps)

    def _spare(self, step: Step) -> list[Step]:
        """The steps that are left besides this one, and whose backends do not rest."""
        tried = {attempt.backend for attempt in self._trail}
        return [
            other
            for other in self._decision.steps
            if other.backend not in tried
            and other.backend != step.backend
            and not self._dispatcher.lanes[other.backend].cooling
        ]

    def _least_bad(self, step: Step) -> Step:
        """The step itself, or, where its backend rests and so do all others left, the one that rests the shortest."""
        lanes = self._dispatcher.lanes
        if not lanes[step.backend].cooling:
            return step
        tried = {attempt.backend for attempt in self._trail}
        left = [other for other in self._decision.steps if other.backend not in tried]
        return min(left or [step], key=lambda other: lanes[other.backend].rests_until)


def _choices(order: Order) -> int:
    """How many choices must end in a stream; 0 for protocols that have none."""
    if order.path not in USAGE_PATHS:
        return 0
    asked, prompts = order.body.get("n"), order.body.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return max(1, several * asked) if isinstance(asked, int) else several


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
