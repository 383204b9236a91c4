"""What a router costs a stream: ``python -m tests.benchmarks.streaming [--with sglang,vllm,litellm]``.

Streams of 100 chunks that leave the upstream one by one. Time to the first event and to the first that has content,
alone and with eight streams at once, chunks a second with 32 streams, CPU per chunk; each subject on one core, upstream
and load on the other. The first event only names the role: a router that may still ask another backend holds it back.
Times are taken three times: with an upstream that sends the rest at once, on the core of who waits for the first, with
one that pauses after its first content, and with one that sends at once, but gives way to whoever waits on its core.
"""

from __future__ import annotations

from tests.benchmarks import load, machine, race, subjects
from tests.benchmarks.overhead import bodies


def measure(subject: subjects.Subject, seconds: float, direct: dict[int, float]) -> dict[str, float]:
    """One round of one subject. ``direct`` has p50s without a proxy, in ms, in the order in which they are taken."""
    measured: dict[str, float] = {}
    load.drive(subject.url, bodies(subject.model, stream=True), 8, 0, requests=50)
    taken = iter(range(12))
    for user, said in (("rushing", ""), ("paused", ", paused"), ("yielding", ", yielding")):
        for concurrency in (1, 8):
            result = _drive(subject, user, concurrency, seconds)
            for what, times in (("", result.first_bytes), ("content ", result.first_contents)):
                p50, number = load.quantile(times, 0.5) * 1e3, next(taken)
                if subject.pids:
                    measured[f"{what}added ms at {concurrency}{said}"] = p50 - direct[number]
                else:
                    measured[f"{what}ms at {concurrency}{said}"] = direct[number] = p50
    began = machine.cpu_of(subject.pids)
    result = _drive(subject, "rushing", 32, seconds)
    measured["chunks/s at 32"] = result.chunks / result.seconds
    if subject.pids:
        measured["CPU µs a chunk"] = (machine.cpu_of(subject.pids) - began) / result.chunks * 1e6
    return measured


def _drive(subject: subjects.Subject, user: str, concurrency: int, seconds: float) -> load.Result:
    result = load.drive(subject.url, bodies(subject.model, stream=True, user=user), concurrency, seconds)
    if result.failures:
        raise RuntimeError(f"{subject.name} failed {len(result.failures)} streams: {result.failures[0][:200]!r}")
    return result


if __name__ == "__main__":
    race.run("streaming", __doc__, measure)
