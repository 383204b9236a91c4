"""Entries for tests: plain ones, and any that hypothesis can think of."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from secrets import token_hex

from hypothesis import strategies as st

from policies.values import (
    Attempt,
    Counterfactual,
    Decision,
    Entry,
    Estimate,
    Features,
    Outcome,
    Refusal,
    Session,
    Signals,
    Step,
    Success,
    Usage,
    View,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


def entry(
    id: str = "r1",
    *,
    at: float = NOON,
    attempts: tuple[Attempt, ...] | None = None,
    cost: int | None = 1_000,
    baseline: int | None = 5_000,
    tier: str = "small",
    backend: str = "qwen",
    key: str = "k1",
    domain: str = "math",
    outcome: Outcome = "ok",
    usage: Usage | None = None,
    total_ms: float = 40.0,
    features: Features | None = None,
) -> Entry:
    usage = usage or Usage(100, 40, 0, 20, 5)
    if attempts is None:
        attempts = (Attempt(backend, tier, "qwen-7b", outcome, 200, usage=usage, cost_nanos=cost, precision="int4"),)
    return Entry(
        id=id, at=at, key_id=key, requested_model="auto", served_model="qwen-7b", tier=tier, backend=backend,
        status=200, outcome=outcome, stream=False, decision=Decision((Step(tier, backend),), ("because",), "hash"),
        features=features or Features(text="secret words", last_text="words", system_text="secret"),
        signals=Signals(domain=domain, domain_probs={domain: 1.0}), view=View(now=datetime.fromtimestamp(at, UTC)),
        attempts=attempts, usage=usage, cost_nanos=cost, baseline_nanos=baseline, classify_ms=1.5, overhead_ms=0.4,
        ttft_ms=12.0, total_ms=total_ms,
    )  # fmt: skip


def bulky() -> Features:
    """What no compression makes small."""
    return Features(conversation=token_hex(2_000))


_names = st.sampled_from(["small", "large", "code", "qwen", "gpt-4o", "", "a|b", "ü\x1f%"])
_nanos = st.none() | st.integers(0, 20 * 10**18)
_ms = st.floats(0, 1e7)
_tokens = st.integers(0, 10**7)
usages = st.builds(Usage, _tokens, _tokens, _tokens, _tokens, _tokens, st.booleans())
_outcomes = st.sampled_from(["ok", "error", "timeout", "cancelled", "rejected"])
attempts = st.builds(
    Attempt,
    backend=_names, tier=_names, model=_names, outcome=_outcomes, status=st.none() | st.integers(200, 599),
    error=st.sampled_from(["", "cut"]), usage=st.none() | usages, cost_nanos=_nanos, ttft_ms=st.none() | _ms,
    total_ms=_ms, precision=st.sampled_from(["", "int4", "fp16"]),
)  # fmt: skip
_texts = st.text(max_size=20)
_probabilities = st.floats(0, 1)
_successes = st.builds(Success, _probabilities, _probabilities)
_estimates = st.builds(
    Estimate,
    _names,
    st.none() | _successes,
    st.none() | st.decimals(0, 10**6, places=9),
    st.none() | st.floats(-1e3, 1e3),
)
decisions = st.builds(
    Decision,
    steps=st.lists(st.builds(Step, _names, _names), max_size=3).map(tuple),
    reasons=st.lists(_texts, max_size=3).map(tuple), policy_hash=_texts, propensity=_probabilities,
    estimates=st.lists(_estimates, max_size=3).map(tuple),
    refusal=st.none() | st.builds(Refusal, st.just(429), _texts, _texts, st.none() | _texts),
)  # fmt: skip
_headers = st.dictionaries(st.sampled_from(["x-team", "authorization", "Cookie"]), _texts, max_size=2)
features = st.builds(
    Features, model=_texts, text=_texts, last_text=_texts, system_text=_texts, input_tokens=_tokens,
    max_output_tokens=st.none() | _tokens, requires=st.frozensets(st.sampled_from(["tools", "vision"])),
    headers=_headers,
)  # fmt: skip
signals = st.builds(
    Signals, domain=st.sampled_from(["math", "code", "other"]),
    domain_probs=st.dictionaries(st.sampled_from(["math", "code"]), _probabilities),
    complexity=st.none() | _probabilities,
    success=st.dictionaries(_names, _successes, max_size=2), missing=st.lists(_texts, max_size=1).map(tuple),
)  # fmt: skip
views = st.builds(
    View,
    now=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC)),
    cooling=st.frozensets(_names, max_size=2), in_flight=st.dictionaries(_names, st.integers(0, 9), max_size=2),
    session=st.none() | st.builds(Session, _names, _names, _probabilities, st.integers(0, 5)),
    spent_today=st.decimals(0, 10**6, places=9).map(Decimal), draw=_probabilities,
)  # fmt: skip
entries = st.builds(
    Entry,
    id=st.uuids().map(str), at=st.floats(NOON, NOON + 3 * 3600), key_id=_names, requested_model=_texts,
    served_model=_names, tier=_names, backend=_names, status=st.integers(200, 599), outcome=_outcomes,
    stream=st.booleans(), decision=decisions, features=features, signals=st.none() | signals, view=views,
    attempts=st.lists(attempts, max_size=3).map(tuple), usage=usages, cost_nanos=_nanos, baseline_nanos=_nanos,
    classify_ms=_ms, overhead_ms=_ms, ttft_ms=st.none() | _ms, total_ms=_ms,
    counterfactual=st.none() | st.builds(Counterfactual, _names, _probabilities, _probabilities, _tokens),
    proxy_nanos=st.integers(0, 10**9),
)  # fmt: skip
