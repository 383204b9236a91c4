"""What a simulated engine says of itself: metrics under vLLM's names, from what it really did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest


class Figures:
    """The metrics of one simulated model. It never queues, so nobody waits."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()

        labels, registry = ("model_name",), self._registry

        def counter(name: str, summary: str) -> Counter:
            return Counter(f"vllm:{name}", summary, labels, registry=registry).labels(model)

        def gauge(name: str, summary: str) -> Gauge:
            return Gauge(f"vllm:{name}", summary, labels, registry=registry).labels(model)

        gauge("num_requests_waiting", "Requests waiting.").set(0)
        self._running = gauge("num_requests_running", "Requests running.")
        self._queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._prompted = counter("prompt_tokens", "Prompt tokens.")
        self._generated = counter("generation_tokens", "Generated tokens.")
        first = Histogram("vllm:time_to_first_token_seconds", "Time to first token.", labels, registry=registry)
        self._ttft = first.labels(model)

    @contextmanager
    def running(self) -> Iterator[None]:
        """One request runs inside this block."""
        with self._running.track_inprogress():
            yield

    def begun(self, usage: Mapping[str, Any], seconds: float) -> None:
        """An answer with this usage has begun, so many seconds after its request came."""
        self._queries.inc(usage["prompt_tokens"])
        self._hits.inc(usage["prompt_tokens_details"]["cached_tokens"])
        self._prompted.inc(usage["prompt_tokens"])
        self._generated.inc(usage["completion_tokens"])
        self._ttft.observe(seconds)

    async def through(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same events; the request runs until they end."""
        with self.running():
            async for event in events:
                yield event

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
