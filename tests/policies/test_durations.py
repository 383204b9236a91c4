"""Durations read and written as people do."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.durations import parse, show


@given(st.integers(0, 10**10).map(lambda n: timedelta(milliseconds=n)))
def test_what_is_shown_reads_back(duration: timedelta) -> None:
    assert parse(show(duration)) == duration
    assert parse(duration) is duration


@pytest.mark.parametrize(
    ("text", "shown"),
    [("90s", "90s"), ("120s", "2m"), ("1.5h", "90m"), ("0s", "0ms"), ("24h", "1d"), (" 250ms ", "250ms")],
)
def test_the_largest_whole_unit_is_shown(text: str, shown: str) -> None:
    assert show(parse(text)) == shown


@pytest.mark.parametrize("text", ["2", "", "fast", "-1s", "1w", 2, None])
def test_anything_else_names_the_units(text: object) -> None:
    with pytest.raises(ValueError, match="ms, s, m, h, d"):
        parse(text)
