"""An answer on its way to the client: whole, or as a stream of events.

A stream is held until its first content, which is the commit point: before it, a failure is an exception and another
backend may be asked; after it, a failure is an event in OpenAI's shape and the stream ends without ``[DONE]``. Events
go out byte for byte as they came, but for one: the chunk with usage alone is taken out where the client did not ask for
it, and gets ``usage.cost`` where it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson

from policies.values import Usage
from router import sse
from router.errors import STOPPED, UpstreamError, client_status, in_body, out_of_time, shape
from router.haste import HASTE
from router.lane import Flight
from router.usage import Said, look, plain, usage_in

LARGEST_HELD = 256 * 1024
"""Bytes without content after which a stream is committed anyway."""

LARGEST_ANSWER = 4 * 1024 * 1024
"""Bytes of a stream that are held back at most for the sake of checking its end."""

_LINGER = 0.25
"""Seconds to wait, after ``[DONE]``, for the response to end, so that its connection can be used again."""

Cost = Callable[[], float | None]


def whole(body: bytes, path: str) -> tuple[Usage | None, str]:
    """The usage that an answer which is not streamed states, or the text of one that states none.

    Raises `UpstreamError` where it is not an answer.
    """
    document = _document(body)
    if document.get("error"):
        raise in_body(document["error"])
    if path.endswith("completions"):
        choices = document.get("choices")
        if not isinstance(choices, list):
            raise UpstreamError("malformed", "The backend's answer has no choices.", phase="first_token", status=200)
        if not choices:
            raise UpstreamError("empty", "The backend's answer is empty.", phase="first_token", status=200)
    usage = usage_in(document)
    return usage, look(document).text if usage is None else ""


class Stream:
    """The events of one answer. `open` it, then iterate it once; `aclose` ends it early."""

    def __init__(
        self, flight: Flight, chunks: AsyncIterator[bytes], *, wants_usage: bool, choices: int, cost: Cost
    ) -> None:
        """``choices`` is how many must end, 0 where the protocol has none and any event is content.

        ``cost`` gives the request's dollars so far, None where unpriced.
        """
        self._flight = flight
        self._said = flight.said = Said()
        self._loop = flight.watch.loop
        self._chunks = chunks
        self._splitter = sse.Splitter()
        self._wants_usage = wants_usage
        self._unfinished = choices
        self._any_event = choices == 0
        self._cost = cost
        self._unread: Iterator[bytes] = iter(())
        self._out: list[bytes] = []
        self._failure: UpstreamError | None = None
        self._committed = self._moved = self._done = self._ended = self._rest = False

    async def open(self) -> None:
        """Wait for the first content. Raises `UpstreamError`; the caller lands the flight."""
        while not self._committed:
            data = await self._more()
            if data is None:
                raise self._without_content()
            self._take(data)
            if self._failure is not None and not self._committed:
                raise self._failure
            if self._done and not self._committed:
                raise self._without_content()
            self._committed = self._committed or sum(map(len, self._out)) > LARGEST_HELD
        self._flight.first()

    async def hold(self, end: float, gap: float) -> bytes:
        """Wait for the rest of the answer and return all of it; iterating gives it too. Raises `UpstreamError`.

        Nothing has gone to the client by then, so that a failure may still be mended elsewhere. An answer of more than
        `LARGEST_ANSWER` bytes is not held to its end; what is returned is empty then.
        """
        watch = self._flight.watch
        watch.enter("first_token", self._flight.now(), end, gap)
        self._read_on()
        while not self._done and self._failure is None:
            data = await self._more()
            if data is None and self._unfinished > 0:
                raise UpstreamError("cut", "The backend's answer broke off before its end.", status=200)
            if data is None:
                self._out.append(sse.DONE)
                self._done = True
                break
            self._take(data)
            if self._moved:
                self._moved = False
                watch.touch(self._flight.now())
            if sum(map(len, self._out)) > LARGEST_ANSWER:
                return b""
        if self._failure is not None:
            raise self._failure
        return b"".join(self._out)

    def stream_on(self, end: float, gap: float) -> None:
        """From here on the stream must end by ``end`` and never be silent for longer than ``gap``."""
        self._flight.watch.enter("stream", self._flight.now(), end, gap)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._moved:
            self._moved = False
            self._flight.watch.touch(self._flight.now())
        while not self._out:
            if self._ended:
                raise StopAsyncIteration
            if self._rest and (turn := HASTE.turn(self._loop)) is not None:
                try:
                    await turn
                except asyncio.CancelledError as error:
                    self._stop(error)
            self._read_on()
            if self._out:
                break
            if self._failure is not None:
                return self._last_word(self._failure)
            if self._done:
                await self._linger()
                raise StopAsyncIteration
            data = None
            try:
                data = await self._more()
                if (turn := HASTE.turn(self._loop)) is not None:
                    await turn
            except UpstreamError as error:
                self._failure = None if self._unfinished <= 0 and not self._any_event else error
            except BaseException as error:
                if data is not None:
                    self._take(data)  # it may say what was used
                self._stop(error)
                continue
            if data is not None:
                self._take(data)
            elif self._failure is None and not self._any_event:
                return self._close_for_upstream()
            elif self._failure is None:
                self._ended = True
                self._flight.land("ok")
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    async def aclose(self) -> None:
        """End the answer: cancels the backend's work unless it is over."""
        self._read_on()
        self._ended = True
        self._out = []
        if self._done and self._failure is None:
            self._flight.land("ok")
        else:
            self._flight.land("cancelled")

    def _stop(self, error: BaseException) -> None:
        """Have the stream end in an error, unless it is whole, where the proxy stops; else let go, and raise it."""
        if not out_of_time(error):
            self._flight.land("cancelled")
            self._ended = True
            raise error
        if self._unfinished > 0 or self._any_event:
            stopped = UpstreamError("stopped", STOPPED.message, status=STOPPED.status, code=STOPPED.code)
            self._failure = self._failure or stopped

    async def _more(self) -> bytes | None:
        """What the backend sends next, or None at the end of the response."""
        try:
            return await self._flight.watch.wait(anext(self._chunks))
        except StopAsyncIteration:
            return None

    def _take(self, data: bytes) -> None:
        try:
            self._unread = iter(self._splitter.feed(data))
        except sse.EventTooLarge as error:
            self._failure = UpstreamError("malformed", f"The backend's stream is not readable: {error}.", status=200)
        self._read_on()

    def _read_on(self) -> None:
        """Read what has come; of a stream that has not begun, only up to its first content, which goes out at once."""
        said: list[str] = []
        begun, self._rest = self._committed, False
        try:
            for event in self._unread:
                if begun and not self._done and (text := plain(event)):
                    said.append(text)
                    self._out.append(event)
                    continue
                if said:
                    said = self._hear(said)
                self._read(event)
                if self._committed and not begun:
                    self._rest = True
                    return
        except UpstreamError as error:
            self._failure, self._unread = error, iter(())
        if said:
            self._hear(said)

    def _hear(self, said: list[str]) -> list[str]:
        """Take plain text in, and give a list for what comes next."""
        self._moved = True
        self._keep("".join(said))
        return []

    def _keep(self, text: str) -> None:
        """Keep what is said for as long as no usage tells of it; that some state with the first chunk does not."""
        flight = self._flight
        if flight.usage is not None and not flight.usage.output_tokens:
            flight.usage = None
        if flight.usage is None:
            self._said.add(text)

    def _read(self, event: bytes) -> None:
        """Look at one event and put what the client shall see of it into ``_out``."""
        data = sse.data_of(event)
        if data is None:
            if not self._done:
                self._out.append(event)
            return
        if data == b"[DONE]":
            if not self._done:
                self._out.append(event)
            self._done = True
            return
        document = _document(data)
        if document.get("error"):
            raise in_body(document["error"])
        text, content, finished, usage, bare_usage = look(document)
        if text:
            self._keep(text)
        if content or self._any_event:
            self._committed = self._moved = True
        if usage is not None:
            self._flight.usage = usage
        if self._done:
            return
        self._unfinished -= finished
        if usage is None or not (bare_usage or finished):
            self._out.append(event)
        elif self._wants_usage:
            self._out.append(self._priced(document))
        elif not bare_usage:
            self._out.append(event)

    def _priced(self, document: dict[str, Any]) -> bytes:
        self._flight.bill()
        return sse.event_of({**document, "usage": {**document["usage"], "cost": self._cost()}})

    def _close_for_upstream(self) -> bytes:
        """Upstream ended without ``[DONE]``: say it where the answer is complete, else say that it is not."""
        if self._unfinished > 0:
            return self._last_word(UpstreamError("cut", "The backend's answer broke off before its end."))
        self._ended = True
        self._flight.land("ok")
        return sse.DONE

    def _last_word(self, error: UpstreamError) -> bytes:
        self._ended = True
        self._flight.fail(error)
        code = error.code or f"upstream_{error.kind}"
        return sse.event_of(shape(client_status(error), error.message, code=code, param=error.param))

    async def _linger(self) -> None:
        """After ``[DONE]``: read on a little, for usage that comes late and for the sake of the connection."""
        now = self._flight.now()
        self._flight.watch.enter("done", now, now + _LINGER)
        try:
            while (data := await self._more()) is not None:
                self._take(data)
        except UpstreamError:
            pass
        except asyncio.CancelledError as error:
            if not out_of_time(error):
                raise
        finally:
            self._ended = True
            self._flight.land("ok")

    def _without_content(self) -> UpstreamError:
        """Why a stream ended before any content: an error in place of events, nothing at all, or something cut off."""
        rest = self._splitter.rest.strip()
        try:
            document = orjson.loads(rest)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, dict) and document.get("error"):
            return in_body(document["error"])
        if rest or not self._done:
            return UpstreamError("cut", "The backend's answer broke off before any content.", status=200)
        return UpstreamError("empty", "The backend's answer ended without any content.", status=200)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise UpstreamError("malformed", "The backend sent something that is not JSON.", status=200)
    return document
