"""The encoder's process: takes the second looks that workers ask for, one after the other, until the last one leaves.

Texts are read one at a time, for heads and encoder alike: what a batch is computed with changes the last bits, and
decisions must replay. What is nobody's any more when its turn comes is not read. Beside the thread that looks there is
one that loads the encoder, and ends. The process stands back behind the workers where they share a core.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from classifiers.artifact import ArtifactError
from classifiers.classifier import Classifier
from classifiers.encoder import EncoderUnavailable
from router.encoders import EncoderSettings, EndpointAway, warm
from router.looks import messages
from router.looks.messages import Terms, Unpacker, pack
from router.looks.start import LISTENER, LOCK

if TYPE_CHECKING:
    from classifiers.encoder import Encoder
    from classifiers.static import StaticEncoder
    from policies.values import Features

NICE = 5
"""By how much the process stands back behind workers where they share a core: a third of their part."""

_ALONE_SECONDS = 30.0
"""How long it waits for its first worker, which may have died meanwhile."""

_FIRST_SECONDS, _MOST_SECONDS = 0.5, 30.0
"""How long an endpoint that fails is left alone before it is asked again: the first time, and at most."""

log = logging.getLogger(__name__)

Warm = Callable[[Callable[["StaticEncoder | None", "Encoder | None"], None]], None]


class _Worker:
    """One connection: what has come on it, what is still to go, the terms named, and the size of what is waited for.

    What is to go is bounded by what was asked.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unpacker = Unpacker()
        self.unsent = bytearray()
        self.waits_to_send = self.greeted = False
        self.terms: dict[int, bytes] = {}
        self.ahead = 0


@dataclass(slots=True)
class _Asked:
    worker: _Worker
    number: int
    terms: int
    until: float
    size: int
    features: Features
    wanted: bool = True


class Server:
    """Looks for whoever connects. All but `_warm` happens in the thread that calls `run`."""

    def __init__(self, listener: socket.socket, warm: Warm, build: str) -> None:
        """Serve a socket that listens, to workers of this ``build``, with the encoders that ``warm`` brings up."""
        self._listener, self._bring_up, self._build = listener, warm, build
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for ready, do in ((listener, self._accept), (self._woken, self._take_encoders)):
            ready.setblocking(False)
            self._selector.register(ready, selectors.EVENT_READ, do)
        self._workers: set[_Worker] = set()
        self._queue: deque[_Asked] = deque()
        self._ahead = 0
        self._brought: deque[tuple[StaticEncoder | None, Encoder | None] | EncoderUnavailable] = deque()
        self._encoders: tuple[StaticEncoder | None, Encoder | None] = (None, None)
        self._classifiers: dict[bytes, Classifier] = {}
        self._problem, self._for_ever = "", False

    def run(self) -> None:
        """Serve until the last worker has gone."""
        threading.Thread(target=self._warm, name="warm", daemon=True).start()
        until = monotonic() + _ALONE_SECONDS
        with self._selector, self._woken, self._wake:
            while self._workers or monotonic() < until:
                self._hear(0 if self._queue else None if self._workers else 1.0)
                if self._workers:
                    until = 0.0
                if self._queue:
                    self._answer(self._queue.popleft())

    # the encoder

    def _warm(self) -> None:
        wait = _FIRST_SECONDS
        while self._away():
            sleep(wait)
            wait = min(2 * wait, _MOST_SECONDS)

    def _away(self) -> bool:
        """Bring the encoder up, or say why not; whether it is worth another try."""
        try:
            self._bring_up(lambda static, full: self._bring((static, full)))
        except EncoderUnavailable as error:
            self._bring(error)
            return isinstance(error, EndpointAway)
        except Exception as error:
            log.exception("the encoder failed as it was brought up")
            self._bring(EncoderUnavailable(f"the encoder failed as it was brought up: {error!r}"))
        return False

    def _bring(self, what: tuple[StaticEncoder | None, Encoder | None] | EncoderUnavailable) -> None:
        self._brought.append(what)
        with suppress(OSError):  # nobody is left to hear of it
            self._wake.send(b"!")

    def _take_encoders(self, woken: socket.socket) -> None:
        woken.recv(16)
        while self._brought:
            what = self._brought.popleft()
            if isinstance(what, EncoderUnavailable):
                if self._encoders[1] is not None:
                    continue  # a better one failed: the one that there is stays
                self._problem, self._for_ever = str(what), not isinstance(what, EndpointAway)
                for worker in tuple(self._workers):
                    self._tell(worker, *self._state())
            elif what[1] is not None:
                self._encoders, self._problem = what, ""
                self._classifiers.clear()
                for worker in tuple(self._workers):
                    for number in tuple(worker.terms):
                        self._agree(worker, number)

    def _state(self) -> tuple[int, str]:
        return messages.BROKEN if self._for_ever else messages.HERE, self._problem

    # workers

    def _hear(self, seconds: float | None) -> None:
        """Take what has come, and wait for it at most so long."""
        for key, _ in self._selector.select(seconds):
            key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            worker = _Worker(connection)
            self._workers.add(worker)
            self._selector.register(connection, selectors.EVENT_READ, lambda _: self._serve(worker))

    def _serve(self, worker: _Worker) -> None:
        if worker.waits_to_send:
            self._send(worker)
        if worker in self._workers:
            self._read(worker)

    def _read(self, worker: _Worker) -> None:
        """Take all that has come: that it is gone may stand behind what it asked for."""
        try:
            while data := worker.connection.recv(1 << 18):
                for message in worker.unpacker.feed(data):
                    self._heard(worker, *message)
        except BlockingIOError:
            return
        except (OSError, ValueError, EOFError, TypeError):
            pass
        self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            self._selector.unregister(worker.connection)
            worker.connection.close()
            self._forget_unused()
            for asked in self._queue:
                asked.wanted &= asked.worker is not worker

    def _heard(self, worker: _Worker, kind: int, *body: Any) -> None:
        if worker not in self._workers:
            return  # it has left, though not all that it said was heard
        if kind == messages.HELLO:
            worker.greeted = body[0] == self._build
            if not worker.greeted:
                self._tell(worker, messages.REFUSED, None, f"the encoder's process is of another build ({self._build})")
            else:
                self._tell(worker, *self._state())
        elif not worker.greeted:
            return
        elif kind == messages.LOOK:
            number, terms, until, size, values = body
            self._queue.append(_Asked(worker, number, terms, until, size, messages.features(values)))
            worker.ahead += size
            self._ahead += size
        elif kind == messages.FORGET:
            for asked in self._queue:
                asked.wanted &= (asked.worker, asked.number) != (worker, body[0])
        elif kind == messages.TAKE:
            worker.terms[body[0]] = body[1]
            if self._encoders[1] is not None:
                self._agree(worker, body[0])
        elif kind == messages.DROP:
            worker.terms.pop(body[0], None)
            self._forget_unused()

    def _agree(self, worker: _Worker, number: int) -> None:
        """Make the classifier of these terms, which workers share, or say why not."""
        packed, (static, full) = worker.terms[number], self._encoders
        assert full is not None
        try:
            if packed not in self._classifiers:
                self._classifiers[packed] = _classifier(Terms.unpacked(packed), static, full)
        except (ArtifactError, OSError) as error:
            del worker.terms[number]
            self._tell(worker, messages.REFUSED, number, str(error))
        else:
            self._tell(worker, messages.TAKEN, number, full.runtime)

    def _forget_unused(self) -> None:
        used = {packed for worker in self._workers for packed in worker.terms.values()}
        self._classifiers = {packed: found for packed, found in self._classifiers.items() if packed in used}

    # looks

    def _answer(self, asked: _Asked) -> None:
        """Look, unless nobody waits for it any more. What others wait for is told as it is when the look is done."""
        worker, began = asked.worker, monotonic()
        kind, said = messages.SKIPPED, None
        if asked.wanted and began < asked.until:
            kind, said = self._look(asked)
        took = monotonic() - began
        self._hear(0)
        worker.ahead -= asked.size
        self._ahead -= asked.size
        self._tell(worker, kind, asked.number, took, self._ahead - worker.ahead, said)

    def _look(self, asked: _Asked) -> tuple[int, object]:
        classifier = self._classifiers.get(asked.worker.terms.get(asked.terms, b""))
        if classifier is None:
            return messages.SKIPPED, None
        try:
            return messages.SEEN, messages.plain(classifier.second_look(asked.features))
        except Exception:
            return messages.FAILED, traceback.format_exc()

    def _tell(self, worker: _Worker, *message: object) -> None:
        """Send a message, or as much of it as the worker's socket has room for, and the rest when it has read."""
        if worker in self._workers:
            worker.unsent += pack(*message)
            self._send(worker)

    def _send(self, worker: _Worker) -> None:
        waited = worker.waits_to_send
        try:
            del worker.unsent[: worker.connection.send(worker.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._leave(worker)
            return
        worker.waits_to_send = bool(worker.unsent)
        if worker.waits_to_send != waited:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.waits_to_send else 0)
            self._selector.modify(worker.connection, events, self._selector.get_key(worker.connection).data)


def _classifier(terms: Terms, static: StaticEncoder | None, full: Encoder) -> Classifier:
    classifier = Classifier.load(
        terms.folder, terms.targets, static=static, full=full, domains=terms.domains, baseline=terms.baseline
    )
    if classifier.artifact.id != terms.artifact:
        raise ArtifactError(
            f"{terms.folder} holds the artifact {classifier.artifact.id} by now, not {terms.artifact}: "
            "have the policy read again (SIGHUP)"
        )
    return classifier


def main() -> None:
    """Serve the listener that was handed down, with the settings on standard input.

    Signals for all processes of a terminal or a service are the workers' to obey: without them this one ends by itself.
    """
    os.setpgid(0, 0)
    os.closerange(LOCK + 1, os.sysconf("SC_OPEN_MAX"))  # what the worker had from its parent, and may want closed
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    told = json.load(sys.stdin)
    settings, cache_dir = EncoderSettings(**told["settings"]), Path(told["cache_dir"])
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    build = messages.build()
    with socket.socket(fileno=LISTENER) as listener:
        Server(listener, lambda ready: warm(settings, cache_dir, ready), build).run()
    # Now: an interpreter that ends would end the thread within the library that is being brought up, which aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
