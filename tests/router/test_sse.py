"""Events are cut the same however the bytes arrive, and no byte is lost or changed."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sse import EventTooLarge, Splitter, data_of, event_of

STREAMS = st.one_of(st.binary(max_size=200), st.text("ab: \r\n\ndat", max_size=80).map(str.encode))


def fed(data: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    splitter, events, start = Splitter(), [], 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        events += splitter.feed(data[start:cut])
        start = cut
    return events, splitter.rest


@given(STREAMS, st.lists(st.integers(min_value=0), max_size=20))
def test_nothing_is_lost_or_changed(data: bytes, cuts: list[int]) -> None:
    events, rest = fed(data, cuts)
    assert b"".join(events) + rest == data


@given(STREAMS, st.lists(st.integers(min_value=0), max_size=20))
def test_events_do_not_depend_on_how_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    assert fed(data, cuts) == fed(data, list(range(len(data))))


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20), min_size=1, max_size=4),
       st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(min_value=0), max_size=5))  # fmt: skip
def test_data_lines_join_whatever_the_line_ending(lines: list[str], ending: str, cuts: list[int]) -> None:
    event = ending.join([*(f"data: {line}" for line in lines), "", ""]).encode()
    events, rest = fed(event, cuts)
    assert rest == b""
    assert [data_of(event) for event in events] == ["\n".join(lines).encode()]


@given(st.binary(max_size=60))
def test_looking_at_any_event_never_fails(event: bytes) -> None:
    assert data_of(event) is None or isinstance(data_of(event), bytes)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b": ping\n\n", None),
        (b"event: ping\n\n", None),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"id: 7\rdata: x\r\r", b"x"),
        (b"data\n\n", b""),
        (b"database: x\n\n", None),
        (b"data: [DONE]\n\n", b"[DONE]"),
    ],
)
def test_fields_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_a_document_survives_being_an_event() -> None:
    document = {"text": "two\nlines\r\n and ünïcode", "n": 1}
    splitter = Splitter()
    [event] = splitter.feed(event_of(document))
    assert orjson.loads(data_of(event) or b"") == document


def test_an_event_without_end_is_refused() -> None:
    splitter = Splitter(largest=100)
    splitter.feed(b"data: " + b"x" * 94)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x")
