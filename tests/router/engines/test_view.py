"""Readings become a view: differences over a window, restarts, and nothing made up."""

from hypothesis import given
from hypothesis import strategies as st

from policies.values import EngineView
from router.engines.engine import COUNTERS, GAUGES
from router.engines.view import WINDOW, History, Reading


def after(*readings: tuple[float, dict[str, float]], ours: int = 0) -> EngineView:
    history = History()
    for at, values in readings:
        history.add(Reading(at, values))
    return history.view(ours)


def test_a_first_reading_gives_shares_since_the_start_but_no_rates() -> None:
    view = after((5.0, {"prefix_hits": 30, "prefix_queries": 40, "generated": 900}))
    assert view == EngineView(prefix_hit_rate=0.75)


def test_later_readings_give_what_happened_between_them() -> None:
    before = {"prefix_hits": 30, "prefix_queries": 40, "generated": 900, "ttft_seconds": 1, "ttft_count": 10}
    now = {"prefix_hits": 40, "prefix_queries": 140, "generated": 1000, "ttft_seconds": 3, "ttft_count": 14}
    assert after((5, before), (15, now)) == EngineView(
        prefix_hit_rate=0.1, tokens_per_second=10, requests_per_second=0.4, ttft_ms=500
    )


def test_an_idle_engine_produces_nothing_and_its_shares_are_unknown() -> None:
    same = {"prefix_hits": 30.0, "prefix_queries": 40.0, "generated": 900.0}
    assert after((5, same), (15, same)) == EngineView(tokens_per_second=0)


def test_a_counter_that_fell_means_a_restart() -> None:
    old, new = {"accepted": 500, "drafted": 1000, "generated": 10_000}, {"accepted": 1, "drafted": 10, "generated": 12}
    assert after((5, old), (15, new)) == EngineView(draft_acceptance=0.1)
    later = {"accepted": 2, "drafted": 20, "generated": 22}
    assert after((5, old), (15, new), (20, later)) == EngineView(draft_acceptance=0.1, tokens_per_second=2)


def test_a_counter_that_went_away_is_unknown() -> None:
    assert after((5, {"generated": 9, "waiting": 1}), (6, {"waiting": 2})) == EngineView(waiting=2, elsewhere=2)


def test_a_counter_that_came_later_waits_for_a_second_reading() -> None:
    first, second, third = (
        {"waiting": 1},
        {"waiting": 1, "accepted": 500, "drafted": 800},
        {"accepted": 501, "drafted": 802},
    )
    assert after((5, first), (6, second)).draft_acceptance is None
    assert after((6, second), (7, third)).draft_acceptance == 0.5


def test_only_the_last_minute_counts() -> None:
    readings = [(float(at), {"generated": 0.0 if at < 100 else at - 100.0}) for at in range(0, 200, 2)]
    assert after(*readings).tokens_per_second == 1
    history = History()
    for at, values in readings * 1:
        history.add(Reading(at, values))
    assert len(history._readings) <= WINDOW / 2 + 2


def test_what_this_proxy_has_there_is_not_elsewhere() -> None:
    assert after((1, {"waiting": 2, "running": 5}), ours=4).elsewhere == 3
    assert after((1, {"waiting": 0, "running": 1}), ours=4).elsewhere == 0
    assert after((1, {"kv_use": 0.5}), ours=4).elsewhere is None


numbers = st.floats(0, 1e12)
readings = st.lists(st.dictionaries(st.sampled_from(sorted(GAUGES | COUNTERS)), numbers), min_size=1, max_size=8)


@given(readings)
def test_whatever_an_engine_says_no_count_is_negative_and_nothing_is_made_up(told: list[dict[str, float]]) -> None:
    view = after(*((float(at), values) for at, values in enumerate(told)))
    for name in GAUGES - {"prefix_hit_rate", "draft_acceptance", "tokens_per_pass", "tokens_per_second",
                          "prefill_tokens_per_second"}:  # fmt: skip
        assert getattr(view, name) == told[-1].get(name)
    for name in EngineView.__dataclass_fields__:
        value = getattr(view, name)
        assert value is None or value >= 0
    if not told[-1]:
        assert view == EngineView()
