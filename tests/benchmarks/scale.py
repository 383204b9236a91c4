"""Whether cost stays flat as things grow: ``python -m tests.benchmarks.scale [--sizes 100,10000] [--chart FILE.png]``.

CPU per request to ``tier/small``, store included, against how much there is: entries in the journal, clients' keys,
sessions remembered, backends in the policy. What there is is put straight into the books; the proxies of all sizes run
side by side, and rounds go from one to the next. Then round trips to the store at a given rate of requests; and
requests per second of CPU of one worker, of two that share a journal, and of two proxies that share a store, all free
to run on both cores beside the load, since two that have to share one core get in each other's way.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from itertools import cycle, islice
from pathlib import Path
from random import Random
from threading import Thread
from typing import TypeAlias

import httpx
import orjson
import redis

from policies.values import Session
from router import keys, wire
from router.ledger.ledger import JOURNAL_NAME
from router.state.embedded import find_server
from tests.benchmarks import figures, load, machine, subjects
from tests.benchmarks.overhead import bodies

SIZES = (100, 10_000, 1_000_000)
RATE = 1_000
"""Requests a second at which round trips are counted."""
_REQUESTS = 600
_LONG = 2_000
_AT_ONCE = 2_000
_ASKED = 3_000
"""Keys and sessions that requests use, however many there are."""
_BUDGET = "budgets: [{name: day, per: day, scope: key, usd: 1000000}]"


@contextmanager
def fresh(
    url: str, *options: str, more: str = "", policy: str = subjects.POLICY
) -> Iterator[tuple[subjects.Subject, Path]]:
    """A proxy with empty books, and its data folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with subjects.tierwise(url, folder, *options, more=more, policy=policy) as subject:
            yield subject, folder


def store_of(folder: Path) -> redis.Redis:
    """The embedded store of a data folder."""
    return redis.Redis(unix_socket_path=str(folder / "store" / "store.sock"), socket_timeout=120)


Wires: TypeAlias = Iterator[bytes]
"""Requests as they go over the wire, for ever."""
Grown: TypeAlias = AbstractContextManager[tuple[subjects.Subject, Wires]]


@contextmanager
def entries(url: str, size: int) -> Iterator[tuple[subjects.Subject, Wires]]:
    """A proxy with this many entries in its journal, copies of real ones."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with subjects.tierwise(url, folder) as subject:
            load.drive(subject.url, bodies("tier/small"), 8, 0, requests=50)
        with closing(sqlite3.connect(folder / JOURNAL_NAME)) as journal, journal:
            journal.execute(
                "WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < ?) "
                "INSERT INTO blocks SELECT -1000 * n - seq, since, until, count, bodies FROM copies, blocks "
                "WHERE seq > 0",
                (max(1, size // 50),),
            )
        with subjects.tierwise(url, folder) as subject:
            yield subject, _wires(subject, bodies("tier/small"))


@contextmanager
def client_keys(url: str, size: int) -> Iterator[tuple[subjects.Subject, Wires]]:
    """A proxy that knows this many keys of clients, and is asked with some of them."""
    with fresh(url) as (subject, folder):
        made = [keys.make(f"client-{number}", allowed=("tier/small",)) for number in range(size)]
        for start in range(0, size, _AT_ONCE):
            with store_of(folder).pipeline(transaction=False) as pipe:
                for key, _ in made[start : start + _AT_ONCE]:
                    pipe.xadd("{tierwise}:keys", {"event": keys.made(key)})
                pipe.execute()
        texts = [text for _, text in Random(0).sample(made, min(size, _ASKED))]
        _until_known(subject.url, made[-1][1])
        asked = zip(bodies("tier/small", len(texts)), texts, strict=True)
        yield subject, cycle([load.request(subject.url, body, text) for body, text in asked])


def _until_known(url: str, text: str) -> None:
    """Until the proxy tells a client what its key may ask for, and no more."""
    deadline = time.monotonic() + 180
    while "tier/large" in _models(url, text):
        if time.monotonic() > deadline:
            raise RuntimeError("the proxy never learned the newest key")
        time.sleep(0.1)


def _models(url: str, text: str) -> set[str]:
    answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {text}"}, timeout=60)
    return {model["id"] for model in answer.json()["data"]}


@contextmanager
def sessions(url: str, size: int) -> Iterator[tuple[subjects.Subject, Wires]]:
    """A proxy whose store remembers this many conversations, asked for the next turn of some of them."""
    with fresh(url) as (subject, folder):
        asked = [_next_turn(number) for number in range(min(size, _ASKED))]
        names = [_conversation(body) for body in asked]
        names += [f"{number:024x}" for number in range(len(names), size)]
        told = orjson.dumps(Session("small", "bench-small", 0.2))
        for start in range(0, size, _AT_ONCE):
            with store_of(folder).pipeline(transaction=False) as pipe:
                for name in names[start : start + _AT_ONCE]:
                    pipe.set(f"{{tierwise}}:session:{name}", told, ex=3600)
                pipe.execute()
        yield subject, _wires(subject, asked)


def _next_turn(number: int) -> bytes:
    question = {"role": "user", "content": "How does one measure the cost of a proxy? " * 10}
    messages = [question, {"role": "assistant", "content": "By what it takes. " * 20}, question]
    return orjson.dumps({"model": "tier/small", "user": f"user-{number}", "messages": messages})


def _conversation(body: bytes) -> str:
    client = wire.Client(wire.key_id(subjects.KEY))
    return wire.read_chat(
        body, {}, client, seen=frozenset(), session_header="", keeps_text=lambda _: False
    ).features.conversation


@contextmanager
def backends(url: str, size: int) -> Iterator[tuple[subjects.Subject, Wires]]:
    """A proxy with this many more backends, in the tier that the one asked for falls back to."""
    price = "cost: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}"
    spares = (f'      - {{{{name: s{n}, kind: openai, base_url: "{url}", model: m, {price}}}}}\n' for n in range(size))
    policy = subjects.POLICY.replace("baseline: large", f"{''.join(spares)}baseline: large")
    with fresh(url, policy=policy) as (subject, _):
        yield subject, _wires(subject, bodies("tier/small"))


def _wires(subject: subjects.Subject, asked: Sequence[bytes]) -> Wires:
    return cycle([load.request(subject.url, body, subjects.KEY) for body in asked])


def cost(subject: subjects.Subject, wires: Wires, requests: int = _REQUESTS, most: int = 8) -> float:
    """CPU microseconds per request, store included, with ``most`` in flight."""
    began = machine.cpu_of(subject.pids)
    result = load.send(subject.url, list(islice(wires, requests)), most, 0, requests=requests)
    if result.failures:
        raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0][:200]!r}")
    return (machine.cpu_of(subject.pids) - began) / result.requests * 1e6


def round_trips(url: str, more: str) -> tuple[float, float]:
    """How often the store was read from a connection per request, and requests a second, at `RATE` or less."""
    with fresh(url, more=more) as (subject, folder):
        wires, done = _wires(subject, bodies("tier/small")), 0
        cost(subject, wires)
        before, began = _reads(folder), time.perf_counter()
        while (passed := time.perf_counter() - began) < 5:
            due = int(passed * RATE) - done
            if due > 0:
                done += load.send(subject.url, list(islice(wires, due)), 16, 0, requests=due).requests
            else:
                time.sleep(0.002)
        return (_reads(folder) - before) / done, done / passed


def _reads(folder: Path) -> int:
    return int(store_of(folder).info("stats")["total_reads_processed"])


@contextmanager
def workers(url: str, number: int) -> Iterator[Callable[[], float]]:
    """Requests per second of CPU, all workers and their store together."""
    with fresh(url, "--workers", str(number)) as (subject, _):
        machine.unpin(subject.pids)
        wires = _wires(subject, bodies("tier/small"))
        yield lambda: 1e6 / cost(subject, wires, number * _LONG, number * 16)


@contextmanager
def proxies(url: str, number: int) -> Iterator[Callable[[], float]]:
    """Requests per second of CPU, all proxies and their one store together."""
    with ExitStack() as stack:
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "s"
        command = [find_server(), "--port", "0", "--unixsocket", socket, "--save", ""]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=machine.pinned(machine.cores()[0]))
        stack.callback(server.wait)
        stack.callback(server.terminate)
        while not socket.exists():
            time.sleep(0.01)
        more = f"redis: unix://{socket}"
        running = [stack.enter_context(fresh(url, more=more))[0] for _ in range(number)]
        pids = (server.pid, *(pid for subject in running for pid in subject.pids))
        machine.unpin(pids)

        def measured() -> float:
            began = machine.cpu_of(pids)
            asking = [Thread(target=cost, args=(one, _wires(one, bodies("tier/small")), _LONG, 16)) for one in running]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
            return number * _LONG / (machine.cpu_of(pids) - began)

        yield measured


GROWS = {"entries": entries, "keys": client_keys, "sessions": sessions, "backends": backends}
"""What grows."""

MOST_BACKENDS = 10_000
"""Nobody writes down more, and loading them takes seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=5, seconds=0)
    options.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES)
    options.add_argument("--only", type=lambda text: text.split(","), default=[*GROWS, "rest"], help="of: %(default)s")
    options.add_argument("--chart", type=Path, metavar="FILE", help="plot cost against size (needs matplotlib)")
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found = figures.Figures("scale")
    with subjects.upstream() as url:
        for what, grown in GROWS.items():
            if what in args.only:
                sizes = [size for size in args.sizes if what != "backends" or size <= MOST_BACKENDS]
                _grow(found, what, grown, url, sizes, args.rounds)
        if "rest" in args.only:
            _share(found, url, args.rounds)
    found.print()
    found.write(args.json)
    if args.chart:
        _plot(found, [what for what in GROWS if what in args.only], args.sizes, args.chart)


def _grow(
    found: figures.Figures,
    what: str,
    grown: Callable[[str, int], Grown],
    url: str,
    sizes: Sequence[int],
    rounds: int,
) -> None:
    with ExitStack() as stack:
        running = [(size, *stack.enter_context(grown(url, size))) for size in sizes]
        for _, subject, wires in running:
            cost(subject, wires, _REQUESTS // 6)
        for number in range(rounds):
            for size, subject, wires in figures.rotated(running, number):
                found.add(what, **{f"µs at {size:,}": cost(subject, wires)})


def _share(found: figures.Figures, url: str, rounds: int) -> None:
    for name, more in (("store round trips", ""), ("with a budget for each key", _BUDGET)):
        each, rate = round_trips(url, more)
        found.add(name, **{"a request": each, "requests/s": rate})
    machine.unpin([os.getpid()])
    with ExitStack() as stack:
        running = {
            "1 worker": stack.enter_context(workers(url, 1)),
            "2 workers": stack.enter_context(workers(url, 2)),
            "1 proxy": stack.enter_context(proxies(url, 1)),
            "2 proxies": stack.enter_context(proxies(url, 2)),
        }
        for number in range(rounds):
            for name, measured in figures.rotated(list(running.items()), number):
                found.add(name, **{"requests per CPU second": measured()})


def _plot(found: figures.Figures, grows: Sequence[str], sizes: Sequence[int], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for what in grows:
        shown = [(size, value) for size in sizes if (value := found.value(what, f"µs at {size:,}"))]
        axes.plot(*zip(*shown, strict=True), marker="o", label=what)
    axes.set(xscale="log", ylim=(0, None), xlabel="how many", ylabel="CPU µs per request")
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
