"""What a router costs a stream: ``python -m tests.benchmarks.streaming [--with sglang,vllm,litellm]``.

Streams of 100 chunks that leave the upstream one by one. Time to the first event and to the first that has content,
alone and with eight streams at once, chunks a second with 32 streams, CPU per chunk; each subject on one core, upstream
and load on the other. The first event only names the role: a router that may still ask another backend holds it back.
"""

from __future__ import annotations

from tests.benchmarks import load, machine, race, subjects
from tests.benchmarks.overhead import bodies


def measure(subject: subjects.Subject, seconds: float, direct: dict[int, float]) -> dict[str, float]:
    """One round of one subject. ``direct`` has p50s without a proxy, in ms: the first byte's by concurrency, and the
    first content's by its negative."""
    measured: dict[str, float] = {}
    wires = bodies(subject.model, stream=True)
    load.drive(subject.url, wires, 8, 0, requests=50)
    for concurrency in (1, 8, 32):
        began = machine.cpu_of(subject.pids)
        result = load.drive(subject.url, wires, concurrency, seconds)
        cpu = machine.cpu_of(subject.pids) - began
        if result.failures:
            raise RuntimeError(f"{subject.name} failed {len(result.failures)} streams: {result.failures[0][:200]!r}")
        first, content = (load.quantile(of, 0.5) * 1e3 for of in (result.first_bytes, result.first_contents))
        if not subject.pids:
            direct[concurrency], direct[-concurrency] = first, content
        if concurrency < 32:
            measured[f"first byte ms at {concurrency}"] = first
            measured[f"first content ms at {concurrency}"] = content
            if subject.pids:
                measured[f"added ms at {concurrency}"] = first - direct[concurrency]
                measured[f"content added ms at {concurrency}"] = content - direct[-concurrency]
        else:
            measured["chunks/s at 32"] = result.chunks / result.seconds
            if subject.pids:
                measured["CPU µs a chunk"] = cpu / result.chunks * 1e6
    return measured


if __name__ == "__main__":
    race.run("streaming", __doc__, measure)
