"""What is remembered of conversations here: never too long, and not without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.values import Session
from router.state import sessions
from router.state.sessions import NOT_KNOWN, Sessions

HERE = Session("small", "qwen", 0.25, 1)
TRUSTED = 60.0


@given(st.lists(st.tuples(st.floats(0, 45), st.sampled_from("abc"), st.booleans()), min_size=1, max_size=40))
def test_a_session_is_known_for_half_of_its_time_and_for_no_more_than_all_of_it(
    steps: list[tuple[float, str, bool]],
) -> None:
    now, kept, known = 1_000.0, dict[str, tuple[float, Session]](), Sessions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "monotonic", lambda: now)
        for number, (passed, conversation, keeps) in enumerate(steps):
            now += passed
            if keeps:
                kept[conversation] = now, Session("small", "qwen", easier_turns=number)
                known.keep(conversation, kept[conversation][1], TRUSTED)
            found = known.find(conversation)
            at, session = kept.get(conversation, (0.0, NOT_KNOWN))
            assert found in (session, NOT_KNOWN)
            assert found is NOT_KNOWN or now - at <= TRUSTED
            assert found is session or now - at >= TRUSTED / 2


def test_a_session_that_may_be_trusted_less_takes_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another proxy comes, which may know better."""
    now, known = 1_000.0, Sessions()
    monkeypatch.setattr(sessions, "monotonic", lambda: now)
    known.keep("a", HERE, TRUSTED)
    known.keep("b", None, 1.0)
    assert (known.find("a"), known.find("b"), known.find("c")) == (HERE, None, NOT_KNOWN)
    now += 1.0
    assert (known.find("a"), known.find("b")) == (NOT_KNOWN, NOT_KNOWN)


def test_the_newest_are_kept() -> None:
    known = Sessions()
    for number in range(45_000):
        known.keep(f"{number}", HERE, TRUSTED)
    assert len(known._young) + len(known._old) <= 20_000
    assert all(known.find(f"{number}") is HERE for number in range(35_000, 45_000))
