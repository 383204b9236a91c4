"""What a router costs a request: ``python -m tests.benchmarks.overhead [--with sglang,vllm,litellm]``.

Chat completions of about 1 KB, not streamed, each subject on one core, upstream and load on the other, in interleaved
rounds. CPU is that of all the subject's processes, the embedded store's included, by how many are in flight and over
all requests; added latency is over calling the upstream directly; p99/p50 at 64 in flight shows stalls.
"""

from __future__ import annotations

import orjson

from tests.benchmarks import load, machine, race, subjects

CONCURRENCIES = (1, 8, 64)
_PADDING = "Answer for a reader who knows the field, name your sources, and say what you are not sure of. " * 8


def bodies(model: str, count: int = 500, **more: object) -> list[bytes]:
    """Different bodies of about 1 KB."""
    return [
        orjson.dumps({
            "model": model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant."},
                {"role": "user", "content": f"Question {number}: how does one measure the cost of a proxy? {_PADDING}"},
            ],
            "temperature": 0.2,
            "max_tokens": 256,
            **more,
        })
        for number in range(count)
    ]  # fmt: skip


def measure(subject: subjects.Subject, seconds: float, direct: dict[int, float]) -> dict[str, float]:
    """One round of one subject. ``direct`` has the p50 of the same round without a proxy, by concurrency, in ms."""
    measured: dict[str, float] = {}
    wires = bodies(subject.model)
    load.drive(subject.url, wires, 8, 0, requests=200)
    cpu = requests = 0.0
    for concurrency in CONCURRENCIES:
        began = machine.cpu_of(subject.pids)
        result = load.drive(subject.url, wires, concurrency, seconds)
        spent = machine.cpu_of(subject.pids) - began
        cpu, requests = cpu + spent, requests + result.requests
        if result.failures:
            raise RuntimeError(f"{subject.name} failed {len(result.failures)} requests: {result.failures[0][:200]!r}")
        p50 = result.quantile_ms(0.5)
        if not subject.pids:
            direct[concurrency] = p50
        measured[f"p50 ms at {concurrency}"] = p50
        if subject.pids:
            measured[f"CPU µs at {concurrency}"] = spent / result.requests * 1e6
        if subject.pids and concurrency < 64:
            measured[f"added ms at {concurrency}"] = p50 - direct[concurrency]
        if concurrency == 64:
            measured["requests/s at 64"] = result.requests / result.seconds
            measured["p99/p50 at 64"] = result.quantile_ms(0.99) / p50
    if subject.pids:
        measured["CPU µs a request"] = cpu / requests * 1e6
        measured["RSS MiB"] = sum(map(machine.resident_mib, subject.pids))
        measured["start s"] = subject.start_s
    return measured


if __name__ == "__main__":
    race.run("overhead", __doc__, measure)
