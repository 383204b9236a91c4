"""Engines on our own /metrics: each view as gauges, speculation beside its theory. What is unknown is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from policies.speculation import watch
from policies.values import EngineView

_FIELDS = {
    "waiting": "Requests waiting in the engine.",
    "running": "Requests running in the engine.",
    "elsewhere": "Requests in the engine that this proxy did not send.",
    "kv_use": "Share of the KV cache in use.",
    "kv_tokens": "Tokens that the KV cache holds.",
    "prefix_hit_rate": "Share of prompt tokens found in the prefix cache, over the last minute.",
    "draft_acceptance": "Accepted by proposed draft tokens, over the last minute.",
    "draft_length": "Tokens proposed for one pass.",
    "first_acceptance": "How often the first proposed token is accepted.",
    "tokens_per_pass": "Tokens of one pass of the target model.",
    "ttft_ms": "Mean time to first token that the engine measured, in milliseconds.",
    "tokens_per_second": "Tokens generated per second.",
    "requests_per_second": "Requests that began to be answered per second.",
    "prefill_tokens_per_second": "Prompt tokens computed per second of prefill.",
}
_SPECULATION = {
    "theory": "Tokens of one pass that the acceptance should give: (1 - a^(k+1)) / (1 - a).",
    "speedup": "How much faster than without a draft, at the batch at hand; below 1 it costs more than it saves.",
}


class EngineCollector(Collector):
    """Collects what ``views`` gives at the moment of a scrape."""

    def __init__(self, views: Callable[[], Mapping[str, EngineView]]) -> None:
        self._views = views

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge per quantity, one sample per backend that tells it."""
        views = self._views()
        for name, summary in _FIELDS.items():
            yield _gauge(f"tierwise_engine_{name}", summary, {b: getattr(view, name) for b, view in views.items()})
        told = {backend: watch(view) for backend, view in views.items()}
        for name, summary in _SPECULATION.items():
            values = {backend: getattr(seen, name) for backend, seen in told.items() if seen is not None}
            yield _gauge(f"tierwise_speculation_{name}", summary, values)
        warned = {backend: float(bool(seen.warning)) for backend, seen in told.items() if seen is not None}
        yield _gauge("tierwise_speculation_warning", "1 where the draft costs more than it saves.", warned)


def _gauge(name: str, summary: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, summary, labels=("backend",))
    for backend, value in values.items():
        if value is not None:
            family.add_metric((backend,), value)
    return family
