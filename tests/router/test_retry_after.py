"""Every dialect in which a backend says when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.retry_after import retry_after

NOW = 1_795_330_800.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 07:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 06:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "1h2m3s", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "6m", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset": "1s"}, 360.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-11-22T07:00:10Z"}, 10.0),
        ({"x-ratelimit-reset": "1795330815"}, 15.0),
    ],
)  # fmt: skip
def test_dialects(headers: dict[str, str], seconds: float | None) -> None:
    found = retry_after(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@given(st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"]),
    st.text(max_size=30)), st.floats(0, 1e10))  # fmt: skip
def test_any_header_is_survived(headers: dict[str, str], now: float) -> None:
    found = retry_after(headers, now)
    assert found is None or found >= 0
