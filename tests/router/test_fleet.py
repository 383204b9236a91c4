"""A fleet known and a fleet simulated: prefixes followed, bounded, and worth it."""

from __future__ import annotations

import pytest

from tests.benchmarks.fleet import simulate


@pytest.mark.parametrize("slowest", [1.0, 0.4])
def test_a_simulated_fleet_gains_hits_time_and_money(slowest: float) -> None:
    """In simulated time, so the figures are the same everywhere."""
    ours, others = (
        [simulate(name, 1.0, conversations=250, slowest=slowest) for name in names]
        for names in (("tierwise",), ("round-robin", "least-loaded"))
    )
    for other in others:
        assert ours[0].requests == other.requests
        assert ours[0].hit_rate > other.hit_rate + 0.1
        assert ours[0].ttft_p99_ms < 0.7 * other.ttft_p99_ms
        assert ours[0].usd_per_1000 < 0.85 * other.usd_per_1000
