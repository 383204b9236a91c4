"""One request, from its features to its entry: read the world, read signals, decide, dispatch, write it down.

A `Pipeline` serves one policy; a reload builds another and swaps it in, so that a request never sees two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import ceil
from random import random
from secrets import token_hex
from time import perf_counter, time, time_ns
from typing import NamedTuple
from zoneinfo import ZoneInfo

from policies import money
from policies.conditions import headers_read, texts_read
from policies.decide import conclude, decide
from policies.document import Loaded
from policies.doubts import needs_signals
from policies.frozen import maker, quick
from policies.session import next_session
from policies.values import Counterfactual, Decision, Entry, Features, Outcome, Refusal, Session, Signals, Usage, View
from router.admission import Admission
from router.affinity import Trace
from router.baseline import Baseline, baseline_backend
from router.billing import baseline_nanos, proxy_nanos, total_nanos
from router.dispatch import Answer, Dispatcher, Order
from router.errors import STOPPED, Exhausted, RequestError, out_of_time
from router.fleet import Fleet
from router.headers import content_type, served_lines
from router.ledger.budgets import NOTHING_HELD, Grant
from router.ledger.ledger import Ledger
from router.served import Served, served, told
from router.signals import SignalReader
from router.state.store import Store
from router.telemetry import Telemetry
from router.trail import Trail
from router.wire import ChatRequest


def _fresh_ids(at_once: int = 256) -> Iterator[str]:
    """Ids in the order of time that nobody can guess: 48 bits of milliseconds, 80 random ones.

    In this order they go to the end of the journal's index; anywhere in it, each would have a page written for itself.
    The system is asked for many random bits at a time.
    """
    written, begin = 0, ""
    while True:
        noise = token_hex(10 * at_once)
        for start in range(0, len(noise), 20):
            now = time_ns() // 1_000_000
            if now != written:
                written, begin = now, f"{now:012x}"
            yield begin + noise[start : start + 20]


_ids = _fresh_ids()


@quick
@dataclass(frozen=True, slots=True)
class Choice:
    """A decision with what it was made from, so that it can be shown, explained and replayed."""

    features: Features
    signals: Signals | None
    view: View
    decision: Decision
    classify_ms: float = 0.0


_choice, _entry, _order, _view = maker(Choice), maker(Entry), maker(Order), maker(View)
_NONE_IN_FLIGHT: Mapping[str, int] = {}


class _Used(NamedTuple):
    """The tokens of an answer, what the baseline would have used in its place, and the nano-dollars of that."""

    usage: Usage
    counterfactual: Counterfactual | None
    baseline_nanos: int | None


@dataclass(slots=True)
class _Exchange:
    """What has come of one request so far; the entry is made of it, wherever the request ended."""

    request: ChatRequest
    arrived: float
    id: str
    at: float
    attempts: Trail
    choice: Choice | None = None
    grant: Grant = NOTHING_HELD
    prompt: Trace = ()
    answer: Answer | None = None
    used: _Used | None = None
    status: int = 499
    outcome: Outcome = "cancelled"
    overhead_ms: float | None = None
    ttft_ms: float | None = None

    def elapsed_ms(self) -> float:
        return (perf_counter() - self.arrived) * 1e3

    def waited_ms(self) -> float:
        """Time spent on attempts that have ended."""
        waited = 0.0
        for attempt in self.attempts:
            waited += attempt.total_ms
        return waited

    def added_ms(self) -> float:
        """What the proxy itself added up to the first content, or up to now where there is none."""
        return max(0.0, self.elapsed_ms() - self.waited_ms()) if self.overhead_ms is None else self.overhead_ms

    def opened(self, answer: Answer) -> None:
        """The answer's first content is here (all of it, where it is not streamed)."""
        self.answer = answer
        self.ttft_ms = self.elapsed_ms()
        waited_ms = self.waited_ms() + (answer.ttft_ms or 0.0 if answer.whole is None else 0.0)
        self.overhead_ms = max(0.0, self.ttft_ms - waited_ms)


class Pipeline:
    """The stops of a request under one policy."""

    def __init__(
        self,
        loaded: Loaded,
        reader: SignalReader,
        dispatcher: Dispatcher,
        fleet: Fleet,
        store: Store,
        ledger: Ledger,
        telemetry: Telemetry,
        baseline: Baseline,
    ) -> None:
        self.loaded = loaded
        self.reader = reader
        conditions = [rule.when for rule in loaded.policy.rules] + [budget.when for budget in loaded.policy.budgets]
        self.headers_read = headers_read(conditions)
        policy = loaded.policy
        self.auth, self.session_header, self.most_bytes = policy.auth, policy.session.header, policy.limits.body_bytes
        self._zone, self._sticky = policy.timezone, policy.session.sticky
        self._session_seconds = max(1, round(policy.session.ttl.total_seconds()))
        looked_at = self.headers_read | {self.session_header.lower()}
        self.headers = tuple((name.encode("latin-1", "replace"), name) for name in looked_at)
        self._texts_matter = loaded.policy.logging.content or texts_read(conditions)
        self.dispatcher = dispatcher
        self.fleet = fleet
        self._store = store
        self._ledger = ledger
        self._admission, self._budgeted = Admission(loaded, store), bool(policy.budgets)
        self._telemetry = telemetry
        self._baseline = baseline
        self._baseline_price = money.price_of(baseline_backend(loaded.policy))
        self._hour_nanos = money.nanos(policy.ledger.proxy_hour_usd)
        self._timezone = ZoneInfo(policy.timezone)
        self._serving = 0
        self._retired = False
        self._idle = asyncio.Event()

    def keeps_text(self, model: str) -> bool:
        """Whether a request's text matters, its language and code in it, where ``model`` is this."""
        return self._texts_matter or model in self.loaded.weighs

    async def choose(self, features: Features, prompt: Trace = ()) -> Choice:
        """Decide where a request would go, without calling anyone."""
        store = self._store
        session = await store.session(features.conversation, features.turns) if self._sticky else None
        looked_at, among = self._drawn(features, session, prompt) if self.fleet.crowded else ({}, None)
        engines, warm, windows = self.fleet.told(prompt, among)
        view = _view(
            now=datetime.now(self._timezone),
            cooling=self.dispatcher.cooling(among),
            in_flight=self.dispatcher.in_flight(among) if self.fleet.weighs else _NONE_IN_FLIGHT,
            session=session,
            spent_today=store.spent_today(self._zone),
            draw=random(),
            engines=engines,
            warm=warm,
            windows=windows,
            looked_at=looked_at,
        )
        if not needs_signals(self.loaded, features):
            return _choice(features, None, view, decide(self.loaded, features, None, view))
        signals, weighed, classify_ms = await self.reader.read(self.loaded, features, view)
        return _choice(features, signals, view, conclude(weighed), classify_ms)

    def _drawn(
        self, features: Features, session: Session | None, prompt: Trace
    ) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Whom the request looks at in tiers of very many backends, and all that it looks at in any tier."""
        asked = self.loaded.target(features.model)
        wanted = [*(features.allowed or ()), "" if isinstance(asked, Refusal) else asked.name]
        return self.fleet.drawn(prompt, wanted if session is None else [*wanted, session.backend])

    async def serve(self, request: ChatRequest, arrived: float, deliver: Callable[[Served], Awaitable[None]]) -> None:
        """Answer one request. Its entry is written on the way out, however that comes about.

        ``arrived`` is when the request came in, on `time.perf_counter`; ``deliver`` sends what is served to the client.
        """
        exchange = _Exchange(request, arrived, next(_ids), time(), Trail())
        self._serving += 1
        self._telemetry.arrived()
        try:
            await deliver(await self._answer(exchange))
            if exchange.answer is not None:
                if exchange.answer.whole is None:
                    await exchange.answer.aclose()
                exchange.status, exchange.outcome = 200, exchange.attempts[-1].outcome
        except asyncio.CancelledError as error:
            if not out_of_time(error):
                raise
            exchange.status, exchange.outcome = STOPPED.status, "error"
            if exchange.answer is not None:
                raise
            await deliver(told(STOPPED))
        except Exception:
            exchange.status, exchange.outcome = 500, "error"
            raise
        finally:
            if exchange.answer is not None and exchange.answer.whole is None:
                await exchange.answer.aclose()
            self._serving -= 1
            if self._retired and not self._serving:
                self._idle.set()
            self._remember(exchange)
            total_ms = exchange.elapsed_ms()
            if exchange.attempts.uncounted:
                write_down = partial(self._write_down, exchange, total_ms)
                self._ledger.counting.later(exchange.attempts, request.body, write_down)
            else:
                self._write_down(exchange, total_ms)

    async def _answer(self, exchange: _Exchange) -> Served:
        """The answer as soon as it has begun, or the error that stands in for it."""
        request = exchange.request
        exchange.prompt = self.fleet.trace(request.body)
        choice = await self.choose(request.features, exchange.prompt)
        if self._budgeted:
            choice = await self._admitted(exchange, choice)
        exchange.choice = choice
        if (refusal := choice.decision.refusal) is not None:
            seconds = exchange.grant.retry_after
            wait = {"retry-after": str(ceil(seconds))} if refusal.status == 429 and seconds is not None else {}
            error = RequestError(refusal.status, refusal.code, refusal.message, refusal.param, headers=wait)
            return self._failed(exchange, error, "rejected")
        order = _order(
            "chat/completions", request.body, request.stream, request.wants_usage, request.features.input_tokens
        )
        try:
            answer = await self.dispatcher.run(order, choice.decision, exchange.attempts)
        except Exhausted as error:
            return self._failed(exchange, error, error.attempts[-1].outcome if error.attempts else "rejected")
        except RequestError as error:
            return self._failed(exchange, error, "rejected")
        if answer.whole is not None and exchange.attempts.uncounted:
            await self._ledger.counting.settle(exchange.attempts, request.body)
        exchange.opened(answer)
        self.fleet.served(answer.step.backend, exchange.prompt)
        about = content_type(answer.content_type), self._lines(exchange)
        if answer.whole is not None:
            length = str(len(answer.whole)).encode()
            return served(200, b"".join((*about, b"content-length: ", length, b"\r\n")), answer.whole)
        return served(200, b"".join((*about, b"cache-control: no-cache\r\nx-accel-buffering: no\r\n")), answer.body)

    async def _admitted(self, exchange: _Exchange, choice: Choice) -> Choice:
        view, decision, exchange.grant = await self._admission.admit(
            exchange.id, choice.features, choice.signals, choice.view, choice.decision
        )
        return choice if decision is choice.decision else replace(choice, view=view, decision=decision)

    def _failed(self, exchange: _Exchange, error: RequestError | Exhausted, outcome: Outcome) -> Served:
        answer = told(error)
        exchange.status, exchange.outcome = answer.status, outcome
        return replace(answer, lines=answer.lines + self._lines(exchange))

    def _lines(self, exchange: _Exchange) -> bytes:
        assert exchange.choice is not None
        costs = None
        if exchange.answer is not None and exchange.answer.whole is not None:
            costs = (total_nanos(exchange.attempts), self._used(exchange).baseline_nanos)
        return served_lines(
            exchange.id, exchange.choice.decision, exchange.choice.signals, exchange.answer, len(exchange.attempts),
            exchange.choice.classify_ms, exchange.added_ms(), costs,
        )  # fmt: skip

    def _used(self, exchange: _Exchange) -> _Used:
        """What the request used in the end, and what the baseline would have instead; found once, as it learns."""
        if exchange.used is None:
            last = exchange.attempts.last_used()
            if last is None or last.usage is None or exchange.choice is None:
                return _Used(Usage(), None, baseline_nanos(self._baseline_price, Usage(), None))
            choice, served = exchange.choice, (last.tier, last.backend)
            counterfactual = self._baseline.counterfactual(
                self.loaded.policy, choice.features, choice.signals, choice.view, served, last.usage
            )
            nanos = baseline_nanos(self._baseline_price, last.usage, counterfactual)
            exchange.used = _Used(last.usage, counterfactual, nanos)
        return exchange.used

    def _remember(self, exchange: _Exchange) -> None:
        """Remember the session where there was an answer."""
        choice, answer = exchange.choice, exchange.answer
        if choice is not None and answer is not None and self._sticky:
            following = next_session(self.loaded, choice.decision, choice.signals, choice.view, answer.step)
            self._store.remember(exchange.request.features.conversation, following, self._session_seconds)

    def _write_down(self, exchange: _Exchange, total_ms: float) -> None:
        """Make the entry, whatever happened."""
        request, attempts, answer = exchange.request, tuple(exchange.attempts), exchange.answer
        choice = exchange.choice or self._undecided(request.features)
        last = attempts[-1] if attempts else None
        used = self._used(exchange)
        overhead_ms = exchange.overhead_ms
        if overhead_ms is None:
            overhead_ms = max(0.0, total_ms - exchange.waited_ms())
        served_model = last.model if last is not None and answer is not None else ""
        tier, backend = (last.tier, last.backend) if last else (choice.decision.tier, "")
        # By place, since more names than fifteen are put into a dictionary, at twice the cost of all the rest.
        entry = _entry(
            exchange.id,
            exchange.at,
            request.features.key_id,
            request.features.model,
            served_model,
            tier,
            backend,
            exchange.status,
            exchange.outcome,
            request.stream,
            choice.decision,
            choice.features,
            choice.signals,
            choice.view,
            attempts,
            used.usage,
            total_nanos(attempts),
            used.baseline_nanos,
            classify_ms=choice.classify_ms,
            overhead_ms=overhead_ms,
            ttft_ms=exchange.ttft_ms,
            total_ms=total_ms,
            counterfactual=used.counterfactual,
            proxy_nanos=proxy_nanos(self._hour_nanos, overhead_ms),
        )
        self._ledger.record(entry, exchange.grant)
        self._telemetry.left(entry)

    def _undecided(self, features: Features) -> Choice:
        """What stands in the entry of a client that left before the decision."""
        decision = Decision((), ("the client left before the decision",), self.loaded.hash)
        return Choice(features, None, View(now=datetime.now(self._timezone)), decision)

    async def retire(self) -> None:
        """Close once nothing is served under this policy any more."""
        self._retired = True
        if self._serving:
            await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Close the connections to every backend."""
        self.reader.close()
        await self.fleet.close()
        for lane in self.dispatcher.lanes.values():
            await lane.backend.aclose()
