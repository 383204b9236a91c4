"""Response headers: what they say, and that nothing breaks out of them."""

from hypothesis import given
from hypothesis import strategies as st

from policies.values import Decision, Signals, Step
from router.headers import served_lines
from router.served import Served


def made(*reasons: str, **changes: object) -> dict[str, str]:
    decision = Decision((Step("small", "small-1"),), reasons, "hash")
    known: dict[str, object] = {"signals": None, "costs": None, **changes}
    lines = served_lines("id", decision, known["signals"], None, 2, 0.5, 1.25, known["costs"])  # type: ignore[arg-type]
    return {name.decode(): value.decode("latin-1") for name, value in Served(200, lines, b"").headers}


def test_a_refused_request_says_what_was_decided() -> None:
    assert made("because", signals=Signals(domain="math", complexity=0.5)) == {
        "x-tierwise-request-id": "id",
        "x-tierwise-tier": "small",
        "x-tierwise-reason": "because",
        "x-tierwise-attempts": "2",
        "x-tierwise-classify-ms": "0.50",
        "x-tierwise-overhead-ms": "1.25",
        "x-tierwise-domain": "math",
        "x-tierwise-complexity": "0.50",
    }


def test_costs_are_exact_and_an_unpriced_one_is_absent() -> None:
    headers = made(costs=(1, None))
    assert headers["x-tierwise-cost-usd"] == "0.000000001"
    assert "x-tierwise-baseline-usd" not in headers
    assert made(costs=(0, 12_000_000_000))["x-tierwise-baseline-usd"] == "12.000000000"
    assert made(costs=(0, None))["x-tierwise-cost-usd"] == "0.000000000"


@given(st.text(), st.text())
def test_no_reason_breaks_out_of_its_header(one: str, other: str) -> None:
    for value in made(one, other).values():
        assert not set(value) & set("\r\n\0")
        assert len(value) <= 600
