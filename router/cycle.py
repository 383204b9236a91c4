"""One request and its answer, as the server sees them; an answer that is whole goes out in one write."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from router.joined import Joined

WHOLE: Final = "tierwise.response"
"""The type of an ASGI message of our own, and its name among a scope's ``extensions`` where the server takes it.

It has a ``status``, ``headers`` of which nothing breaks out, content-length among them, and the whole ``body``.
"""

EXTENSIONS: Final[dict[str, dict[object, object]]] = {WHOLE: {}}


class Cycle(RequestResponseCycle):
    """uvicorn's, which also takes `WHOLE`: twelve headers pass one by one through some hundred calls otherwise."""

    transport: Joined  # type: ignore[assignment]

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        """ASGI's ``send``."""
        return self._send_whole(message) if message["type"] == WHOLE else super().send(message)

    async def _send_whole(self, message: dict[str, Any]) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("a whole response after a response has begun")
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head = b"".join([b"%b: %b\r\n" % header for header in (*self.default_headers, *message["headers"])])
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self.transport.write_whole(b"%b%b%b\r\n%b" % (STATUS_LINE[message["status"]], head, close, message["body"]))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
