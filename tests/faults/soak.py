"""Minutes of mixed faults and clients that leave at random: ``python -m tests.faults.soak --seconds 180``.

Ends with nothing in flight, no task, no socket and no memory more than it began with, and attempts that agree with the
misbehaving backends' own count. Exit code 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from policies.values import Attempt
from router.backends import open_backends
from router.dispatch import Dispatcher
from router.errors import Exhausted
from tests.faults.faults import FAULTS
from tests.faults.harness import decision, order, policy
from tests.faults.speech import well
from tests.faults.upstream import Peer, Upstream

PATIENCE = {"first_token": "500ms", "between_tokens": "500ms", "answer": "500ms", "total": "5s"}
HEAVY = {"gzip bomb", "an event without end", "endless headers", "huge headers"}
MILD = [fault for fault in FAULTS if not fault.url and not fault.tls and fault.name not in HEAVY and not fault.body]


@dataclass
class Tally:
    """What came of all requests: counts by outcome, and for requests that ended lately how many attempts were made.

    An attempt may end before the backend has read it: the client left, the connection was reset, time was up. Those
    come on top: ``ended`` holds how many attempts the backend must have heard of, and how many more it may have.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    ended: dict[str, tuple[int, int]] = field(default_factory=dict)
    due: dict[str, tuple[int, int]] = field(default_factory=dict)
    heard: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    requests: int = 0

    def compare(self, upstreams: Sequence[Upstream]) -> None:
        """Hold requests that had ended before the last call against what the backends heard, and forget them."""
        for upstream in upstreams:
            self.heard.update(body["user"] for body in upstream.requests)
            upstream.requests.clear()
        for user, (made, more) in self.due.items():
            if not made <= self.heard.pop(user, 0) <= made + more:
                self.wrong.append(f"request {user}: {made} attempts or up to {more} more, upstream heard otherwise")
        self.due, self.ended = self.ended, {}


async def misbehave(peer: Peer) -> None:
    """Half the time well, otherwise in a way of chance."""
    await (well if random.random() < 0.5 else random.choice(MILD).behave)(peer)


async def client(dispatcher: Dispatcher, backends: int, number: int, tally: Tally) -> None:
    """One request, streamed or not, from a client that may leave at any moment."""
    stream = random.random() < 0.5
    trail: list[Attempt] = []
    tally.requests += 1

    async def ask() -> str:
        answer = await dispatcher.run(order(stream, user=str(number)), decision(backends), trail)
        try:
            async for _ in answer.body:
                pass
        finally:
            await answer.aclose()
        return trail[-1].outcome

    patience = random.expovariate(20) if random.random() < 0.3 else None
    try:
        async with asyncio.timeout(patience):
            outcome = await ask()
    except TimeoutError:
        outcome = "left"
    except Exhausted:
        outcome = "refused"
    tally.outcomes[outcome] += 1
    made = [attempt for attempt in trail if attempt.phase != "connect"]
    tally.attempts.update(attempt.outcome for attempt in made)
    unheard = sum(_unheard(attempt) for attempt in made)
    tally.ended[str(number)] = (len(made) - unheard, unheard)


def _unheard(attempt: Attempt) -> bool:
    early = attempt.phase == "headers" and attempt.outcome in ("cancelled", "timeout")
    return early or attempt.error == "reset"


def resident() -> float:
    """This process's resident memory, in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def soak(seconds: float, at_once: int = 32) -> tuple[Tally, list[str]]:
    """Run for so long; what came of it, and everything that is not as it must be."""
    tally, wrong = Tally(), []
    tasks = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(misbehave)) for _ in range(2)]
        upstreams.append(await stack.enter_async_context(Upstream(well)))
        urls = (upstream.url for upstream in upstreams)
        settled = policy(*urls, backend={"max_in_flight": 16}, cooldown={"rest": "100ms"}, timeouts=PATIENCE)
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        loop = asyncio.get_running_loop()
        begun, number, warm = loop.time(), 0, 0.0

        async def clients() -> None:
            nonlocal number, warm
            while (passed := loop.time() - begun) < seconds:
                number += 1
                await client(dispatcher, len(upstreams), number, tally)
                if not warm and passed > seconds / 3:
                    warm = resident()

        running = asyncio.gather(*(clients() for _ in range(at_once)))
        while not running.done():
            await asyncio.wait((running,), timeout=1)
            tally.compare(upstreams)
        grown = resident() - warm
        for upstream in upstreams:
            async with asyncio.timeout(1):
                await upstream.idle()
        wrong += [f"{count} slots of {name}" for name, count in dispatcher.in_flight().items() if count]
        wrong += [f"{grown:.1f} MiB more memory"] if grown > 16 else []
        for _ in range(2):
            tally.compare(upstreams)
        wrong += tally.wrong
        wrong += [f"request {user}: heard {count} times and never made" for user, count in tally.heard.items()]
        for backend in backends.values():
            await backend.aclose()
    await asyncio.sleep(0.05)
    wrong += [f"task {task.get_coro()}" for task in asyncio.all_tasks() - tasks]
    return tally, wrong


def main() -> int:
    """Soak and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    tally, wrong = uvloop.run(soak(asked.seconds))
    print(f"{tally.requests} requests in {asked.seconds:.0f} s: {dict(tally.outcomes)}")
    print(f"{tally.attempts.total()} attempts: {dict(tally.attempts)}")
    print("\n".join(wrong[:20]) if wrong else "nothing in flight, no task left, memory flat, upstream's count agrees")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
