"""What follows an attempt: never a wasted call, never a second answer, never for ever."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cascade import ELSEWHERE, OURS, REFUSED, SPARED, Accept, GiveUp, Moment, Next, Try, next_step
from policies.schema import Retries
from policies.values import Attempt, Decision, Refusal, Step

STEPS = (Step("small", "a"), Step("small", "b"), Step("large", "c"))
DECISION = Decision(STEPS, ("because",), "hash")
RETRIES = Retries(attempts=2, base=timedelta(seconds=1), cap=timedelta(seconds=3))
KINDS = (
    "connect", "dns", "tls", "timeout", "deadline", "reset", "cut", "malformed", "empty", "rate_limited",
    "server_error", "auth", "not_found", "context", "bad_request", "full", "cooling", "cancelled",
)  # fmt: skip


def failed(backend: str, error: str = "server_error", status: int | None = None, phase: str = "headers") -> Attempt:
    tier = "large" if backend == "c" else "small"
    return Attempt(backend, tier, "m", "error", status=status, error=error, phase=phase)  # type: ignore[arg-type]


def after(*attempts: Attempt, **moment: object) -> Next:
    return next_step(DECISION, attempts, RETRIES, Moment(**{"draw": 0.5, **moment}))  # type: ignore[arg-type]


def called(following: Next) -> tuple[str, str] | None:
    return (following.kind, following.step.backend) if isinstance(following, Try) else None


def test_the_first_step_comes_first_unless_it_rests() -> None:
    assert called(next_step(DECISION, [], RETRIES)) == ("first", "a")
    assert called(after(cooling=frozenset("a"))) == ("first", "b")
    assert called(after(cooling=frozenset("abc"))) == ("first", "a")


def test_a_decision_without_steps_gives_up_with_its_reason() -> None:
    refused = Decision((), ("no",), "hash", refusal=Refusal(404, "model_not_found", "no such model"))
    assert next_step(refused, [], RETRIES) == GiveUp("no such model")
    assert next_step(Decision((), (), "hash"), [], RETRIES) == GiveUp("the decision has no step")


def test_an_answer_is_passed_on() -> None:
    assert after(Attempt("a", "small", "m", "ok", status=200)) == Accept()


@pytest.mark.parametrize("error", ["server_error", "rate_limited", "reset", "malformed", "empty"])
def test_passing_failures_are_retried_then_left(error: str) -> None:
    first = after(failed("a", error))
    assert called(first) == ("retry", "a")
    assert first.delay == 0.5
    assert after(failed("a", error), failed("a", error)).delay == 1.0
    assert called(after(*[failed("a", error)] * 3)) == ("fallback", "b")
    assert called(after(*[failed(name, error) for name in "aaabbbcc"])) == ("retry", "c")
    assert isinstance(after(*[failed(name, error) for name in "aaabbbccc"]), GiveUp)


@pytest.mark.parametrize("error", sorted(ELSEWHERE))
def test_failures_that_repeat_go_elsewhere_at_once(error: str) -> None:
    following = after(failed("a", error))
    assert called(following) == ("fallback", "b")
    assert following.delay == 0


@pytest.mark.parametrize("error", sorted(SPARED))
def test_slow_failures_are_retried_only_where_there_is_no_other(error: str) -> None:
    assert called(after(failed("a", error))) == ("fallback", "b")
    assert called(after(failed("a", error), failed("b", error), failed("c", error))) == ("retry", "c")


@pytest.mark.parametrize("error", sorted(REFUSED))
def test_a_refused_request_is_not_sent_again(error: str) -> None:
    assert isinstance(after(failed("a", error)), GiveUp)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, None), (422, None), (401, ("fallback", "b")), (404, ("fallback", "b")), (429, ("retry", "a"))],
)
def test_a_status_tells_where_no_kind_does(status: int, expected: tuple[str, str] | None) -> None:
    assert called(after(failed("a", "", status))) == expected


@pytest.mark.parametrize("error", KINDS)
def test_after_content_no_other_backend_speaks(error: str) -> None:
    assert isinstance(after(failed("a", error, phase="stream")), GiveUp)


def test_a_client_that_left_is_not_served() -> None:
    assert isinstance(after(Attempt("a", "small", "m", "cancelled")), GiveUp)


def test_a_context_error_goes_only_where_there_is_more_room() -> None:
    windows = {"a": 8, "b": 8, "c": 32}
    assert called(after(failed("a", "context"), windows=windows)) == ("fallback", "c")
    assert called(after(failed("a", "context"))) == ("fallback", "b")
    assert isinstance(after(failed("c", "context"), windows=windows), GiveUp)


def test_a_poor_answer_goes_up_to_another_tier_or_is_given() -> None:
    poor = Attempt("a", "small", "m", "rejected", status=200, error="poor:json")
    assert called(after(poor)) == ("escalate", "c")
    assert after(failed("c"), failed("c"), failed("c"), poor) == Accept()


def test_resting_backends_come_last() -> None:
    assert called(after(*[failed("a")] * 3, cooling=frozenset("b"))) == ("fallback", "c")
    assert called(after(*[failed("a")] * 3, cooling=frozenset("bc"))) == ("fallback", "b")


def test_a_retry_after_is_honoured_up_to_the_cap() -> None:
    assert after(failed("a", "rate_limited"), retry_after=2.5).delay == 2.5
    assert called(after(failed("a", "rate_limited"), retry_after=60)) == ("fallback", "b")
    alone = after(failed("a", "auth"), failed("b", "auth"), failed("c", "rate_limited"), retry_after=60)
    assert (called(alone), alone.delay) == (("retry", "c"), 3.0)


def test_nothing_is_waited_for_beyond_the_deadline() -> None:
    assert called(after(failed("a"), remaining=0.4)) == ("fallback", "b")
    assert isinstance(after(failed("a"), remaining=0), GiveUp)


errors = st.sampled_from((*KINDS, ""))


@settings(max_examples=300)
@given(
    st.lists(errors, min_size=30, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 100),
    st.frozensets(st.sampled_from("abc")),
    st.integers(0, 3),
)
def test_it_always_ends_without_wasting_a_call(
    kinds: list[str], draw: float, wait: float | None, cooling: frozenset[str], allowed: int
) -> None:
    retries = Retries(attempts=allowed, base=timedelta(seconds=1), cap=timedelta(seconds=3))
    attempts: list[Attempt] = []
    for error in kinds:
        following = next_step(DECISION, attempts, retries, Moment(draw, wait, None, cooling))
        if not isinstance(following, Try):
            break
        assert following.step in STEPS
        assert 0 <= following.delay <= 3
        assert (following.kind == "retry") == bool(attempts and attempts[-1].backend == following.step.backend)
        if following.kind == "retry":
            assert attempts[-1].error not in ELSEWHERE | REFUSED | OURS
        attempts.append(failed(following.step.backend, error))
    assert isinstance(following, GiveUp)
    order = [attempt.backend for attempt in attempts]
    assert all(order.count(backend) <= 1 + allowed for backend in order)
    assert [b for n, b in enumerate(order) if n == 0 or order[n - 1] != b] == list(dict.fromkeys(order))
