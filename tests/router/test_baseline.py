from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from policies import document
from policies.money import nanos, price_of
from policies.values import Attempt, Counterfactual, Entry, Features, Session, Signals, Usage, View
from router.baseline import Baseline, baseline_backend, baseline_usage, lost_prefix
from router.billing import baseline_nanos, proxy_nanos
from router.ledger.tallying import pack_entries
from tests.router.ledger.entries import entry, usages

POLICY = document.load(
    """
version: 1
tiers:
  small:
    backends: [{name: mini, kind: openai, base_url: http://127.0.0.1:1/v1, model: mini,
                cost: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}]
  large:
    backends: [{name: big, kind: openai, base_url: http://127.0.0.1:1/v1, model: big,
                cost: {input_usd_per_mtok: 10, cached_input_usd_per_mtok: 1, output_usd_per_mtok: 30}}]
baseline: large
""",
    file="policy.yaml",
    environ={},
).policy
NOW = View(now=datetime(2026, 11, 22, 12, tzinfo=UTC))
MATH = Signals(domain="math", domain_probs={"math": 1.0}, complexity=0.5)


def answered(tier: str, usage: Usage, features: Features, **changes: object) -> Entry:
    backend = {"small": "mini", "large": "big"}[tier]
    attempts = (Attempt(backend, tier, backend, "ok", 200, usage=usage, cost_nanos=1),)
    made = entry(tier=tier, backend=backend, usage=usage, features=features, attempts=attempts)
    return replace(made, signals=MATH, **changes)  # type: ignore[arg-type]


def read(*entries: Entry) -> Baseline:
    """One that reads the books of these."""
    baseline = Baseline()
    baseline.learn((hour, name, packed) for (hour, name), packed in pack_entries(entries).items())
    return baseline


def taught() -> Baseline:
    """One that saw large count 1.2 times as many tokens as small, and write three times as many."""
    asked = Features(input_tokens=1_000)
    small = answered("small", Usage(900, output_tokens=100), asked)
    large = answered("large", Usage(1_080, output_tokens=300), asked)
    return read(*[small] * 1_000, *[large] * 1_000)


def test_the_same_request_is_counted_and_answered_as_the_baseline_would() -> None:
    usage = Usage(500, output_tokens=200)
    found = taught().counterfactual(POLICY, Features(input_tokens=550), MATH, NOW, ("small", "mini"), usage)
    assert found.backend == "big"
    would = baseline_usage(usage, found)
    assert 595 <= would.input_tokens <= 600
    assert 570 <= would.output_tokens <= 600
    cost = baseline_nanos(price_of(baseline_backend(POLICY)), usage, found)
    assert cost == would.input_tokens * 10_000 + would.output_tokens * 30_000


def test_the_baseline_s_own_answer_is_its_own_counterfactual() -> None:
    usage = Usage(500, 100, output_tokens=200, reasoning_tokens=50)
    found = taught().counterfactual(POLICY, Features(input_tokens=550), MATH, NOW, ("large", "big"), usage)
    assert baseline_usage(usage, found) == usage


def test_images_that_were_drawn_are_drawn_by_the_baseline_too() -> None:
    usage = Usage(500, output_tokens=1_200, image_output_tokens=1_000)
    would = baseline_usage(usage, Counterfactual("big", 1.0, 2.0, 100))
    assert (would.output_tokens, would.image_output_tokens, would.cached_input_tokens) == (1_400, 1_000, 100)


def test_a_limit_on_the_answer_holds_for_the_baseline_too() -> None:
    usage, asked = Usage(500, output_tokens=200), Features(input_tokens=550, max_output_tokens=250)
    found = taught().counterfactual(POLICY, asked, MATH, NOW, ("small", "mini"), usage)
    assert baseline_usage(usage, found).output_tokens == 250


def test_a_conversation_that_moved_would_have_been_warm_at_the_baseline() -> None:
    """Eleven of twelve thousand tokens were sent before; at the baseline they are a tenth of the price."""
    asked, usage = Features(turns=3, input_tokens=12_000, last_characters=4_000), Usage(12_000, output_tokens=10)
    for served in (("small", "mini"), ("large", "big")):
        view = replace(NOW, session=Session("small", "mini"))
        found = Baseline().counterfactual(POLICY, asked, MATH, view, served, usage)
        assert found.cached_input_tokens == 11_000
        cost = baseline_nanos(price_of(baseline_backend(POLICY)), usage, found)
        assert cost == 1_000 * 10_000 + 11_000 * 1_000 + 10 * 30_000


def test_what_stayed_at_the_baseline_was_as_warm_as_it_said() -> None:
    asked, at_home = Features(turns=3, input_tokens=12_000), replace(NOW, session=Session("large", "big"))
    assert lost_prefix(asked, at_home, "big", "big") == 0
    assert lost_prefix(asked, NOW, "big", "big") == 0
    assert lost_prefix(replace(asked, turns=1), NOW, "mini", "big") == 0
    assert lost_prefix(replace(asked, input_tokens=900), NOW, "mini", "big") == 0, "too short to be kept"


def test_answers_that_say_nothing_of_their_length_teach_nothing() -> None:
    asked, usage = Features(input_tokens=1_000), Usage(1_000, output_tokens=300)
    unsaid = [
        answered("large", replace(usage, measured=False), asked),
        answered("large", usage, asked, outcome="cancelled"),
        answered("large", replace(usage, output_tokens=0), asked),
        answered("large", usage, replace(asked, max_output_tokens=300)),
        answered("large", usage, replace(asked, choices=3)),
    ]
    baseline = read(*[answered("small", Usage(1_000, output_tokens=100), asked)] * 500, *unsaid * 500)
    found = baseline.counterfactual(POLICY, asked, MATH, NOW, ("small", "mini"), usage)
    assert found.output_ratio == 1
    assert found.assumed


def test_what_is_assumed_for_want_of_evidence_is_said() -> None:
    asked, usage = Features(input_tokens=1_000), Usage(1_000, output_tokens=300)
    assert not taught().counterfactual(POLICY, asked, MATH, NOW, ("small", "mini"), usage).assumed
    assert Baseline().counterfactual(POLICY, asked, MATH, NOW, ("small", "mini"), usage).assumed
    assert not Baseline().counterfactual(POLICY, asked, MATH, NOW, ("large", "big"), usage).assumed


def test_who_reads_the_same_books_in_another_order_and_in_parts_models_the_same() -> None:
    asked, rng = Features(input_tokens=1_000), random.Random(3)
    made = [
        answered(tier, Usage(rng.randint(500, 2_000), output_tokens=rng.randint(1, 900)), asked, id=f"{tier}{i}")
        for i in range(200)
        for tier in ("small", "large")
    ]
    whole, parts = read(*made), [made[at::7] for at in range(7)]
    merged = Baseline()
    merged.learn(
        (hour, name, packed) for part in reversed(parts) for (hour, name), packed in pack_entries(part).items()
    )
    for served in (("small", "mini"), ("large", "big")):
        found = [
            one.counterfactual(POLICY, asked, MATH, NOW, served, Usage(7, output_tokens=9)) for one in (whole, merged)
        ]
        assert found[0] == found[1]


@given(usages, st.floats(0.1, 8), st.floats(0.1, 8), st.integers(0, 10**7))
def test_kinds_of_tokens_stay_within_their_totals(usage: Usage, taken: float, written: float, cached: int) -> None:
    would = baseline_usage(usage, Counterfactual("big", taken, written, cached))
    assert would.cached_input_tokens + would.cache_write_tokens <= would.input_tokens
    assert min(would.input_tokens, would.cache_write_tokens, would.output_tokens, would.reasoning_tokens) >= 0


def test_nothing_used_costs_the_baseline_nothing_and_the_proxy_s_time_is_billed() -> None:
    price = price_of(baseline_backend(POLICY))
    assert baseline_nanos(price, Usage(), None) == 0
    assert baseline_nanos(None, Usage(), None) is None
    assert proxy_nanos(nanos(POLICY.ledger.proxy_hour_usd), 3_600) == 50_000
