"""Bounds on what a connection may do before anybody knows who it is.

uvicorn bounds none of this by itself: a head of any size, one that never ends, a body that drips, trailers without end,
a client that does not read its answer, connections without number. One timer for each connection looks after the times,
so that requests pay for none; sizes are counted by what arrives without a request getting any further.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from policies.schema import Limits
from router.errors import shape
from router.express import PATH, Admit, Express, fits
from router.joined import Joined
from router.known import Known
from router.runner import Runner

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

log = logging.getLogger(__name__)

LARGEST_HEAD: Final = 64 * 1024
"""Bytes of a head, or of trailers and framing between two pieces of a body."""

_LOOKS = 4
"""How often a connection is looked at within the time that a head may take; limits are passed by a quarter of it."""


_HAS_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})


class Guarded(HttpToolsProtocol):
    """One connection of a client, within ``limits``."""

    transport: Joined  # type: ignore[assignment]
    cycle: RequestResponseCycle | Express | None  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head, self._request = limits.head.total_seconds(), limits.request.total_seconds()
        self._most = limits.connections
        self._awaits: Literal["head", "body", ""] = "head"
        self._since = self.loop.time()
        self._idle_bytes = 0
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._answered_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._admit: Admit | None = getattr(self.app, "admit", None)
        self._taken: Express | None = None
        self._express: Express | None = None
        self._runner: Runner | None = None
        self._known = Known[dict[bytes, bytes]]()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come and nothing of an answer is under way."""
        return not self._idle_bytes and (self.cycle is None or self.cycle.response_complete) and self._awaits != "body"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look after the connection; where there are too many, make room or refuse it."""
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        self._timer = self.loop.call_later(self._head / _LOOKS, self._look)
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it, and of what is done for it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._runner is not None:
            self._runner.hang_up()
        self._express = None
        if isinstance(self.cycle, Express):
            self.cycle = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it gets no request any further."""
        self._answered_at = None
        between = not self._awaits and not self._idle_bytes and self._free()
        if between and self._take_alike(data):
            return
        self._idle_bytes += len(data)
        super().data_received(data)
        if between and (express := self._express) is not None and express.keep_alive:
            self._known.learn(data, dict(express.headers), express.body)
        if self._awaits:
            if self._idle_bytes > LARGEST_HEAD:
                self._refuse(431, "head_too_large", f"The request's head is larger than {LARGEST_HEAD} bytes.")
        elif self._idle_bytes and (self.cycle is None or self.cycle.response_complete):
            self._await("head")

    def _take_alike(self, data: bytes) -> bool:
        """Take a chat whose head says what this client's last one did, without a word to the parser."""
        again = self._known.again(data)
        if again is None or self._admit is None or self.transport.is_closing():
            return False
        known, length, body = again
        headers = {**known, b"content-length": length}
        chat = self._admit(headers)
        if chat is None:
            return False
        self.cycle = self._express = Express(self, chat, headers, True)
        self._express.body = body
        self._start(self._express)
        return True

    def _start(self, express: Express) -> None:
        if self._runner is None or self._runner.over:
            self._runner = Runner(self.loop, self.tasks)
        self._runner.start(express)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._awaits, self._since = "head", self.loop.time()

    def on_headers_complete(self) -> None:
        """A whole head: what is called a header from here on is a trailer, and nobody's business.

        An upgrade's body would be taken for the next request, so there may be none: `ValueError` makes it a 400.
        """
        parser, headers = self.parser, self.headers
        if parser.should_upgrade() and any(name in _HAS_BODY for name, _ in headers):
            raise ValueError("an upgrade with a body")
        method, version = parser.get_method(), parser.get_http_version()
        self._awaits, self.headers = "body", []
        keep_alive = version != "1.0" and parser.should_keep_alive()
        free = self._free()
        if self.url == PATH and method == b"POST" and version == "1.1" and free and self._admit is not None:
            named = dict(headers)
            if fits(named) and (chat := self._admit(named)) is not None:
                self.cycle = self._taken = Express(self, chat, named, keep_alive)
                return
        self.scope = self._scope(method.decode("ascii"), version, headers)
        self.cycle = cycle = RequestResponseCycle(
            self.scope, self.transport, self.flow, self.logger, self.access_logger, self.access_log,  # type: ignore[arg-type]
            self.server_state.default_headers, asyncio.Event(), self.expect_100_continue, keep_alive,
            self.on_response_complete,
        )  # fmt: skip
        if free:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _scope(self, method: str, version: str, headers: list[tuple[bytes, bytes]]) -> HTTPScope:
        raw, _, query = self.url.partition(b"?")
        if not raw.startswith(b"/"):
            raw, query = urlsplit(self.url)[2:4]
        path = raw.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": self.root_path,
            "method": method,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._idle_bytes = 0
        if self._taken is not None:
            self._taken.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        self._awaits, self._idle_bytes = "", 0
        if self._taken is not None:
            self._express, self._taken = self._taken, None
            self._express.join()
            self._start(self._express)
            return
        super().on_message_complete()
        assert self.cycle is not None
        if self.cycle.response_complete:
            self._await("head")

    def on_response_complete(self) -> None:
        """A whole answer: the next request, or none for a while, which takes no timer of its own."""
        self.server_state.total_requests += 1
        self._express = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._answered_at = self.loop.time()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._unread_since = None
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        assert self.cycle is not None
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, "invalid_http", "The request is not HTTP/1.1 as it should be, or asks for more.")

    def _await(self, what: Literal["head", "body"]) -> None:
        self._awaits, self._since = what, self.loop.time()

    def _look(self) -> None:
        """See whether anything takes too long."""
        now = self.loop.time()
        self._timer = self.loop.call_later(self._head / _LOOKS, self._look)
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
        if any(now - since > self._request for since in (self._unread_since, self._closing_since) if since is not None):
            self.transport.abort()
        elif self._answered_at is not None and now - self._answered_at > self.timeout_keep_alive:
            self.transport.close()
        elif self.flow.read_paused or (self._awaits == "head" and self._answering()):
            self._since = now
        elif self._awaits and now - self._since > (self._head if self._awaits == "head" else self._request):
            if self.idle:
                self.transport.close()
            self._refuse(408, "request_timeout", "The request did not arrive in time.")

    def _free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _begun(self) -> bool:
        return self.cycle is not None and self.cycle.response_started

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Close the connection, and say why where an answer does not get into another one."""
        if self.transport.is_closing():
            return
        own = self._awaits == "body"
        if not self._answering() or (own and not self._begun() and not self.pipeline):
            body = orjson.dumps(shape(status, message, code=code))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _make_room(self) -> None:
        """Close the tenth of the connections that has been idle longest; where none is idle, this one."""
        idle = [other for other in self.connections if isinstance(other, Guarded) and other.idle and other is not self]
        idle.sort(key=lambda connection: connection._answered_at or connection._since)
        for connection in idle[: len(self.connections) // 10 + 1]:
            connection.transport.close()
        if not idle:
            log.warning("a connection is refused: there are %d, and none is idle", self._most)
            self.transport.abort()
