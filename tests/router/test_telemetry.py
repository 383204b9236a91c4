"""What operators see of looks and of the event loop, in Prometheus' own reading."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router import telemetry
from router.telemetry import Telemetry


def samples(told: Telemetry, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(told.exposition().decode())
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


def test_looks_are_counted_by_what_came_of_them() -> None:
    told = Telemetry()
    for outcome in ("second", "busy", "second"):
        told.looked(outcome)
    assert samples(told, "tierwise_looks_total") == {("second",): 2.0, ("busy",): 1.0}


@pytest.mark.anyio
async def test_a_loop_that_is_held_up_is_seen_to_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_LOOK_AT_LAG", 0.001)
    told = Telemetry()
    watching = asyncio.create_task(told.watch_lag())
    await asyncio.sleep(0)
    threading.Event().wait(0.08)  # the event loop can do nothing else meanwhile
    while not samples(told, "tierwise_loop_lag_seconds_count")[()]:  # noqa: ASYNC110 nothing else tells of it
        await asyncio.sleep(0)
    watching.cancel()
    reached = samples(told, "tierwise_loop_lag_seconds_bucket")
    assert reached["0.05",] < reached["+Inf",]
