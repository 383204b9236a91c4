"""A copy of clients' keys in the data folder: a proxy that starts while the store is away honours those last known."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from router.keys import Key, made, replay

log = logging.getLogger(__name__)

COPY_NAME = "keys.json"


class KeyCopy:
    """The copy of one store's keys: hashes, as in the store. Workers share it and write the same."""

    def __init__(self, data_dir: Path, store: str) -> None:
        """``store`` is the store's URL: a copy of another one's keys is not read."""
        self._path = data_dir / COPY_NAME
        self._store = store

    def load(self) -> dict[str, Key]:
        """The keys as last saved; none where there is no copy, or one that cannot be read."""
        keys: dict[str, Key] = {}
        with suppress(OSError, ValueError, AttributeError):
            saved = orjson.loads(self._path.read_bytes())
            if saved.get("store") == self._store:
                replay(keys, map(orjson.dumps, saved.get("keys", ())))
        return keys

    def save(self, keys: Mapping[str, Key]) -> None:
        """Save them, whole or not at all; a disk that refuses is said in the log."""
        saved = {"store": self._store, "keys": [orjson.loads(made(key)) for key in keys.values()]}
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(orjson.dumps(saved))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the copy of keys %s cannot be written: %s", self._path, error)
