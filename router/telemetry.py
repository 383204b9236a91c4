"""What operators watch: Prometheus metrics, in names that say the unit, and log lines that cannot be forged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from policies.values import EngineView, Entry
from router.engines.metrics import EngineCollector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Telemetry:
    """The metrics of one proxy, in a registry of its own."""

    def __init__(self, engines: Callable[[], Mapping[str, EngineView]] = dict) -> None:
        """``engines`` gives what is known of each engine when the metrics are asked for."""
        self._registry = CollectorRegistry()
        labels = ("tier", "backend")
        self._requests = self._counter("requests", "Requests answered.", (*labels, "outcome", "status"))
        self._attempts = self._counter("attempts", "Calls made upstream.", (*labels, "error"))
        self._tokens = self._counter("tokens", "Tokens used.", (*labels, "kind"))
        self._cost = self._counter("cost_usd", "Dollars spent.", labels)
        self._unpriced = self._counter("unpriced_requests", "Requests without a known price.", labels)
        self._classify = self._histogram("tierwise_classify_seconds", "Time to signals.")
        self._overhead = self._histogram("tierwise_overhead_seconds", "Time that the proxy itself added.")
        self._ttft = self._histogram("gen_ai_server_time_to_first_token_seconds", "Time to first token.", labels)
        self._total = self._histogram("gen_ai_server_request_duration_seconds", "Time to the last byte.", labels)
        self._in_flight = Gauge("tierwise_in_flight", "Requests being answered.", registry=self._registry)
        self._registry.register(EngineCollector(engines))
        self._state = Gauge("tierwise_ready", "1 where this part is ready.", ("part",), registry=self._registry)

    def _counter(self, name: str, summary: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"tierwise_{name}", summary, labels, registry=self._registry)

    def _histogram(self, name: str, summary: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, summary, labels, buckets=_SECONDS, registry=self._registry)

    def arrived(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def left(self, entry: Entry) -> None:
        """A request ended; its entry says how."""
        self._in_flight.dec()
        labels = (entry.tier, entry.backend)
        self._requests.labels(*labels, entry.outcome, str(entry.status)).inc()
        for attempt in entry.attempts:
            self._attempts.labels(attempt.tier, attempt.backend, attempt.error).inc()
        self._tokens.labels(*labels, "input").inc(entry.usage.input_tokens)
        self._tokens.labels(*labels, "output").inc(entry.usage.output_tokens)
        if entry.cost_nanos is None:
            self._unpriced.labels(*labels).inc()
        else:
            self._cost.labels(*labels).inc(entry.cost_nanos / 1e9)
        self._classify.observe(entry.classify_ms / 1e3)
        self._overhead.observe(entry.overhead_ms / 1e3)
        self._total.labels(*labels).observe(entry.total_ms / 1e3)
        if entry.ttft_ms is not None:
            self._ttft.labels(*labels).observe(entry.ttft_ms / 1e3)

    def ready(self, part: str, holds: bool) -> None:
        """Record whether a part (``store``, ``classifier``, ``policy``) is ready."""
        self._state.labels(part).set(holds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


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
