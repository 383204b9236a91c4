"""One model at two precisions in one tier: told apart by success, and kept off what the cheaper one gets wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from policies.decide import decide, weigh
from policies.document import Loaded
from policies.doubts import could_sink, needs_signals
from policies.values import Decision, EngineView, Features, Session, Signals, View
from tests.policies.examples import a_document, a_policy, a_view, features, some_signals, views

ASKED = Features(input_tokens=200)


def two_precisions(**settings: object) -> Loaded:
    """The examples' policy, its small tier one model in int4 (small-1) and in fp16 (small-2)."""
    document = a_document(**settings)
    small = document["tiers"]["small"]  # type: ignore[index]
    small["quality"] = {"gsm8k": 0.85}
    small["backends"][0]["quality"] = {"gsm8k": 0.70}
    return a_policy(**document)


POLICY = two_precisions()


def told(int4: float, fp16: float, large: float = 0.9, code: float = 0.3) -> Signals:
    known = some_signals("math", code=code, large=large, small=fp16)
    lower = replace(known.success["small"], probability=int4, source="quality")
    return replace(known, success={**known.success, "small/small-1": lower})


def steps(signals: Signals | None, loaded: Loaded = POLICY, view: View | None = None, model: str = "auto") -> list[str]:
    return [step.backend for step in decided(signals, loaded, view, model).steps]


def decided(
    signals: Signals | None, loaded: Loaded = POLICY, view: View | None = None, model: str = "auto"
) -> Decision:
    return decide(loaded, replace(ASKED, model=model), signals, view or a_view())


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (told(int4=0.90, fp16=0.92), ["small-1", "small-2", "large-1"]),
        (told(int4=0.50, fp16=0.92), ["small-2", "large-1", "small-1"]),
        (told(int4=0.30, fp16=0.50), ["large-1"]),
        (told(int4=0.95, fp16=0.50), ["small-1", "large-1", "small-2"]),
    ],
)
def test_only_backends_within_the_floor_serve_and_the_others_come_last(signals: Signals, expected: list[str]) -> None:
    assert steps(signals) == expected


def test_a_question_kept_off_the_low_precision_could_go_to_something_cheaper() -> None:
    assert steps(hard := told(int4=0.50, fp16=0.92))[0] == "small-2"
    assert could_sink(weigh(POLICY, ASKED, hard, a_view()))


def test_the_reason_names_who_was_left_out() -> None:
    reasons = decided(told(int4=0.5, fp16=0.92)).reasons
    assert "small-1 of small would be right too seldom: predicted 0.50 against 0.92" in reasons
    assert not [reason for reason in decided(told(int4=0.9, fp16=0.92)).reasons if "too seldom" in reason]


def test_a_session_leaves_the_low_precision_for_a_hard_turn() -> None:
    view = a_view(session=Session("small", "small-1"))
    assert steps(told(int4=0.9, fp16=0.92), view=view)[0] == "small-1"
    assert steps(told(int4=0.5, fp16=0.92), view=view)[0] == "small-2"


def test_load_decides_only_among_those_that_serve() -> None:
    busy = a_view(engines={"small-1": EngineView(waiting=0), "small-2": EngineView(waiting=30)})
    assert steps(told(int4=0.9, fp16=0.92), view=busy)[0] == "small-1"
    assert steps(told(int4=0.5, fp16=0.92), view=busy)[0] == "small-2"


def test_while_the_better_one_rests_the_tier_is_judged_by_what_is_left() -> None:
    resting = a_view(cooling=frozenset({"small-2"}))
    assert steps(told(int4=0.5, fp16=0.92), view=resting) == ["large-1"]
    assert steps(told(int4=0.9, fp16=0.92), view=resting) == ["small-1", "large-1"]


def test_a_dearer_precision_is_taken_only_where_it_is_worth_its_price() -> None:
    document = a_document(objective={"tradeoff": 0.5}, baseline="large")
    small = document["tiers"]["small"]  # type: ignore[index]
    small["backends"][0]["trained_as"] = "m-int4"
    small["backends"][1]["cost"] = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}
    loaded = a_policy(**document)
    assert steps(told(int4=0.5, fp16=0.92), loaded)[0] == "small-2"
    assert "small-1" in steps(told(int4=0.90, fp16=0.92), loaded)[:2]
    assert decided(told(int4=0.90, fp16=0.92), loaded).tier == "small"


def test_a_tier_asked_for_by_name_keeps_its_floor_within() -> None:
    assert needs_signals(POLICY, replace(ASKED, model="tier/small"))
    assert not needs_signals(POLICY, replace(ASKED, model="tier/code"))
    assert not needs_signals(POLICY, replace(ASKED, model="small-1"))
    assert steps(told(int4=0.5, fp16=0.92), model="tier/small")[0] == "small-2"
    assert steps(told(int4=0.5, fp16=0.92), model="small-1") == ["small-1"]


def test_a_rule_that_settles_the_tier_still_asks_who_of_it() -> None:
    loaded = two_precisions(rules=[{"name": "all", "tier": "small"}])
    assert needs_signals(loaded, ASKED)
    assert steps(told(int4=0.5, fp16=0.92), loaded)[0] == "small-2"


def test_one_tier_of_two_precisions_needs_signals_too() -> None:
    document = two_precisions().policy.model_dump(exclude_none=True, by_alias=True)
    alone = a_policy(tiers={"small": document["tiers"]["small"]}, fallback=None, baseline=None)
    assert needs_signals(alone, ASKED)
    assert steps(told(int4=0.5, fp16=0.92), alone) == ["small-2", "small-1"]
    assert steps(told(int4=0.91, fp16=0.92), alone) == ["small-1", "small-2"]


def test_a_baseline_of_two_precisions_is_held_to_what_the_tier_is_predicted() -> None:
    loaded = two_precisions(baseline="small")
    assert steps(told(int4=0.5, fp16=0.92, code=0.1), loaded)[0] == "small-2"
    assert steps(told(int4=0.92, fp16=0.92, code=0.1), loaded)[0] == "small-1"


def test_without_predictions_all_are_alike() -> None:
    assert steps(None, model="tier/small")[:2] == ["small-1", "small-2"]
    assert steps(replace(told(0.5, 0.9), success={}), model="tier/small")[:2] == ["small-1", "small-2"]


def test_a_prediction_that_is_missing_leaves_a_backend_last() -> None:
    signals = told(int4=0.6, fp16=0.9)
    unknown = replace(signals, success={k: v for k, v in signals.success.items() if k != "small"})
    assert steps(unknown, model="tier/small") == ["small-1", "large-1", "small-2"]


def test_excluded_by_a_rule_is_out_altogether() -> None:
    hard = {"name": "hard", "when": {"domain": "math"}, "exclude": {"precision": "int4"}}
    assert steps(told(int4=0.9, fp16=0.92), two_precisions(rules=[hard])) == ["small-2", "large-1"]


def test_where_nothing_is_able_the_tier_is_still_estimated() -> None:
    far = replace(ASKED, input_tokens=20_000)
    assert [step.tier for step in decide(POLICY, far, told(0.9, 0.92), a_view()).steps] == ["large"]


@settings(max_examples=200, deadline=None)
@given(features, views)
def test_narrowing_loses_no_backend_and_adds_none(asked: Features, view: View) -> None:
    """Whoever could serve can still serve: leaving out is only an order."""
    signals = told(int4=0.5, fp16=0.92)
    plain = replace(signals, success={k: v for k, v in signals.success.items() if "/" not in k})
    narrowed, whole = (decide(POLICY, asked, each, view) for each in (signals, plain))
    if narrowed.tier == whole.tier:
        assert sorted(map(str, narrowed.steps)) == sorted(map(str, whole.steps))
