"""Whether a look at a request could matter to its decision."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.decide import decide, weigh
from policies.document import Loaded
from policies.doubts import DOUBT, could_flip, could_sink, doubts, needs_signals
from policies.objective import gain_error
from policies.values import Features, Signals, Success, View
from tests.policies.examples import (
    MANY,
    PLAIN,
    TIERS,
    a_document,
    a_policy,
    a_view,
    features,
    policies,
    signals,
    some_signals,
    successes,
    views,
)

CODE = {"name": "code", "when": {"domain": "code"}, "prefer": "code"}
LAW = {"name": "x", "when": {"domain": "law"}}
SURE = some_signals(small=0.1, code=0.9, large=0.9, error=0.0)

predictions = st.fixed_dictionaries(dict.fromkeys(TIERS, successes))


@MANY
@given(policies, features, views)
def test_what_needs_no_signals_is_the_same_with_any(loaded: Loaded, asked: Features, view: View) -> None:
    assume(not needs_signals(loaded, asked))
    without = decide(loaded, asked, None, view)
    assume(not any("which cannot serve it" in reason for reason in without.reasons))
    for domain in ("code", "math"):
        known = some_signals(domain, 0.9, small=0.9, code=0.1, large=0.95)
        assert decide(loaded, asked, known, view).steps == without.steps


@MANY
@given(st.floats(0.1, 1), predictions, st.floats(-DOUBT, DOUBT))
def test_what_could_not_flip_does_not(keep: float, predicted: dict[str, Success], errors: float) -> None:
    """No look whose predictions lie anywhere within the intervals of the first changes the choice."""
    loaded, known = a_policy(objective={"keep_quality": keep}), Signals(success=predicted)
    assume(not could_flip(weigh(loaded, PLAIN, known, a_view())))

    def moved(tier: str, success: Success) -> Success:
        shift = 0.0 if tier == "large" else errors * gain_error(success, predicted["large"])
        return replace(success, probability=min(1.0, max(0.0, success.probability + shift)))

    other = replace(known, success={tier: moved(tier, success) for tier, success in predicted.items()})
    assert decide(loaded, PLAIN, other, a_view()).steps == decide(loaded, PLAIN, known, a_view()).steps


@MANY
@given(policies, features, signals, views)
def test_what_could_flip_is_what_would_be_decided_otherwise(
    loaded: Loaded, asked: Features, known: Signals | None, view: View
) -> None:
    """Requests are also made such that nothing stands in their way, as it mostly is."""
    assume(known is not None)
    assert known is not None
    for request in (asked, replace(asked, input_tokens=min(asked.input_tokens, 500), model="auto", allowed=None)):
        steps = decide(loaded, request, known, view).steps
        otherwise = [decide(loaded, request, other, view).steps for other in doubts(loaded, known)]
        assert could_flip(weigh(loaded, request, known, view)) is any(other != steps for other in otherwise)


@pytest.mark.parametrize(
    ("settings_", "asked", "needed"),
    [
        ({}, {}, True),
        ({}, {"model": "tier/small"}, False),
        ({}, {"model": "large-1"}, False),
        ({}, {"model": "nothing"}, False),
        ({"rules": [CODE]}, {"model": "tier/small"}, False),
        ({"rules": [LAW | {"exclude": {"tier": "small"}}]}, {"model": "large-1"}, True),
        ({"rules": [{"name": "x", "when": {"has_code": True}, "tier": "code"}]}, {"has_code": True}, False),
        ({"rules": [{"name": "x", "when": {"has_code": True}, "tier": "code"}]}, {}, True),
        ({"rules": [LAW | {"tier": "code"}, {"name": "y", "tier": "small"}]}, {}, True),
        ({"budgets": [{"name": "b", "per": "day", "usd": 1, "when": {"domain": "law"}}]}, {"model": "large-1"}, True),
    ],
)
def test_signals_are_asked_for_only_where_they_could_matter(settings_: dict, asked: dict, needed: bool) -> None:
    assert needs_signals(a_policy(**settings_), replace(PLAIN, **asked)) is needed


def test_one_tier_needs_no_signals() -> None:
    only = {"small": a_document()["tiers"]["small"]}  # type: ignore[index]
    assert not needs_signals(a_policy(tiers=only, fallback={}), PLAIN)


@pytest.mark.parametrize(
    ("known", "flips"),
    [
        (some_signals(small=0.99, code=0.5, large=0.5, error=0.01), False),
        (some_signals(small=0.1, code=0.1, large=0.9, error=0.01), False),
        (some_signals(small=0.877, code=0.1, large=0.9, error=0.01), True),
        (replace(SURE, domain_probs={"chat": 0.7, "law": 0.3}), True),
        (replace(SURE, domain_probs={"chat": 0.95, "law": 0.05}), False),
        (replace(SURE, complexity=0.62), True),
        (replace(SURE, complexity=None), False),
    ],
)
def test_a_second_look_is_wanted_only_where_it_could_flip_the_choice(known: Signals, flips: bool) -> None:
    rules = [
        {"name": "law", "when": {"domain": "law"}, "tier": "large"},
        {"name": "hard", "when": {"complexity": {"at_least": 0.7}}, "tier": "large"},
    ]
    assert could_flip(weigh(a_policy(rules=rules), PLAIN, known, a_view())) is flips


def test_a_second_look_is_wanted_where_nobody_might_be_left_to_answer() -> None:
    none = {"name": "no law", "when": {"domain": "law"}, "exclude": {"tier": list(TIERS)}}
    known = replace(SURE, domain_probs={"chat": 0.7, "law": 0.3})
    assert could_flip(weigh(a_policy(rules=[none]), PLAIN, known, a_view()))
    assert not could_flip(weigh(a_policy(rules=[none]), PLAIN, replace(known, domain_probs={"chat": 1.0}), a_view()))


EASY = some_signals(small=0.99, code=0.99, large=0.99, error=0.0)
HARD_RULE = {"name": "hard", "when": {"complexity": {"at_least": 0.7}}, "tier": "large"}


@pytest.mark.parametrize(
    ("known", "settings_", "asked", "sinks"),
    [
        (EASY, {}, {}, False),
        (SURE, {}, {}, True),
        (EASY, {"rules": [LAW | {"tier": "large"}]}, {}, False),
        (replace(EASY, domain="law"), {"rules": [LAW | {"tier": "large"}]}, {}, True),
        (EASY, {"rules": [HARD_RULE]}, {}, True),
        (None, {}, {}, False),
        (SURE, {}, {"model": "nothing"}, False),
        (SURE, {}, {"input_tokens": 10**9}, False),
        (EASY, {"objective": {"keep_quality": 0.9}, "exploration": 1.0}, {}, False),
    ],
)
def test_only_what_the_cheapest_tier_does_not_get_could_go_to_something_cheaper(
    known: Signals | None, settings_: dict, asked: dict, sinks: bool
) -> None:
    weighed = weigh(a_policy(**settings_), replace(PLAIN, **asked), known, replace(a_view(), draw=0.99))
    assert could_sink(weighed) is sinks
