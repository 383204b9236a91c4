"""Whether cost stays flat as things grow: ``python -m tests.benchmarks.scale [--chart FILE.png]``.

CPU per request to ``tier/small`` against how much there already is: entries in the journal, client keys seen, sessions
remembered, backends in the policy; round trips to the store per request at a given rate; and requests per second of CPU
with one worker and with two that share the measured core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import redis

from tests.benchmarks import figures, load, machine, subjects
from tests.benchmarks.overhead import bodies

SIZES = (100, 10_000)
_REQUESTS = 3_000
_MOST = {"entries": 10**9, "sessions": 10**6, "backends": 5_000}
"""What is left of a size: a policy document has a largest size of its own."""


def cost(subject: subjects.Subject, wires: Sequence[bytes]) -> float:
    """CPU microseconds per request, store included."""
    load.drive(subject.url, wires, 8, 0, requests=200)
    began = machine.cpu_of(subject.pids)
    result = load.drive(subject.url, wires, 8, 0, requests=_REQUESTS)
    if result.failures:
        raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0][:200]!r}")
    return (machine.cpu_of(subject.pids) - began) / result.requests * 1e6


@contextmanager
def fresh(url: str, *options: str, more: str = "") -> Iterator[tuple[subjects.Subject, Path]]:
    """A proxy with empty books."""
    with tempfile.TemporaryDirectory() as folder, subjects.tierwise(url, Path(folder), *options, more=more) as subject:
        yield subject, Path(folder)


def entries(url: str, size: int) -> float:
    """With this many entries in the books, each of a conversation of its own."""
    with fresh(url) as (subject, _):
        load.drive(subject.url, bodies("tier/small", 10_000), 32, 0, requests=size)
        return cost(subject, bodies("tier/small"))


def sessions(url: str, size: int) -> float:
    """With this many users, each with a session to be found again."""
    with fresh(url) as (subject, _):
        wires = [_by_user("tier/small", number) for number in range(size)]
        load.drive(subject.url, wires, 32, 0, requests=size)
        return cost(subject, wires)


def backends(url: str, size: int) -> float:
    """With this many more backends, in a tier that is not asked for."""
    price = "cost: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}"
    spares = (f'      - {{{{name: s{n}, kind: openai, base_url: "{url}", model: m, {price}}}}}\n' for n in range(size))
    policy = subjects.POLICY.replace("baseline: large", f"{''.join(spares)}baseline: large")
    with tempfile.TemporaryDirectory() as folder, subjects.tierwise(url, Path(folder), policy=policy) as subject:
        return cost(subject, bodies("tier/small"))


def round_trips(url: str) -> float:
    """How often the store was read from a connection per request, while the proxy is kept busy."""
    with fresh(url) as (subject, folder):
        store = redis.Redis(unix_socket_path=str(folder / "store" / "store.sock"))
        before = store.info("stats")["total_reads_processed"]
        result = load.drive(subject.url, bodies("tier/small"), 64, 5)
        return (store.info("stats")["total_reads_processed"] - before) / result.requests


def workers(url: str, number: int) -> float:
    """Requests per second of CPU, all workers and the store together."""
    with fresh(url, "--workers", str(number)) as (subject, _):
        return 1e6 / cost(subject, bodies("tier/small"))


def _by_user(model: str, number: int) -> bytes:
    message = {"role": "user", "content": "How does one measure the cost of a proxy? " * 20}
    return orjson.dumps({"model": model, "user": f"user-{number}", "messages": [message]})


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=3, seconds=0)
    options.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES)
    options.add_argument("--chart", type=Path, metavar="FILE", help="plot cost against size (needs matplotlib)")
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found = figures.Figures("scale")
    grows = {"entries": entries, "sessions": sessions, "backends": backends}
    with subjects.upstream() as url:
        for _ in range(args.rounds):
            for what, grown in grows.items():
                for size in args.sizes:
                    found.add(what, **{f"µs at {size:,}": grown(url, min(size, _MOST[what]))})
            found.add("store round trips a request", ratio=round_trips(url))
            for number in (1, 2):
                found.add(f"{number} worker{'s' * (number > 1)}", **{"requests per CPU second": workers(url, number)})
    found.print()
    found.write(args.json)
    if args.chart:
        _plot(found, tuple(grows), args.sizes, args.chart)


def _plot(found: figures.Figures, grows: Sequence[str], sizes: Sequence[int], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for what in grows:
        axes.plot(sizes, [found.value(what, f"µs at {size:,}") for size in sizes], marker="o", label=what)
    axes.set(xscale="log", ylim=(0, None), xlabel="how many", ylabel="CPU µs per request")
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
