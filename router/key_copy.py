"""A copy of clients' keys in the data folder: a proxy that starts while the store is away honours those last known."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import orjson

from router.keys import Key, replay

log = logging.getLogger(__name__)

COPY_NAME = "keys.json"


class KeyCopy:
    """The copy of one store's keys: a line that names the store, then what happened to keys, as in the store's log.

    Workers share it: each adds what it learns, and what stands there twice counts once.
    """

    def __init__(self, data_dir: Path, store: str) -> None:
        """``store`` is the store's URL: a copy of another one's keys is not read."""
        self._path = data_dir / COPY_NAME
        self._fresh = self._path.with_suffix(f".{os.getpid()}")
        self._store = store
        self._begun = False

    def load(self) -> dict[str, Key]:
        """The keys as last known; none where there is no copy, or one that cannot be read."""
        keys: dict[str, Key] = {}
        with suppress(OSError, ValueError, AttributeError):
            head, *events = self._path.read_bytes().splitlines()
            if orjson.loads(head).get("store") == self._store:
                replay(keys, events)
        return keys

    def add(self, events: Sequence[bytes], *, afresh: bool) -> None:
        """Add events; ``afresh`` to one that takes the old one's place when it is `settle`d.

        A disk that refuses is said in the log.
        """
        lines = [event.replace(b"\n", b" ") for event in events]
        if afresh and not self._begun:
            lines.insert(0, orjson.dumps({"store": self._store}))
        path, truncate = (self._fresh, 0 if self._begun else os.O_TRUNC) if afresh else (self._path, 0)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | truncate, 0o600), "wb") as file:
                file.write(b"".join(line + b"\n" for line in lines))
            self._begun = self._begun or afresh
        except OSError as error:
            log.warning("the copy of keys %s cannot be written: %s", self._path, error)

    def settle(self) -> None:
        """Put what was added afresh in the place of what there was."""
        if not self._begun:
            self.add((), afresh=True)
        self._begun = False
        with suppress(OSError):
            self._fresh.replace(self._path)
