"""Predicates: each holds when it should, says why, and is unknown where its signal is absent."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.conditions import DAYS, PREDICATES, Facts, Hours, Range, When, headers_read, texts_read
from policies.values import Features, Signals

WEDNESDAY_NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
REQUEST = Features(
    model="auto",
    turns=2,
    input_tokens=1200,
    language="de",
    has_code=True,
    key_id="team-a",
    headers={"x-app": "widget"},
)
FACTS = Facts(REQUEST, Signals(domain="code", complexity=0.5), WEDNESDAY_NOON)
CASES = [
    ({}, True, "always"),
    ({"domain": "code"}, True, "domain is code"),
    ({"domain": ["math", "physics", "law"]}, False, "domain is code, not math, physics or law"),
    ({"complexity": "moderate"}, True, "complexity is moderate"),
    ({"complexity": ["simple", "complex"]}, False, "complexity is moderate, not simple or complex"),
    ({"complexity": {"at_least": 0.6}}, False, "complexity 0.5 is not at least 0.6"),
    ({"input_tokens": {"more_than": 1, "at_most": 1200}}, True, "input of about 1200 is more than 1 and at most 1200"),
    ({"input_tokens": {"less_than": 1200}}, False, "input of about 1200 is not less than 1200"),
    ({"language": ["de", "fr"]}, True, "language is de"),
    ({"has_code": True}, True, "the request has code"),
    ({"has_code": False}, False, "the request has code"),
    ({"has_tools": True}, False, "the request has no tools"),
    ({"has_images": False}, True, "the request has no images"),
    ({"turns": {"at_most": 1}}, False, "turn 2 is not at most 1"),
    ({"model": "gpt-4o"}, False, "the model asked for is auto, not gpt-4o"),
    ({"api_key": "team-a"}, True, "the key is team-a"),
    ({"header": {"X-App": ["chat", "widget"]}}, True, "header x-app is widget"),
    ({"header": {"x-none": "1"}}, False, "header x-none is not given, not 1"),
    ({"time": {"from": "09:00", "to": "17:00"}}, True, "it is wed 12:00, between 09:00 and 17:00"),
    ({"time": {"days": "sat"}}, False, "it is wed 12:00, not between 00:00 and 24:00 on sat"),
    ({"and": [{"domain": "code"}, {"language": "en"}]}, False, "language is de, not en"),
    ({"or": [{"language": "en"}, {"has_code": True}]}, True, "the request has code"),
    ({"or": [{"language": "en"}, {"has_tools": True}]}, False, "language is de, not en; the request has no tools"),
    ({"not": {"domain": "math"}}, True, "domain is code, not math"),
    ({"domain": "code", "language": "de"}, True, "domain is code; language is de"),
]


@pytest.mark.parametrize(("when", "holds", "why"), CASES)
def test_each_predicate_judges_and_says_why(when: dict, holds: bool, why: str) -> None:
    verdict = When.model_validate(when).match(FACTS)
    assert (verdict.holds, verdict.why) == (holds, why)


def test_every_predicate_of_the_registry_is_judged_above() -> None:
    aliases = {field.alias or name for name, field in When.model_fields.items()}
    assert aliases == {name for when, _, _ in CASES for name in when}
    assert set(PREDICATES) == set(When.model_fields)


@pytest.mark.parametrize("signals", [None, Signals(missing=("no classifier",))])
@pytest.mark.parametrize("when", [{"domain": "other"}, {"complexity": {"at_least": 0}}, {"complexity": "simple"}])
def test_an_absent_signal_matches_neither_way(when: dict, signals: Signals | None) -> None:
    facts = Facts(REQUEST, signals)
    either = {"or": [when, {"has_code": False}]}
    for condition in (when, {"not": when}, {"not": {"not": when}}, {"and": [when]}, either):
        verdict = When.model_validate(condition).match(facts)
        assert verdict.holds is None
        assert "not known" in verdict.why
    assert When.model_validate({"or": [when, {"has_code": True}]}).match(facts).holds is True
    assert When.model_validate({"and": [when, {"has_code": False}]}).match(facts).holds is False


def test_the_time_is_not_known_before_the_clock_is_read() -> None:
    assert When.model_validate({"time": {}}).match(Facts(REQUEST)).holds is None


@pytest.mark.parametrize(
    ("hours", "at", "inside"),
    [
        ({"from": "22:00", "to": "06:00"}, "2026-11-18T23:00", True),
        ({"from": "22:00", "to": "06:00"}, "2026-11-18T05:59", True),
        ({"from": "22:00", "to": "06:00"}, "2026-11-18T06:00", False),
        ({"from": "22:00", "to": "06:00", "days": ["fri"]}, "2026-11-21T03:00", True),  # Saturday, begun on Friday
        ({"from": "22:00", "to": "06:00", "days": ["sat"]}, "2026-11-21T03:00", False),
        ({"from": "08:00", "to": "08:00"}, "2026-11-18T03:00", True),
        ({"from": "09:00"}, "2026-11-18T23:59", True),
        ({"to": "09:00"}, "2026-11-18T09:00", False),
    ],
)
def test_hours_run_over_midnight_and_belong_to_the_day_they_began(hours: dict, at: str, inside: bool) -> None:
    assert Hours.model_validate(hours).holds(datetime.fromisoformat(at)) is inside


bounds = st.none() | st.integers(-3, 8).map(float)
ranges = (
    st.tuples(bounds, bounds, bounds, bounds)
    .filter(any)
    .map(lambda b: Range(at_least=b[0], more_than=b[1], at_most=b[2], less_than=b[3]))
)


@given(ranges, st.integers(-2, 3), st.integers(3, 8))
def test_an_interval_has_exactly_the_whole_numbers_that_hold(range_: Range, low: int, high: int) -> None:
    holding = [number for number in range(low, high + 1) if range_.holds(number)]
    assert range_.interval(low, high, whole=True) == ((holding[0], holding[-1]) if holding else None)


@given(ranges)
def test_an_interval_of_reals_is_empty_exactly_when_nothing_holds(range_: Range) -> None:
    halves = [number / 2 for number in range(-2, 17)]
    assert (range_.interval(-1, 8) is None) == (not any(range_.holds(number) for number in halves))


@given(ranges, ranges)
def test_a_range_includes_another_only_if_it_holds_wherever_that_does(wide: Range, narrow: Range) -> None:
    if wide.includes(narrow):
        assert all(wide.holds(n / 2) for n in range(-10, 20) if narrow.holds(n / 2))


@pytest.mark.parametrize(
    "when",
    [{"domian": "code"}, {"complexity": {}}, {"complexity": "hard"}, {"time": {"from": "25:00"}}, {"header": {}},
     {"or": []}, {"language": []}, {"not": {"x": 1}}, {"turns": 3}],
)  # fmt: skip
def test_malformed_conditions_are_refused(when: dict) -> None:
    with pytest.raises(ValidationError):
        When.model_validate(when)


def test_bands() -> None:
    found = [Signals(complexity=complexity).band for complexity in (None, 0.349, 0.35, 0.649, 0.65)]
    assert found == [None, "simple", "moderate", "moderate", "complex"]


def test_what_conditions_read_is_known_beforehand() -> None:
    when = When.model_validate({"or": [{"header": {"X-A": "1"}}, {"not": {"header": {"x-b": "2"}, "domain": "law"}}]})
    assert headers_read([when, When()]) == {"x-a", "x-b"}
    assert when.signals
    assert not When.model_validate({"has_code": True}).signals
    assert len(DAYS) == 7


def test_what_must_be_read_for_conditions_is_known() -> None:
    plain = When.model_validate({"turns": {"more_than": 2}})
    nested = [When.model_validate({"or": [{"turns": {"more_than": 2}}, one]}) for one in (
        {"language": "fr"}, {"has_code": False}, {"domain": "code"},
    )]  # fmt: skip
    assert not texts_read([plain])
    assert all(texts_read([plain, when]) for when in nested)
    assert headers_read([plain, When.model_validate({"not": {"header": {"X-Team": "blue"}}})]) == {"x-team"}
