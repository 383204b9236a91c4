"""Which backend of a tier: the one that begins to answer soonest, what a cold prefix costs included.

Backends of a tier are interchangeable, so all that differs is time and money. Each is given the milliseconds until it
would begin: what runs and waits there, how full its KV cache is, and the part of the prompt it would have to compute
anew though another backend has it warm (prefix caching: Kwon et al. 2023, arXiv 2309.06180; Zheng et al. 2024,
arXiv 2312.07104). Money lost with a warm prefix counts as waiting, at what a second of waiting is worth. What an engine
does not say is taken to be as with its peers, never as nothing.

A session moves only for a gain beyond what chance explains. In an overloaded fleet all queues are long and differ by
chance, and moving after each difference would throw away every prefix. How long n waiting requests take is uncertain by
itself: where turns vary as much as they last on average (exponential ones), n take n turns, give or take the root of n.

A prefix cache is full, so what is computed anew in it throws out as much, of which the share that is hit will be
computed anew as well: a session's lost prefix costs that much more. A new conversation brings what others share.

`python -m tests.benchmarks.fleet --sensitivity` shows how little depends on each constant here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.money import GpuRates, Price, TokenRates
from policies.objective import TYPICAL_OUTPUT_OTHERWISE
from policies.schema import Backend
from policies.values import EngineView, Features, Session, View

RUNNING_MS = 15.0
"""How much later the next request begins for each one at work.

A 7B model in 4 bits on an L4 computes a prompt of 1,000 tokens in 280 ms and an answer of 300 in 8 s
(`policies.sizing`): each request at work is in its prefill 3.5% of the time, with 140 ms of it to go, which makes 5 ms;
and it stretches the whole answer by 100 ms. On the simulated fleet 5 costs time to the tail, 60 costs cache hits.
"""

CROWD = 16
"""Requests at work that double what each of them adds: then half of the time goes into prefills.

One server whose use is ρ makes wait in proportion to 1 / (1 − ρ) (Pollaczek 1930; Khinchine 1932).
"""

WAITING_MS = 250.0
"""The same for each one that waits in the engine's queue, where its throughput is not known.

An answer of 300 tokens at the 1,250 a second that the same model and GPU give to a batch of 48 (`policies.sizing`).
"""

LONGEST_TURN_MS = 10_000.0
"""The most that one waiting request is taken to add, however slow its engine says it is."""

PRESSED = 0.9
"""The share of the KV cache from which on an engine may preempt what runs (llm-d, "Model Server Metrics")."""

PREEMPTION_MS = 2_000.0
"""What a full KV cache adds: a preempted request is computed anew, some 10,000 tokens at the speed below."""

PREFILL_TOKENS_PER_SECOND = 5_000.0
"""Prompt tokens computed in a second where the engine does not say.

Of a 7B model in 4 bits an L4 computes 3,600 and an A100 9,200 (`policies.sizing`).
"""

USD_PER_SECOND = 0.005
"""Dollars that a second of waiting is worth when it is weighed against the price of a prefix: 18 an hour. A choice."""

STAY_MS = 200.0
"""What a session's move must gain beyond all that it loses. A choice: a fifth of a second is hardly noticed."""

SURE = 2.0
"""Standard errors by which a session's wait must be longer than elsewhere: of queues alike, 1 in 40 is by chance."""

CHARACTERS_PER_TOKEN = 4

_SILENT = EngineView()


@dataclass(frozen=True, slots=True)
class Standpoint:
    """One backend for one request: time until it begins without regard to prefixes, and what its cold prefix costs.

    ``error_ms`` is the standard error of the time.
    """

    backend: str
    full: bool
    wait_ms: float
    error_ms: float
    warm_tokens: int
    lost_ms: float
    lost_usd: float

    @property
    def total_ms(self) -> float:
        """Everything as time."""
        return self.wait_ms + self.lost_ms + 1e3 * self.lost_usd / USD_PER_SECOND


def standpoints(
    backends: Sequence[Backend],
    prices: Mapping[str, Price | None],
    features: Features,
    view: View,
    session: Session | None,
) -> list[Standpoint]:
    """Compare the backends of one tier, in their order; ``session`` is given where sessions are kept."""
    engines = [view.engines.get(backend.name, _SILENT) for backend in backends]
    in_flight = [view.in_flight.get(backend.name, 0) for backend in backends]
    waiting = elsewhere = kv_use = hit = [0.0] * len(backends)
    if view.engines:
        waiting = _filled([_waiting(engine, ours) for engine, ours in zip(engines, in_flight, strict=True)])
        elsewhere = _filled([_known(engine.elsewhere) for engine in engines])
        kv_use = _filled([_known(engine.kv_use) for engine in engines])
        hit = _filled([_known(engine.prefix_hit_rate) for engine in engines])
    warm = [_warm(backend.name, features, view, session) for backend in backends]
    warmest = max(warm, default=0)
    found = []
    for place, (backend, engine) in enumerate(zip(backends, engines, strict=True)):
        ours = in_flight[place]
        here = ours + elsewhere[place]
        turn = _turn_ms(engine)
        wait, error = RUNNING_MS * here * (1 + here / CROWD) + turn * waiting[place], turn * math.sqrt(waiting[place])
        if kv_use[place] > PRESSED:
            wait += PREEMPTION_MS * min(1.0, (kv_use[place] - PRESSED) / (1 - PRESSED))
        lost_ms, lost_usd = _loss(prices[backend.name], engine, warmest - warm[place])
        displaced = 1 + min(1.0, hit[place]) if session is not None else 1.0
        lost_ms, lost_usd = lost_ms * displaced * (1 + waiting[place]), lost_usd * displaced
        full = ours >= backend.max_in_flight
        found.append(Standpoint(backend.name, full, wait, error, warm[place], lost_ms, lost_usd))
    return found


def order(found: Sequence[Standpoint], session: Session | None) -> list[Standpoint]:
    """Put those that begin soonest first: full ones last, the session's own ahead unless a move surely gains enough."""
    ordered = sorted(found, key=lambda at: (at.full, at.total_ms))
    own = next((at for at in ordered if session is not None and session.backend == at.backend), None)
    if own is None or own.full or _moves(own, ordered[0]):
        return ordered
    return [own, *(at for at in ordered if at is not own)]


def _moves(own: Standpoint, other: Standpoint) -> bool:
    """Whether the own is worse by more than it would be by chance, were both queues as long as the other's."""
    chance = SURE * math.sqrt(2) * other.error_ms
    return own.total_ms - other.total_ms > STAY_MS + chance


def why(ordered: Sequence[Standpoint], session: Session | None) -> str:
    """Say why the first is first, where sessions or warm prefixes have to do with it; else nothing."""
    first = ordered[0]
    own = next((at for at in ordered[1:] if session is not None and at.backend == session.backend), None)
    if own is not None and own.full:
        return f"the session moves from {own.backend}, which is full, to {first.backend}"
    if own is not None:
        gain = f"{own.wait_ms - first.wait_ms:,.0f} ms less to wait"
        loss = f"{first.lost_ms - own.lost_ms:,.0f} ms and ${max(0.0, first.lost_usd - own.lost_usd):.6f} of prefix"
        return f"the session moves from {own.backend} to {first.backend}: {gain} against {loss}"
    if first.warm_tokens > min(at.warm_tokens for at in ordered):
        return f"{first.backend} has about {first.warm_tokens:,} tokens of it warm"
    return ""


def _warm(backend: str, features: Features, view: View, session: Session | None) -> int:
    """Tokens of the request that the backend has warm; a session's own has at least what was said before."""
    warm = view.warm.get(backend, 0)
    if session is not None and session.backend == backend and features.turns > 1:
        warm = max(warm, features.input_tokens - features.last_characters // CHARACTERS_PER_TOKEN)
    return max(0, min(warm, features.input_tokens))


def _filled(known: Sequence[float | None]) -> list[float]:
    """Put the mean of what is known in the place of what is not; zero only where nobody knows."""
    numbers = [value for value in known if value is not None]
    mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
    return [mean if value is None else value for value in known]


def _waiting(engine: EngineView, ours: int) -> float | None:
    """How many wait there by now: as told, moved by what this proxy has sent there and got back since.

    Without that, all would flee for as long as the reading is old from an engine that had a queue for a moment.
    """
    waiting, running, elsewhere = _known(engine.waiting), _known(engine.running), _known(engine.elsewhere)
    if not waiting or running is None or elsewhere is None:
        return waiting
    return max(0.0, waiting + ours - max(0.0, waiting + running - elsewhere))


def _known(value: float | None) -> float | None:
    return min(value, 1e9) if value is not None and value >= 0 else None


def _turn_ms(engine: EngineView) -> float:
    """How long one waiting request holds up the next: as long as passes between two that begin."""
    begun, speed = _known(engine.requests_per_second), _known(engine.tokens_per_second)
    if begun:
        return min(LONGEST_TURN_MS, 1e3 / begun)
    return min(LONGEST_TURN_MS, 1e3 * TYPICAL_OUTPUT_OTHERWISE / speed) if speed else WAITING_MS


def _loss(price: Price | None, engine: EngineView, tokens: int) -> tuple[float, float]:
    """Milliseconds and dollars of computing this many tokens anew."""
    if tokens <= 0:
        return 0.0, 0.0
    seconds = tokens / max(1.0, _known(engine.prefill_tokens_per_second) or PREFILL_TOKENS_PER_SECOND)
    match price:
        case TokenRates():
            return 1e3 * seconds, max(0.0, tokens * float(price.input - price.cached_input))
        case GpuRates():
            return 1e3 * seconds, float(price.hour) / 3600 * seconds / price.capacity
    return 1e3 * seconds, 0.0
