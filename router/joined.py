"""A transport that sends an answer's head together with its body, and answers of one turn together."""

from __future__ import annotations

import asyncio

from router.outbox import OUTBOX


class Joined:
    """A client's transport that holds back what begins like a head until more is written, or the loop comes round.

    Whatever else a server asks a transport for is the transport's own.
    """

    __slots__ = (
        "_held", "_loop", "_transport", "abort", "get_extra_info", "is_closing", "pause_reading", "resume_reading",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""
        self.abort, self.is_closing, self.get_extra_info = (
            transport.abort,
            transport.is_closing,
            transport.get_extra_info,
        )
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        """Send bytes, in order, at the latest when the loop comes round; to nobody once the connection is closed.

        A closed one's protocol hears of it a turn later, and uvloop does not take what is written until then.
        """
        if not self._held and data.startswith(b"HTTP/1.1 "):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self.write_now(data)

    def write_now(self, data: bytes) -> None:
        """Send bytes now, behind what is held."""
        self._held += data
        self._flush()

    def write_whole(self, data: bytes) -> None:
        """Send bytes, in order, with what the loop's turn sends to others; nothing need come after them."""
        if self._held:
            self._held += data
        else:
            self._held = data
            OUTBOX.post(self._flush, self._loop)

    def close(self) -> None:
        """Send what is held, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data, self._held = self._held, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)
