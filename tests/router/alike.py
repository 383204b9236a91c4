"""Messages on one connection whose heads are alike, or nearly, for tests of what is known of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from router.known import Known

T = TypeVar("T")

_LENGTHS = (
    b"0%d", b"00000000%d", b"0" * 5_000 + b"%d", b"+%d", b"-%d", b" %d", b"%d ", b"%d\t", b"", b"x", b"%d, %d",
    b"%d\r\nContent-Length: %d", b"9" * 5_000, b"9" * 20, b"%d\n", b"%d\rx: y", b"%d\r\n x",
)  # fmt: skip
_NAMES = (b"content-length:", b"Content-Length :", b"Content-Length:  ", b"x: content-length: 3\r\nContent-Length: ")
_LINES = (
    b"Authorization: Bearer a\r\n", b"Authorization: Bearer b\r\n", b"x-pieces: 2\r\n", b"x-refused: yes\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 4\r\n", b" folded\r\n", b"x: y\n",
)  # fmt: skip
_BODIES = (
    b"this", b"that", b"", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"4\r\nthis\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"\r\ncontent-length: 4\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
)  # fmt: skip


class Nothing(Known[Any]):
    """What is known where nothing ever is."""

    def again(self, data: bytes) -> None:
        return None


@st.composite
def pieces(draw: st.DrawFn, line: bytes, others: Sequence[bytes]) -> list[bytes]:
    """What arrives of a few messages, most of them with the same head but for its length, which begins with ``line``.

    Most come whole and alone, and some begin with one of ``others``.
    """

    def mostly(usual: T, unusual: Sequence[T], of: int) -> T:
        return draw(st.sampled_from(unusual)) if draw(st.integers(1, of)) == of else usual

    begins = [mostly(line, others, 4) + mostly(b"", _LINES, 4) for _ in range(draw(st.integers(1, 2)))]
    ends = [mostly(b"", _LINES, 4) for _ in begins]
    name = mostly(b"Content-Length: ", _NAMES, 5)
    said: list[bytes] = []
    for _ in range(draw(st.integers(2, 6))):
        kind = draw(st.integers(0, len(begins) - 1))
        body = draw(st.sampled_from(_BODIES) | st.binary(max_size=20))
        size = b"%d" % max(0, len(body) + mostly(0, (1, -1), 20))
        length = mostly(b"%d", _LENGTHS, 6).replace(b"%d", size)
        head = begins[kind] + mostly(name + length + b"\r\n", (b"",), 20) + ends[kind] + b"\r\n"
        message = head + body + mostly(b"", (b"x", b"\r", b"\r\n", line), 12)
        at = draw(st.integers(1, len(message) - 1))
        said += mostly([message], ([message[:at], message[at:]],), 8)
        if len(said) > 1 and draw(st.integers(1, 12)) == 12:
            said[-2:] = [said[-2] + said[-1]]
    return said
