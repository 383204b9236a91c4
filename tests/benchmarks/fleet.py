"""A simulated fleet: what load- and cache-aware choice gains over round-robin and least-loaded.

    python -m tests.benchmarks.fleet [--seeds N] [--loads L,…] [--slowest SPEED] [--sensitivity]

Conversations of several applications, each with its own system prompt, arrive at four engines. Each engine is modelled
by the event: a queue, slots, prefill one prompt at a time at a fixed speed, decoding that slows with the batch, and a
real prefix cache (blocks of 64 tokens, least recently used out first). The chooser under test is the product's own:
`policies.decide` over `router.affinity`, with engine metrics two seconds old at most and rates over their last minute.
Simulated time, so every run with one seed gives the same figures. At load 1 the slots are two thirds full, at 1.3 the
fleet is overloaded: queues grow for as long as conversations arrive.
"""

from __future__ import annotations

import argparse
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import count
from math import exp, log, sqrt
from random import Random
from statistics import fmean, stdev
from typing import Any
from unittest.mock import patch

from scipy.stats import t as student  # type: ignore[import-untyped]

from policies import placement
from policies.decide import decide
from policies.document import Loaded, load
from policies.values import EngineView, Features, Session, View
from router.affinity import Affinity, Trace, trace
from router.engines.view import WINDOW

ENGINES = ("gpu-1", "gpu-2", "gpu-3", "gpu-4")
SLOTS = 24
PREFILL = 6_000.0
STEP = 0.018
SLOWDOWN = 1.5
BLOCK = 64
CACHE_TOKENS = 160_000
SCRAPED_EVERY = 2.0
INPUT_USD, CACHED_USD, OUTPUT_USD = 0.50e-6, 0.05e-6, 1.50e-6
APPLICATIONS, SYSTEM_TOKENS = 12, 1_500
THINKING = 12.0
NOW = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Request:
    """One turn: ``blocks`` are its prompt's cache blocks, ``prompt`` what the router's own index makes of its text."""

    conversation: int
    turn: int
    input_tokens: int
    output_tokens: int
    blocks: tuple[tuple[int, int], ...]
    prompt: Trace


@dataclass
class Engine:
    """One engine: what runs, what waits, and what is cached."""

    speed: float = 1.0
    running: int = 0
    waiting: deque[tuple[float, Request]] = field(default_factory=deque)
    prefill_free: float = 0.0
    held: int = 0
    generated: int = 0
    begun: int = 0
    asked: int = 0
    found: int = 0
    told: deque[tuple[float, int, int, int, int]] = field(default_factory=deque)
    busy: float = 0.0
    cached: OrderedDict[tuple[int, int], None] = field(default_factory=OrderedDict)

    def hit(self, request: Request) -> int:
        """Tokens of the prompt's beginning that are cached; afterwards all of it is."""
        found = next((i for i, block in enumerate(request.blocks) if block not in self.cached), len(request.blocks))
        for block in reversed(request.blocks):
            self.cached[block] = None
            self.cached.move_to_end(block)
        while len(self.cached) > CACHE_TOKENS // BLOCK:
            self.cached.popitem(last=False)
        self.begun, self.asked = self.begun + 1, self.asked + request.input_tokens
        self.found += found * BLOCK
        return found * BLOCK


@dataclass(frozen=True, slots=True)
class Result:
    """What a chooser achieved: share of prompt tokens found in caches, TTFT in ms, dollars per 1,000 requests."""

    chooser: str
    load: float
    requests: int
    hit_rate: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    usd_per_1000: float
    prefill_seconds: float


Chooser = Callable[["World", Request], str]


@dataclass
class World:
    """Everything that a chooser may know."""

    engines: dict[str, Engine]
    loaded: Loaded
    affinity: Affinity
    sessions: dict[int, str] = field(default_factory=dict)
    views: dict[str, EngineView] = field(default_factory=dict)
    turn: Iterator[int] = field(default_factory=count)

    def in_flight(self) -> dict[str, int]:
        return {name: engine.running + len(engine.waiting) for name, engine in self.engines.items()}


def round_robin(world: World, request: Request) -> str:
    return ENGINES[next(world.turn) % len(ENGINES)]


def least_loaded(world: World, request: Request) -> str:
    load = world.in_flight()
    return min(ENGINES, key=lambda name: load[name])


def sessions_only(world: World, request: Request) -> str:
    """A conversation never moves; new ones go to the least loaded."""
    return world.sessions.get(request.conversation) or least_loaded(world, request)


def tierwise(world: World, request: Request) -> str:
    own = world.sessions.get(request.conversation)
    view = View(
        now=NOW,
        in_flight=world.in_flight(),
        session=Session("fleet", own) if own else None,
        engines=world.views,
        warm=world.affinity.warm(request.prompt),
    )
    asked = Features(input_tokens=request.input_tokens, turns=request.turn, last_text="x" * 400)
    chosen = decide(world.loaded, asked, None, view).steps[0].backend
    world.affinity.served(chosen, request.prompt, CACHE_TOKENS)
    return chosen


CHOOSERS: dict[str, Chooser] = {
    "round-robin": round_robin,
    "least-loaded": least_loaded,
    "sessions only": sessions_only,
    "tierwise": tierwise,
}


def policy() -> Loaded:
    backends = "\n".join(
        f"      - {{name: {name}, kind: vllm, model: m, cost: {{input_usd_per_mtok: {INPUT_USD * 1e6}, "
        f"cached_input_usd_per_mtok: {CACHED_USD * 1e6}, output_usd_per_mtok: {OUTPUT_USD * 1e6}}}}}"
        for name in ENGINES
    )
    return load(f"version: 1\ntiers:\n  fleet:\n    backends:\n{backends}\n", file="fleet.yaml", environ={})


@cache
def _words(seed: int, tokens: int) -> str:
    random = Random(seed)
    return "".join(f"{random.randrange(10_000):04d}" for _ in range(tokens))


@lru_cache(maxsize=2_048)
def conversation(number: int, seed: int) -> Sequence[Request]:
    """The turns of one conversation: a shared system prompt, then questions and answers that pile up."""
    random = Random(seed * 1_000_003 + number)
    application = min(int(random.expovariate(0.35)), APPLICATIONS - 1)
    messages: list[dict[str, Any]] = [{"role": "system", "content": _words(application, SYSTEM_TOKENS)}]
    blocks = [(-1 - application, index) for index in range(SYSTEM_TOKENS // BLOCK)]
    tokens, turns = SYSTEM_TOKENS, []
    for turn in range(1, 2 + min(int(random.expovariate(0.22)), 14)):
        asked, answered = 60 + int(random.expovariate(1 / 250)), 40 + int(random.expovariate(1 / 180))
        messages = [*messages, {"role": "user", "content": _words(number * 100 + turn, asked)}]
        tokens += asked
        own = (tokens - SYSTEM_TOKENS) // BLOCK
        whole = (*blocks, *((number, index) for index in range(own)))
        turns.append(Request(number, turn, tokens, answered, whole, trace({"messages": messages})))
        messages = [*messages, {"role": "assistant", "content": _words(number * 100 + turn + 50, answered)}]
        tokens += answered
    return turns


def simulate(
    name: str, load_share: float, *, seed: int = 1, conversations: int = 1_500, slowest: float = 1.0
) -> Result:
    """Run one chooser. ``load_share`` scales arrivals: at 1 the slots are two thirds full.

    ``slowest`` is the speed of the last engine against that of the others.
    """
    random = Random(seed)
    speeds = dict.fromkeys(ENGINES, 1.0) | {ENGINES[-1]: slowest}
    world = World({name: Engine(speed) for name, speed in speeds.items()}, policy(), Affinity(ENGINES))
    events: list[tuple[float, int, str, Any]] = []
    order = count()
    at = 0.0
    for number in range(conversations):
        at += random.expovariate(1.55 * load_share)
        heapq.heappush(events, (at, next(order), "ask", (conversation(number, seed), 0)))
    heapq.heappush(events, (0.0, next(order), "scrape", None))
    ttft: list[float] = []
    hits = given = answered = spent = 0.0

    def begin(now: float, where: str, arrived: float, request: Request) -> None:
        nonlocal hits, given, answered, spent
        engine = world.engines[where]
        engine.running += 1
        engine.held += request.input_tokens + request.output_tokens
        cached = engine.hit(request)
        prefill = (request.input_tokens - cached) / (PREFILL * engine.speed)
        first = max(now, engine.prefill_free) + prefill
        engine.prefill_free, engine.busy = first, engine.busy + prefill
        step = STEP * (1 + SLOWDOWN * engine.running / SLOTS) / engine.speed
        ttft.append(first + step - arrived)
        hits, given, answered = hits + cached, given + request.input_tokens, answered + 1
        spent += (request.input_tokens - cached) * INPUT_USD + cached * CACHED_USD + request.output_tokens * OUTPUT_USD
        heapq.heappush(events, (first + step * request.output_tokens, next(order), "end", (where, request)))

    while events:
        now, _, what, about = heapq.heappop(events)
        if what == "ask":
            turns, index = about
            request = turns[index]
            where = CHOOSERS[name](world, request)
            world.sessions[request.conversation] = where
            if world.engines[where].running < SLOTS:
                begin(now, where, now, request)
            else:
                world.engines[where].waiting.append((now, request))
            if index + 1 < len(turns):
                pause = random.expovariate(1 / THINKING) + request.output_tokens * STEP * 2
                heapq.heappush(events, (now + pause, next(order), "ask", (turns, index + 1)))
        elif what == "end":
            where, request = about
            engine = world.engines[where]
            engine.running -= 1
            engine.held -= request.input_tokens + request.output_tokens
            engine.generated += request.output_tokens
            if engine.waiting:
                begin(now, where, *engine.waiting.popleft())
        elif events:
            world.views = {each: _view(engine, now) for each, engine in world.engines.items()}
            heapq.heappush(events, (now + SCRAPED_EVERY, next(order), "scrape", None))
    ttft.sort()
    return Result(
        name, load_share, int(answered), hits / given, 1e3 * ttft[len(ttft) // 2], 1e3 * ttft[int(len(ttft) * 0.99)],
        1_000 * spent / answered, sum(engine.busy for engine in world.engines.values()),
    )  # fmt: skip


def _view(engine: Engine, now: float) -> EngineView:
    """What a scrape makes of an engine: gauges as they are, rates over a minute, as `router.engines.view` has it."""
    engine.told.append((now, engine.generated, engine.begun, engine.asked, engine.found))
    while len(engine.told) > 2 and engine.told[1][0] <= now - WINDOW:
        engine.told.popleft()
    seconds, generated, begun, asked, found = (b - a for a, b in zip(engine.told[0], engine.told[-1], strict=True))
    return EngineView(
        waiting=len(engine.waiting),
        running=engine.running,
        elsewhere=0.0,
        kv_use=min(1.0, engine.held / CACHE_TOKENS),
        kv_tokens=CACHE_TOKENS,
        tokens_per_second=generated / seconds if seconds else None,
        requests_per_second=begun / seconds if seconds else None,
        prefix_hit_rate=found / asked if asked else None,
        prefill_tokens_per_second=PREFILL * engine.speed,
    )


FIGURES = {"hit_rate": "prompt tokens from cache", "ttft_p50_ms": "TTFT p50", "ttft_p99_ms": "TTFT p99",
           "usd_per_1000": "dollars"}  # fmt: skip
CONSTANTS = ("RUNNING_MS", "CROWD", "WAITING_MS", "PREEMPTION_MS", "PREFILL_TOKENS_PER_SECOND", "USD_PER_SECOND",
             "STAY_MS", "SURE")  # fmt: skip


def ratio(ours: Sequence[Result], theirs: Sequence[Result], figure: str) -> str:
    """The geometric mean of ours over theirs, paired by seed, with its 95% interval (Student's t on the logarithms)."""
    logs = [log(getattr(a, figure) / getattr(b, figure)) for a, b in zip(ours, theirs, strict=True)]
    middle = fmean(logs)
    reach = float(student.ppf(0.975, len(logs) - 1)) * stdev(logs) / sqrt(len(logs)) if len(logs) > 1 else 0.0
    return f"{exp(middle):.3f} [{exp(middle - reach):.3f}, {exp(middle + reach):.3f}]"


def compared(seeds: Sequence[int], loads: Sequence[float], slowest: float) -> Iterator[str]:
    """Rows of a table: what every chooser achieved, and how ours compares with it on the same arrivals."""
    yield f"| load | chooser | {' | '.join(FIGURES.values())} | ours to this: {', '.join(FIGURES.values())} |"
    yield "|---" * (3 + len(FIGURES)) + "|"
    for share in loads:
        found: dict[str, list[Result]] = {name: [] for name in CHOOSERS}
        for seed in seeds:
            for name, results in found.items():
                results.append(simulate(name, share, seed=seed, slowest=slowest))
        for name, results in found.items():
            hits, p50, p99, usd = (fmean(getattr(result, figure) for result in results) for figure in FIGURES)
            against = ", ".join(ratio(found["tierwise"], results, figure) for figure in FIGURES)
            told = f"{hits:.1%} | {p50:,.0f} ms | {p99:,.0f} ms | ${usd:.3f} per 1,000"
            yield f"| {share} | {name} | {told} | {against if name != 'tierwise' else ''} |"


def sensitive(seeds: Sequence[int], loads: Sequence[float]) -> Iterator[str]:
    """Rows of a table: what a third and three times of each constant of `policies.placement` would do to ours."""
    yield f"| constant | load | × | {' | '.join(FIGURES.values())} |"
    yield "|---" * (3 + len(FIGURES)) + "|"
    for share in loads:
        plain = [simulate("tierwise", share, seed=seed) for seed in seeds]
        for constant in CONSTANTS:
            for factor in (1 / 3, 3.0):
                with patch.object(placement, constant, factor * getattr(placement, constant)):
                    changed = [simulate("tierwise", share, seed=seed) for seed in seeds]
                told = " | ".join(ratio(changed, plain, figure) for figure in FIGURES)
                yield f"| {constant} | {share} | {factor:.2g} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="so many runs of each, 1 and up (default: %(default)s)")
    parser.add_argument("--loads", default="0.5,0.8,1.0,1.3", help="shares of the load (default: %(default)s)")
    parser.add_argument("--slowest", type=float, default=1.0, help="speed of the last engine (default: as the others)")
    parser.add_argument("--sensitivity", action="store_true", help="vary the constants of policies.placement instead")
    args = parser.parse_args()
    seeds, loads = range(1, args.seeds + 1), [float(share) for share in args.loads.split(",")]
    for row in sensitive(seeds, loads) if args.sensitivity else compared(seeds, loads, args.slowest):
        print(row, flush=True)


if __name__ == "__main__":
    main()
