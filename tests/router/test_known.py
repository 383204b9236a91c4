"""A head that is known is taken for what a parser would take it for, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.known import Known


def message(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nserver: x\r\n\r\n") -> bytes:
    return head % len(body) + body


def knowing(data: bytes, body: bytes) -> Known[str]:
    known = Known[str]()
    known.learn(data, "said", body)
    return known


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_only_the_length_and_the_body_may_differ(one: bytes, other: bytes) -> None:
    known = knowing(message(one), one)
    assert known.again(message(other)) == ("said", b"%d" % len(other), other)
    assert known.again(message(other) + b"x") is None
    assert known.again(message(other)[:-1]) is None


@pytest.mark.parametrize(
    "other",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nserver: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +%d\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Length: 4\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 5_000 + b"%d\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n%%%d",
    ],
)
def test_another_head_is_not_known(other: bytes) -> None:
    assert knowing(message(b"this"), b"this").again(message(b"that", other)) is None


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (message(b"this") + b"more", b"this"),
        (message(b"this"), b"that"),
        (message(b"this", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx: %d\r\n\r\n"), b"this"),
        (message(b"this", b"HTTP/1.1 200 OK\r\ncontent-length: " + b"0" * 5_000 + b"%d\r\n\r\n"), b"this"),
        (b"4\r\nthis\r\n0\r\n\r\n", b"this"),
        (message(b"a\r\n\r\nb"), b"b"),
    ],
)
def test_what_is_not_one_whole_message_is_not_learnt(data: bytes, body: bytes) -> None:
    assert knowing(data, body).again(data) is None
