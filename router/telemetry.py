"""What operators watch: Prometheus metrics, in names that say the unit, and log lines that cannot be forged."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import add, attrgetter
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from policies.values import EngineView, Entry
from router.engines.metrics import EngineCollector
from router.workers import Worker

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LAG_SECONDS = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1)
_LOOK_AT_LAG = 0.05
_SHARE_SECONDS = 0.5
_COUNTED_TOGETHER = 256
_tried = attrgetter("tier", "backend", "error")


class _Counter(defaultdict[tuple[str, ...], float]):
    """Sums by label values. Plain numbers: only the event loop's thread counts, so there is nothing to lock."""

    def __init__(self, name: str, summary: str, labels: Sequence[str]) -> None:
        super().__init__(float)
        self._about = (name, summary, labels)

    def told(self) -> list[tuple[Sequence[str], float]]:
        """All of it, for other workers."""
        return list(self.items())

    def add(self, told: Iterable[tuple[Sequence[str], float]]) -> None:
        """Add what another counted."""
        for values, total in told:
            self[tuple(values)] += total

    def family(self) -> Metric:
        name, summary, labels = self._about
        family = CounterMetricFamily(name, summary, labels=labels)
        for values, total in self.items():
            family.add_metric(values, total)
        return family


class _Histogram:
    """Durations by label values, in buckets up to each of ``bounds`` seconds and one beyond."""

    def __init__(self, name: str, summary: str, labels: Sequence[str] = (), bounds: Sequence[float] = _SECONDS) -> None:
        self._about = (name, summary, labels)
        self._bounds = bounds
        self._ends = [bound * 1e3 for bound in bounds]
        self._counts: dict[tuple[str, ...], list[float]] = {} if labels else {(): self._none()}

    def _none(self) -> list[float]:
        return [0.0] * (len(self._bounds) + 2)

    def told(self) -> list[tuple[Sequence[str], Sequence[float]]]:
        """All of it, for other workers."""
        return list(self._counts.items())

    def add(self, told: Iterable[tuple[Sequence[str], Sequence[float]]]) -> None:
        """Add what another counted."""
        for values, counts in told:
            mine = self._counts.get(tuple(values)) or self._none()
            self._counts[tuple(values)] = list(map(add, mine, counts))

    def observe(self, labels: tuple[str, ...], milliseconds: Sequence[float]) -> None:
        if not milliseconds:
            return
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = self._none()
        ordered, before = sorted(milliseconds), 0
        for place, bound in enumerate(self._ends):
            up_to = bisect_right(ordered, bound)
            counts[place] += up_to - before
            before = up_to
        counts[-2] += len(ordered) - before
        counts[-1] += sum(ordered) / 1e3

    def family(self) -> Metric:
        name, summary, labels = self._about
        family = HistogramMetricFamily(name, summary, labels=labels)
        bounds = (*map(str, map(float, self._bounds)), "+Inf")
        for values, (*counts, total) in self._counts.items():
            family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
        return family


class _Counts:
    """What one worker has counted, or several together."""

    def __init__(self) -> None:
        labels = ("tier", "backend")
        self.requests = _Counter("tierwise_requests", "Requests answered.", (*labels, "outcome", "status"))
        self.attempts = _Counter("tierwise_attempts", "Calls made upstream.", (*labels, "error"))
        self.tokens = _Counter("tierwise_tokens", "Tokens used.", (*labels, "kind"))
        self.cost = _Counter("tierwise_cost_usd", "Dollars spent.", labels)
        self.unpriced = _Counter("tierwise_unpriced_requests", "Requests without a known price.", labels)
        self.classify = _Histogram("tierwise_classify_seconds", "Time to signals.")
        self.looks = _Counter("tierwise_looks", "Requests classified, by what came of their looks.", ("outcome",))
        self.lag = _Histogram("tierwise_loop_lag_seconds", "How late the event loop is.", bounds=_LAG_SECONDS)
        self.overhead = _Histogram("tierwise_overhead_seconds", "Time that the proxy itself added.")
        self.ttft = _Histogram("gen_ai_server_time_to_first_token_seconds", "Time to first token.", labels)
        self.total = _Histogram("gen_ai_server_request_duration_seconds", "Time to the last byte.", labels)
        self.in_flight = self.tasks = 0

    def all(self) -> tuple[_Counter | _Histogram, ...]:
        """What only grows."""
        counters = (self.requests, self.attempts, self.tokens, self.cost, self.unpriced, self.looks)
        return (*counters, self.lag, self.classify, self.overhead, self.ttft, self.total)

    def told(self) -> dict[str, Any]:
        """All of it, for other workers."""
        growing = [[[values, numbers] for values, numbers in counted.told()] for counted in self.all()]
        return {"growing": growing, "in_flight": self.in_flight, "tasks": self.tasks}

    def add(self, told: Mapping[str, Any], *, lives: bool) -> None:
        """Add what another worker told; what it had under way only while it lives."""
        for counted, numbers in zip(self.all(), told["growing"], strict=True):
            counted.add(numbers)
        if lives:
            self.in_flight += told["in_flight"]
            self.tasks += told["tasks"]


class Telemetry(Collector):
    """The metrics of one proxy as one of its workers tells them, in a registry of its own."""

    def __init__(self, engines: Callable[[], Mapping[str, EngineView]] = dict, worker: Worker | None = None) -> None:
        """``engines`` gives what is known of each engine when metrics are asked for, ``worker`` what others told."""
        self._mine = _Counts()
        self._left: list[Entry] = []
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(EngineCollector(engines))
        self._state = Gauge("tierwise_ready", "1 where this part is ready.", ("part",), registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """What has been counted, when the metrics are asked for."""
        told, together = self.share(), self._mine
        if self._worker is not None:
            together = _Counts()
            together.add(told, lives=True)
            for other, lives in self._worker.others():
                together.add(other, lives=lives)
        yield GaugeMetricFamily("tierwise_in_flight", "Requests being answered.", together.in_flight)
        yield GaugeMetricFamily("tierwise_tasks", "Tasks of the event loop.", together.tasks)
        for counted in together.all():
            yield counted.family()

    def share(self) -> dict[str, Any]:
        """Tell the other workers, if there are any, what this one has counted; returns it."""
        self._count()
        self._mine.tasks = _tasks()
        told = self._mine.told()
        if self._worker is not None:
            self._worker.tell(told)
        return told

    async def keep_sharing(self) -> None:
        """Tell the other workers for ever."""
        while self._worker is not None:
            await asyncio.sleep(_SHARE_SECONDS)
            self.share()

    def arrived(self) -> None:
        """A request came in."""
        self._mine.in_flight += 1

    def left(self, entry: Entry) -> None:
        """A request ended; its entry says how. Some are counted together, when all that is needed is in the cache."""
        self._mine.in_flight -= 1
        self._left.append(entry)
        if len(self._left) >= _COUNTED_TOGETHER:
            self._count()

    def _count(self) -> None:
        left, self._left = self._left, []
        alike: dict[tuple[str, str, str, int], list[Entry]] = defaultdict(list)
        for entry in left:
            alike[entry.tier, entry.backend, entry.outcome, entry.status].append(entry)
        for (tier, backend, outcome, status), entries in alike.items():
            self._mine.requests[tier, backend, outcome, str(status)] += len(entries)
            self._add((tier, backend), entries)

    def _add(self, labels: tuple[str, str], entries: Sequence[Entry]) -> None:
        """Count what requests took that were answered, or not, at one place."""
        mine = self._mine
        for tried, times in Counter([_tried(attempt) for entry in entries for attempt in entry.attempts]).items():
            mine.attempts[tried] += times
        mine.tokens[*labels, "input"] += sum([entry.usage.input_tokens for entry in entries])
        mine.tokens[*labels, "output"] += sum([entry.usage.output_tokens for entry in entries])
        costs = [entry.cost_nanos for entry in entries if entry.cost_nanos is not None]
        if costs:
            mine.cost[labels] += sum(costs) / 1e9
        if len(costs) < len(entries):
            mine.unpriced[labels] += len(entries) - len(costs)
        mine.classify.observe((), [entry.classify_ms for entry in entries])
        mine.overhead.observe((), [entry.overhead_ms for entry in entries])
        mine.total.observe(labels, [entry.total_ms for entry in entries])
        mine.ttft.observe(labels, [entry.ttft_ms for entry in entries if entry.ttft_ms is not None])

    def looked(self, outcome: str) -> None:
        """A request was classified; see `router.signals.SignalReader` for the outcomes."""
        self._mine.looks[outcome,] += 1

    async def watch_lag(self) -> None:
        """See for ever how late the event loop comes to what is due: that long every request waits for it."""
        while True:
            due = perf_counter() + _LOOK_AT_LAG
            await asyncio.sleep(_LOOK_AT_LAG)
            self._mine.lag.observe((), [max(0.0, perf_counter() - due) * 1e3])

    def ready(self, part: str, holds: bool) -> None:
        """Record whether a part (``store``, ``classifier``, ``policy``) is ready."""
        self._state.labels(part).set(holds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _tasks() -> int:
    """How many there are; those that nobody ends are a leak. 0 outside an event loop."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


class _Unforgeable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Escape control characters and indent what follows a line break, so that no request can write a log line."""
        lines = super().format(record).split("\n")
        escaped = (
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines
        )
        return "\n    ".join(escaped)


def configure_logging(level: str = "INFO") -> None:
    """Log to standard error; every event starts with its time, and only continuation lines are indented."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Unforgeable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
