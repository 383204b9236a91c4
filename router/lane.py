"""One backend as dispatch sees it: its slots, its breaker, its price, its clock; and a call on its way through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

from policies import money, schema
from policies.frozen import maker
from policies.values import Attempt, Outcome, Phase, Step, Usage
from router import breaker
from router.backends import Backend, Reply
from router.errors import UpstreamError
from router.slots import Slots
from router.trail import Trail, Uncounted
from router.usage import Said, estimate
from router.watch import Watch
from router.wheel import Wheel

_numbers = count()
_attempt = maker(Attempt)

_OUTCOMES: Mapping[str, Outcome] = {"timeout": "timeout", "deadline": "timeout", "poor": "rejected"}
"""How an attempt ended that failed in such a way; any other is an error."""


class Limits:
    """A backend's timeouts, in seconds: ``whole`` of an answer that comes whole, ``first`` of a stream's beginning."""

    __slots__ = ("answer", "between_tokens", "connect", "first", "first_token", "total", "whole")

    def __init__(self, timeouts: schema.Timeouts) -> None:
        self.connect = timeouts.connect.total_seconds()
        self.first_token = timeouts.first_token.total_seconds()
        self.between_tokens = timeouts.between_tokens.total_seconds()
        self.answer = timeouts.answer.total_seconds()
        self.total = timeouts.total.total_seconds()
        self.whole, self.first = min(self.answer, self.total), min(self.first_token, self.total)


class Lane:
    """The way to one backend. ``clock`` gives seconds on the event loop's clock, ``wall`` Unix time."""

    def __init__(
        self,
        backend: Backend,
        policy: schema.Policy,
        clock: Callable[[], float],
        wheel: Wheel,
        wall: Callable[[], float] = time.time,
        on_rest: Callable[[str, float], None] = lambda name, seconds: None,
        escalate: schema.Escalate | None = None,
        within: Slots | None = None,
    ) -> None:
        """``on_rest`` is told when the backend begins to rest, and for how many seconds.

        ``escalate`` has the checks that an answer of the backend's tier must pass, ``within`` the tier's slots where
        the policy bounds them.
        """
        config = backend.config
        self.backend = backend
        self.name = config.name
        self.model = config.model
        self.precision = config.precision or ""
        self.limits = Limits(config.timeouts or policy.timeouts)
        self.slots = Slots(config.max_in_flight, within)
        self.price = money.price_of(config)
        self.gpu = money.GpuClock(self.price.hour, wall()) if isinstance(self.price, money.GpuRates) else None
        self.clock, self.wheel, self.wall = clock, wheel, wall
        self.escalate = escalate
        self._circuit = breaker.CLOSED
        self._cooldown = policy.cooldown
        self._on_rest = on_rest
        self._verdict: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the breaker lets everything pass."""
        return self._circuit.until is None

    @property
    def cooling(self) -> bool:
        """Whether the backend rests or is being probed; not any more once a probe is due."""
        circuit = self._circuit
        return circuit.until is not None and (circuit.probing or self.clock() < circuit.until)

    @property
    def state(self) -> breaker.State:
        """The breaker's state, for metrics."""
        return self._circuit.state(self.clock())

    @property
    def rests_until(self) -> float:
        """When the rest ends, on the lane's clock; in the past where there is none."""
        return self._circuit.until or 0.0

    async def admit(self, patience: float, *, insist: bool = False) -> bool:
        """Pass the breaker; whether the call is its probe. Raises `UpstreamError` of kind ``cooling``.

        ``insist`` is for a caller with nowhere else to go: it probes before the rest is over, or, while a probe is out,
        waits at most ``patience`` seconds for what the probe finds.
        """
        circuit = breaker.admit(self._circuit, self.clock(), early=insist)
        if circuit is None and insist:
            await self._probe_over(patience)
            circuit = breaker.admit(self._circuit, self.clock())
        if circuit is None:
            rest = max(0.0, self.rests_until - self.clock())
            raise UpstreamError(
                "cooling", "The backend rests after failures.", phase="connect", status=503, retry_after=rest
            )
        self._circuit = circuit
        return circuit.probing

    def settle(self, outcome: Outcome, kind: str, retry_after: float | None, *, probe: bool) -> None:
        """Tell the breaker how a call ended that `admit` let through. While it rests, only its probe's word counts."""
        before = self._circuit
        if before.until is not None and not probe:
            return
        if outcome == "ok" or (kind in breaker.HARMLESS and outcome == "error"):
            self._circuit = breaker.succeeded(before)
        elif kind in breaker.HARMLESS or outcome in ("cancelled", "rejected"):
            self._circuit = breaker.abandoned(before)
        else:
            self._circuit = breaker.failed(before, self.clock(), self._cooldown, kind, retry_after)
            if self._circuit.until is not None:
                self._on_rest(self.name, self._circuit.until - self.clock())
        if probe and self._verdict is not None:
            self._verdict.set_result(None)
            self._verdict = None

    def rest(self, seconds: float) -> None:
        """Rest because another proxy found the backend failing; its first probe comes when that is over."""
        if not self._circuit.probing:
            self._circuit = breaker.Circuit(self._circuit.failures, max(1, self._circuit.rests), self.clock() + seconds)

    def wake(self) -> None:
        """End a rest early because the backend says that it is well: the next request is its probe."""
        if self._circuit.until is not None and not self._circuit.probing:
            self._circuit = replace(self._circuit, until=min(self._circuit.until, self.clock()))

    async def _probe_over(self, patience: float) -> None:
        if self._verdict is None:
            self._verdict = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._verdict,), timeout=patience)


class Flight:
    """One attempt under way: all that it holds, and the one place where it lets go of it.

    It is made once its slot is taken and the breaker passed. `land` may be called from anywhere, any number of times;
    the first call counts.
    """

    __slots__ = (
        "_gpu_id", "_input_tokens", "_lane", "_probe", "_reply", "_trail", "attempt", "cost_nanos",
        "landed", "model", "said", "started", "step", "ttft_ms", "usage", "watch",
    )  # fmt: skip

    def __init__(
        self, lane: Lane, step: Step, input_tokens: int, patience: float, deadline: float, trail: Trail, probe: bool
    ) -> None:
        """The first phase must be over in ``patience`` seconds and by ``deadline``; ``trail`` gets the attempt."""
        self._lane, self.step, self.model, self._trail = lane, step, lane.model, trail
        self._input_tokens, self._probe = input_tokens, probe
        self._reply: Reply | None = None
        self.started = lane.clock()
        self.usage: Usage | None = None
        self.said: Said | None = None
        self.cost_nanos: int | None = None
        self.ttft_ms: float | None = None
        self.attempt: Attempt | None = None
        self.landed = False
        self._gpu_id = ""
        if lane.gpu is not None:
            self._gpu_id = str(next(_numbers))
            lane.gpu.start(self._gpu_id, lane.wall(), input_tokens)
        self.watch = Watch(lane.wheel, min(self.started + patience, deadline), self._expire)

    @property
    def reply(self) -> Reply:
        """The response that it carries."""
        assert self._reply is not None
        return self._reply

    def sent(self) -> None:
        """The request is on its way: from now on the backend may work."""
        self.watch.phase = "headers"

    def carry(self, reply: Reply) -> None:
        """Take charge of the response: landing closes it."""
        self._reply = reply
        self.watch.phase = "first_token"

    def now(self) -> float:
        """The time on the loop's clock."""
        return self._lane.clock()

    def first(self) -> None:
        """The first content is here."""
        if self.ttft_ms is None:
            self.ttft_ms = (self._lane.clock() - self.started) * 1000

    def bill(self) -> int | None:
        """What it costs, in nano-dollars, once its usage is known; None where unpriced. Stops the GPU's clock."""
        lane = self._lane
        if lane.gpu is not None:
            if self._gpu_id:
                self.cost_nanos = lane.gpu.stop(self._gpu_id, lane.wall())
                self._gpu_id = ""
        elif self.usage is None:
            self.cost_nanos = 0
        else:
            self.cost_nanos = money.cost_nanos(self.usage, lane.price)
        return self.cost_nanos

    def land(self, outcome: Outcome, error: UpstreamError | None = None) -> None:
        """End the attempt: close the response, free the slot, tell the breaker, price it, and write it down."""
        if self.landed:
            return
        self.landed = True
        self.watch.close()
        if self._reply is not None:
            self._reply.close()
        lane, now = self._lane, self._lane.clock()
        kind, phase, status, wait = ("", "done", 200, None) if outcome == "ok" else self._failing(outcome, error)
        if self.usage is None and _worked(kind, phase, error):
            self.usage = estimate(self._input_tokens, self.said)
            self._trail.uncounted.append(Uncounted(self.usage, self.said, lane.price))
        self.attempt = _attempt(
            backend=self.step.backend,
            tier=self.step.tier,
            model=self.model,
            outcome=outcome,
            status=status,
            error=kind,
            phase=phase,
            usage=self.usage,
            cost_nanos=self.bill(),
            ttft_ms=self.ttft_ms,
            total_ms=(now - self.started) * 1000,
            precision=lane.precision,
        )
        self._trail.append(self.attempt)
        lane.settle("ok" if phase == "done" else outcome, kind, wait, probe=self._probe)
        lane.slots.give_back(now - self.started)

    def _failing(self, outcome: Outcome, error: UpstreamError | None) -> tuple[str, Phase, int | None, float | None]:
        """What an attempt that did not answer is written down as, and how long its backend asked to be left alone."""
        phase, status = self.watch.phase, 200 if self._reply is not None else None
        if error is None:
            return "cancelled" if outcome == "cancelled" else "", phase, status, None
        kind = f"{error.kind}:{error.code}" if error.kind == "poor" else error.kind
        phase = "done" if error.kind == "poor" else "connect" if error.phase == "connect" else phase
        return kind, phase, status or error.status, error.retry_after

    def fail(self, error: UpstreamError) -> None:
        """End the attempt with a failure."""
        self.land(_OUTCOMES.get(error.kind, "error"), error)

    def _expire(self) -> None:
        self.fail(self.watch.timed_out())


def _worked(kind: str, phase: Phase, error: UpstreamError | None) -> bool:
    """Whether a backend that told us no usage has worked all the same, and will say so in its bill."""
    match phase:
        case "connect":
            return False
        case "headers":
            return kind in ("timeout", "cancelled") and (error is None or error.status is None)
        case "first_token":
            return kind in ("timeout", "cancelled", "cut", "malformed", "empty")
    return True
