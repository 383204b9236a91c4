"""The circuit breaker, as a machine that is driven at random and compared with what it promises."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.schema import Cooldown
from router.breaker import AT_ONCE, CLOSED, HARMLESS, LONGEST, Circuit, abandoned, admit, failed, succeeded

SETTINGS = Cooldown(failures=3, rest=timedelta(seconds=10))


def broken(at: float = 0.0) -> Circuit:
    circuit = CLOSED
    for _ in range(SETTINGS.failures):
        circuit = failed(circuit, at, SETTINGS, "server_error")
    return circuit


def test_it_opens_after_enough_failures_in_a_row() -> None:
    circuit = failed(failed(CLOSED, 0, SETTINGS, "reset"), 0, SETTINGS, "cut")
    assert circuit.state(0) == "closed"
    assert succeeded(circuit) == CLOSED
    circuit = failed(circuit, 0, SETTINGS, "timeout")
    assert (circuit.state(0), circuit.state(9.9), circuit.state(10)) == ("open", "open", "half-open")


def test_only_one_probe_is_let_out() -> None:
    probe = admit(broken(), 10)
    assert probe is not None
    assert probe.state(10) == "half-open"
    assert admit(probe, 11) is None
    assert admit(probe, 11, early=True) is None


def test_a_probe_decides() -> None:
    probe = admit(broken(), 10)
    assert probe is not None
    assert succeeded(probe) == CLOSED
    again = failed(probe, 11, SETTINGS, "reset")
    assert (again.state(30.9), again.state(31)) == ("open", "half-open")
    assert admit(abandoned(probe), 11) is not None


def test_rests_grow_up_to_a_limit() -> None:
    circuit, at, rests = broken(), 10.0, []
    for _ in range(8):
        probe = admit(circuit, at)
        assert probe is not None
        circuit = failed(probe, at, SETTINGS, "reset")
        assert circuit.until is not None
        rests.append(circuit.until - at)
        at = circuit.until
    assert rests[:3] == [20, 40, 80]
    assert max(rests) == 10 * LONGEST


@pytest.mark.parametrize("kind", sorted(AT_ONCE))
def test_a_bad_key_rests_at_once(kind: str) -> None:
    assert failed(CLOSED, 0, SETTINGS, kind).state(1) == "open"


def test_a_rate_limit_rests_as_long_as_asked() -> None:
    assert failed(CLOSED, 0, SETTINGS, "rate_limited", 33.0).until == 33.0
    assert failed(CLOSED, 0, SETTINGS, "rate_limited", 9e9).until == 10 * LONGEST
    assert failed(CLOSED, 0, SETTINGS, "rate_limited").until is None


def test_late_news_does_not_end_a_rest() -> None:
    circuit = broken()
    assert succeeded(circuit) == circuit
    assert failed(circuit, 5, SETTINGS, "reset").until == circuit.until


EVENTS = st.lists(st.tuples(st.sampled_from(["ok", "fail", "cancel"]), st.floats(0, 5)), max_size=60)


@given(EVENTS)
def test_never_two_probes_and_never_stuck(events: list[tuple[str, float]]) -> None:
    circuit, at = CLOSED, 0.0
    for what, passed in events:
        at += passed
        admitted = admit(circuit, at)
        if admitted is None:
            assert circuit.until is not None
            assert at < circuit.until
            continue
        assert admitted.probing == (circuit.until is not None)
        if admitted.probing:
            assert admit(admitted, at + 1e6) is None
        circuit = {
            "ok": lambda c: succeeded(c),
            "fail": lambda c, at=at: failed(c, at, SETTINGS, "reset"),
            "cancel": lambda c: abandoned(c),
        }[what](admitted)
        assert not circuit.probing
    assert admit(circuit, at + 10 * LONGEST) is not None


def test_kinds_that_do_no_harm_are_ours_or_the_requests() -> None:
    assert {"bad_request", "context", "cancelled", "full"} <= HARMLESS
