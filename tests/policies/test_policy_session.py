"""What is remembered of a conversation."""

from dataclasses import replace

import pytest

from policies.decide import decide
from policies.session import is_follow_up, next_session
from policies.values import Decision, Features, Session, Signals, Step
from tests.policies.examples import a_policy, a_view, some_signals

SERVED = {"small": Step("small", "small-1"), "code": Step("code", "code-1"), "large": Step("large", "large-1")}


def after(past: Session | None, tier: str, wanted: str, served: str | None = None, complexity: float = 0.3) -> Session:
    decision = Decision((SERVED[tier],), ("because",), "hash", wanted=wanted)
    known = some_signals(complexity=complexity)
    return next_session(a_policy(), decision, known, a_view(session=past), SERVED[served or tier])


LARGE = Session("large", "large-1", 0.5, 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (after(None, "small", "small"), Session("small", "small-1", 0.3)),
        (after(Session("small", "small-2", 0.1, 2), "large", "large"), Session("large", "large-1", 0.3)),
        (after(Session("removed", "x", 0.4), "small", "small"), Session("small", "small-1", 0.4)),
        (after(LARGE, "large", "small"), Session("large", "large-1", 0.5, 2)),
        (after(LARGE, "large", "large"), Session("large", "large-1", 0.5, 0)),
        (after(LARGE, "large", ""), Session("large", "large-1", 0.5, 1)),
        (after(replace(LARGE, easier_turns=2), "small", "small"), Session("small", "small-1", 0.3)),
        (after(LARGE, "small", ""), LARGE),
        (after(LARGE, "large", "large", served="small"), Session("large", "large-1", 0.5, 0)),
        (after(LARGE, "code", "code"), Session("large", "large-1", 0.5, 2)),
    ],
)
def test_fast_up_slow_down(found: Session, expected: Session) -> None:
    assert found == expected


def test_signals_may_be_absent() -> None:
    decision = Decision((SERVED["large"],), ("because",), "hash", wanted="large")
    assert next_session(a_policy(), decision, Signals(missing=("x",)), a_view(), SERVED["large"]).complexity == 0.0
    assert next_session(a_policy(), decision, None, a_view(), SERVED["large"]).complexity == 0.0


def test_a_hard_conversation_keeps_its_tier_through_commit_it_and_comes_down_in_the_end() -> None:
    loaded, session = a_policy(), None
    hard = some_signals("code", 0.9, small=0.2, code=0.3, large=0.8)
    easy = some_signals("chat", 0.1)
    long = "x" * 80
    turns = [(hard, long), (easy, "commit it"), (easy, "thanks"), (easy, long), (easy, long), (easy, long)]
    served = []
    for turn, (known, text) in enumerate(turns, start=1):
        features, view = Features(input_tokens=100, turns=turn, last_characters=len(text)), a_view(session=session)
        decision = decide(loaded, features, known, view)
        session = next_session(loaded, decision, known, view, decision.steps[0])
        served.append(decision.tier)
    assert served == ["large", "large", "large", "large", "large", "small"]


def test_a_follow_up_is_short_and_not_the_first() -> None:
    assert is_follow_up(Features(turns=2, last_characters=9))
    assert not is_follow_up(Features(turns=1, last_characters=9))
    assert not is_follow_up(Features(turns=2, last_characters=49))
