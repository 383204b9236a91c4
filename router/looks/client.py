"""A worker's side of second looks: what it asks of the encoder's process, and how long it waits for an answer.

What could not be answered in time is turned away at once. How long an answer will take is known by the pace of the last
ones, by what this worker waits for, and by what other workers wait for, which each answer tells. So an encoder that is
asked for more than it can do spends its time on answers that are still wanted, whoever asked.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any, cast

from classifiers.encoder import MAX_CHARACTERS
from policies.values import Features, Signals
from router.looks import messages
from router.looks.messages import Terms, Unpacker, pack
from router.looks.start import EncoderProcess, reaped

log = logging.getLogger(__name__)

_FIXED = 40
"""Characters that a look costs whatever it reads: its heads."""

_LEARNED = 0.1
"""Weight of the newest look in what is known of the encoder's pace."""

_FORGET_SECONDS = 0.5
"""After so long without a look its pace is old: one is tried, lest what was slow once be taken for slow for ever."""

_SOON_SECONDS = 0.02
_FIRST_SECONDS, _MOST_SECONDS = 0.1, 30.0
"""How long the process, when it has ended, is left alone before it is started again: the first time, and at most."""

_SILENT_SECONDS, _UNMET_SECONDS = 10, 60
"""After so long without any answer, while one is overdue or since it was met, the process is taken to hang."""

_WARMING = "the encoder is warming up"


class Away(Exception):
    """There is no process to ask, or it went away before it answered. The text says which."""


class Busy(Exception):
    """The encoder would not come to it in time."""


class Failed(Exception):
    """The look failed in the process; the text is its traceback."""


@dataclass(slots=True)
class _Asked:
    """A look that somebody waits for; ``told`` when there is a ``result``."""

    size: int
    until: float
    told: asyncio.Future[None]
    result: Signals | Exception | None = None

    def end(self, result: Signals | Exception) -> None:
        self.result = result
        if not self.told.done():
            self.told.set_result(None)


class Looker:
    """Second looks under one classifier's terms."""

    def __init__(self, looks: SecondLooks, number: int, terms: Terms) -> None:
        """Made by `SecondLooks.take`."""
        self._looks, self.number, self.terms = looks, number, terms.packed()
        self.ready, self.refused = False, ""

    @property
    def problem(self) -> str:
        """Why there are no second looks; empty while there are."""
        return "" if self.ready else self.refused or self._looks.problem or _WARMING

    async def look(self, features: Features, patience: float) -> Signals:
        """The second look at ``features``, within ``patience`` seconds.

        Raises `Busy` or `Away` at once where that cannot be, `TimeoutError` where it was not, `Away` where the process
        ended meanwhile, and `Failed`.
        """
        if not self.ready:
            raise Away(self.problem)
        return await self._looks.look(self.number, features, patience)

    def close(self) -> None:
        """Look no more."""
        self._looks.drop(self.number)


class SecondLooks(asyncio.Protocol):
    """One worker's connection to the encoder's process, and who waits for it. Belongs to one event loop."""

    def __init__(self, process: EncoderProcess) -> None:
        """Nothing is started or connected to before `keep` runs."""
        self.problem = _WARMING
        self._process = process
        self._numbers = count()
        self._lookers: dict[int, Looker] = {}
        self._asked: dict[int, _Asked] = {}
        self._ahead = self._others = self._answers = 0
        self._pace = self._learned_at = 0.0
        self._clogged = self._hopeless = False
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] | None = None
        self._runtime = ""

    def take(self, terms: Terms) -> Looker:
        """Who looks under these terms, as soon as the process has agreed to them."""
        number = next(self._numbers)
        looker = self._lookers[number] = Looker(self, number, terms)
        self._send(messages.TAKE, number, looker.terms)
        return looker

    def drop(self, number: int) -> None:
        """Forget a looker."""
        if self._lookers.pop(number, None) is not None:
            self._send(messages.DROP, number)

    async def look(self, number: int, features: Features, patience: float) -> Signals:
        """See `Looker.look`."""
        now, size = monotonic(), _FIXED + min(len(features.text), 2 * MAX_CHARACTERS)
        if self._clogged or self._expected(now, size) > patience:
            raise Busy
        until, look = now + patience, next(self._numbers)
        asked = self._asked[look] = _Asked(size, until, asyncio.get_running_loop().create_future())
        self._ahead += size
        self._send(messages.LOOK, look, number, until, size, messages.read(features))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await asked.told
            if asked.result is None:
                await asyncio.sleep(0)  # where the event loop was held up, an answer may lie in the socket
        except asyncio.CancelledError:
            self._send(messages.FORGET, look)
            raise
        if asked.result is None:
            raise TimeoutError
        if isinstance(asked.result, Exception):
            raise asked.result
        return asked.result

    def _expected(self, now: float, size: int) -> float:
        """The seconds that a look of this size would take from now on; 0 where its pace is old and to be tried."""
        since = now - self._learned_at
        if since > _FORGET_SECONDS and not self._ahead:
            return 0.0
        return max(0.0, self._others * self._pace - since) + (self._ahead + size) * self._pace

    # the connection

    async def keep(self) -> None:
        """Stay connected for ever, starting the process where none lives, and again when it has ended.

        One that hangs is killed by whoever waited for it in vain, whoever started it. Returns only when the process has
        said that there is nothing to encode with.
        """
        wait, met = _FIRST_SECONDS, set[int]()
        while not self._hopeless:
            began = monotonic()
            try:
                process = await asyncio.to_thread(self._process.begin)
                if process is not None:
                    met.add(process)
                if await self._connected() and process is not None:
                    self._process.end(process)
            except OSError as error:
                self.problem = f"the encoder's process cannot be started or reached: {error}"
                log.error("%s", self.problem)
            if monotonic() - began > _MOST_SECONDS:
                wait = _FIRST_SECONDS
            if not self._hopeless:
                await asyncio.sleep(wait)
            wait = min(2 * wait, _MOST_SECONDS)
            met = {process for process in met if not reaped(process)}

    async def _connected(self) -> bool:
        """Be connected for as long as the process lives; whether it hangs. Raises `OSError` where there is none."""
        loop, deadline = asyncio.get_running_loop(), monotonic() + 1.0
        self._lost = loop.create_future()
        while True:
            try:
                await loop.create_unix_connection(lambda: self, str(self._process.socket))
                break
            except OSError:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(_SOON_SECONDS)  # another worker is starting it
        try:
            return await self._hangs(self._lost)
        except asyncio.CancelledError:
            self.problem = "the proxy is stopping"
            self._close()
            raise

    async def _hangs(self, lost: asyncio.Future[None]) -> bool:
        """Wait until the connection is lost, or leave a process that hangs, and say which.

        What counts is seconds in which this loop ran: while it is held up, answers may lie in the socket.
        """
        silent, unmet, before, slowest = 0, 0, self._answers, self._process.slowest
        while silent < _SILENT_SECONDS and unmet < _UNMET_SECONDS:
            answers = self._answers
            await asyncio.wait([lost], timeout=1.0)
            if lost.done():
                return False
            oldest = next(iter(self._asked.values()), None)
            overdue = oldest is not None and oldest.until + slowest < monotonic()
            silent = silent + 1 if overdue and self._answers == answers else 0
            unmet += self._answers == before
        self.problem = "the encoder's process does not answer"
        log.error("%s; first looks decide alone", self.problem)
        self._close()
        await lost
        return True

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are, and what we will ask for."""
        self._transport, self._unpacker, self._clogged = cast(asyncio.Transport, transport), Unpacker(), False
        self._send(messages.HELLO, messages.build())
        for looker in self._lookers.values():
            self._send(messages.TAKE, looker.number, looker.terms)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told at once."""
        self._transport = None
        if not self._hopeless and self.problem in ("", _WARMING):
            self.problem = "the encoder's process ended, and is started again"
            log.warning("%s; first looks decide alone", self.problem)
        for looker in self._lookers.values():
            looker.ready = False
        for asked in self._asked.values():
            asked.end(Away("the encoder's process ended"))
        self._asked.clear()
        self._ahead = self._others = 0
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        """The process does not read what is asked: ask no more."""
        self._clogged = True

    def resume_writing(self) -> None:
        """It does again."""
        self._clogged = False

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        self._answers += 1
        for kind, *body in self._unpacker.feed(data):
            if kind >= messages.SEEN:
                self._answered(kind, *body)
            elif kind == messages.BROKEN:
                self.problem, self._hopeless = body[0], True
                log.warning("no second looks: %s", self.problem)
                self._close()
            elif kind != messages.HERE:
                self._told(kind, *body)
            elif body[0]:
                self.problem = body[0]
                log.warning("no second looks yet: %s", self.problem)

    def _told(self, kind: int, number: int | None, said: str) -> None:
        """What the process says to terms, or to this worker as a whole."""
        if number is None:
            self.problem = said
            log.warning("no second looks: %s", said)
            self._close()
        elif (looker := self._lookers.get(number)) is not None:
            self.problem = ""
            looker.ready, looker.refused = kind == messages.TAKEN, said if kind == messages.REFUSED else ""
            if looker.refused:
                log.error("no second looks: %s", said)
            elif said != self._runtime:
                self._runtime = said
                log.info("the full look runs with %s", said)

    def _answered(self, kind: int, number: int, took: float, others: int, said: Any) -> None:
        asked = self._asked.pop(number)
        self._ahead -= asked.size
        self._others = others
        if kind == messages.SKIPPED:
            return
        now, pace = monotonic(), took / asked.size
        known = now - self._learned_at < _FORGET_SECONDS
        self._pace += (_LEARNED if known else 1.0) * (pace - self._pace)
        self._learned_at = now
        asked.end(messages.signals(said) if kind == messages.SEEN else Failed(said))

    def _send(self, *message: object) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(*message))
