"""Clients' keys: how one is made, checked and revoked, and how every worker learns of it.

A key is ``tw-<id>-<secret>``: a public id, which policies, books and reports name it by, and 256 random bits. Only the
SHA-256 of the whole is kept. A slow, salted hash protects passwords, which can be guessed; 256 random bits cannot be
guessed however fast the hash is, and a fast one lets every request be checked within microseconds.

What happens to keys is a log in the store: made, revoked. Each worker reads on from where it was, several times a
second, and answers from memory; while the store is away the keys last known go on being honoured, by one that starts
then too, from a copy (`router.key_copy`) that the first answer of the store replaces.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hmac import compare_digest
from time import time
from typing import Protocol

import orjson

from router.errors import RequestError
from router.state.values import StoreAway

log = logging.getLogger(__name__)

ID = re.compile(r"(?!key_)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a key's id may be. One that begins with ``key_`` stands for the hash of a key that is not ours."""

RESERVED = frozenset({"anonymous"})
_FOLLOW_SECONDS = 0.3
_EVENTS_AT_ONCE = 1_000
_NOBODY = bytes(32)


class Log(Protocol):
    """The log of keys, as the store keeps it. Both raise `StoreAway`."""

    async def tell_key(self, event: bytes) -> None:
        """Add an event."""

    async def key_events(self, after: str, count: int) -> list[tuple[str, bytes]]:
        """Events after a position (empty: from the first on), oldest first, each with its own position."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Times are Unix times; ``allowed`` is as in `policies.values.Features`; ``admin`` opens the reports."""

    id: str
    digest: bytes = field(repr=False)
    created: float
    expires: float | None = None
    allowed: tuple[str, ...] | None = None
    admin: bool = False
    note: str = ""
    revoked: float | None = None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


def make(
    id: str,
    *,
    expires: float | None = None,
    allowed: tuple[str, ...] | None = None,
    admin: bool = False,
    note: str = "",
) -> tuple[Key, str]:
    """A new key and its text, which is told this once. Raises `ValueError` for an id that cannot be one."""
    if not ID.fullmatch(id) or id in RESERVED:
        raise ValueError(f"{id!r} cannot be a key's id: up to 64 letters, digits, dots, dashes and underscores")
    text = f"tw-{id}-{secrets.token_hex(32)}"
    return Key(id, _digest(text), time(), expires, allowed, admin, note), text


def made(key: Key) -> bytes:
    """The event that a key was made."""
    return orjson.dumps(asdict(key), default=bytes.hex)


def revoked(id: str, at: float) -> bytes:
    """The event that a key was revoked."""
    return orjson.dumps({"id": id, "revoked": at})


def replay(keys: dict[str, Key], events: Iterable[bytes]) -> None:
    """Bring keys up to date with what happened to them. The first to take an id has it; nothing undoes a revocation."""
    for event in events:
        try:
            told = orjson.loads(event)
            known = keys.get(told["id"])
            if known is None and "digest" in told:
                allowed = told["allowed"] if told["allowed"] is None else tuple(told["allowed"])
                keys[told["id"]] = Key(**{**told, "digest": bytes.fromhex(told["digest"]), "allowed": allowed})
            elif known is not None and "digest" not in told and known.revoked is None:
                keys[known.id] = replace(known, revoked=float(told["revoked"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            log.error("the store holds an event about a key that cannot be read; it is passed over")


async def read_on(
    store: Log, keys: dict[str, Key], after: str = "", tell: Callable[[Sequence[bytes]], None] = lambda events: None
) -> str:
    """Bring keys up to date with the store, from a position in its log; returns the new one. Raises `StoreAway`.

    ``tell`` is told what happened, page by page, in a thread of its own.
    """
    while True:
        page = await store.key_events(after, _EVENTS_AT_ONCE)
        events = [event for _, event in page]
        replay(keys, events)
        if events:
            await asyncio.to_thread(tell, events)
        after = page[-1][0] if page else after
        if len(events) < _EVENTS_AT_ONCE:
            return after


def text_in(headers: Mapping[bytes, bytes]) -> str:
    """The key that a request brings, as a bearer token or in ``x-api-key``; empty when it brings none."""
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip().decode("latin-1")
    return headers.get(b"x-api-key", b"").decode("latin-1")


class Copy(Protocol):
    """Where keys are kept for when the store is away."""

    def load(self) -> dict[str, Key]:
        """The keys as last saved."""

    def add(self, events: Sequence[bytes], *, afresh: bool) -> None:
        """Add what happened to keys; ``afresh`` to one that takes the old one's place when it is `settle`d."""

    def settle(self) -> None:
        """Put what was added afresh in the place of what there was."""


class Keyring:
    """The keys as this worker knows them."""

    def __init__(self, store: Log, copy: Copy) -> None:
        self._store = store
        self._copy = copy
        self._keys: dict[str, Key] = {}
        self._read_to: str | None = None

    def find(self, text: str) -> Key | None:
        """The key with this text, whatever its state; None when there is none. Compares in constant time."""
        key = self._keys.get(text[3:].rpartition("-")[0]) if text.startswith("tw-") else None
        return key if compare_digest(_digest(text), key.digest if key else _NOBODY) else None

    def find_active(self, text: str) -> Key | None:
        """The key with this text if it is valid now."""
        if text[:3] != "tw-":
            return None
        key = self.find(text)
        return key if key is not None and key.state(time()) == "active" else None

    def check(self, text: str) -> Key:
        """The valid key with this text. Raises `RequestError`: 401, or 503 while no keys are known at all."""
        key = self.find(text)
        if key is not None and (state := key.state(time())) == "active":
            return key
        if not text:
            raise _unauthorized("missing_api_key", "This proxy wants a key: send it as 'Authorization: Bearer tw-…'.")
        if key is not None:
            raise _unauthorized("invalid_api_key", f"The key {key.id!r} is {state}.")
        if self._read_to is None:
            message = "Keys cannot be checked yet: the store is away."
            raise RequestError(503, "keys_unavailable", message, headers={"retry-after": "1"})
        raise _unauthorized("invalid_api_key", "The key is not known here.")

    async def refresh(self) -> None:
        """Learn what has happened to keys since; a store that is away changes nothing."""
        first = self._read_to is None
        keys = {} if first else self._keys
        try:
            read_to = await read_on(self._store, keys, self._read_to or "", partial(self._copy.add, afresh=first))
        except StoreAway:
            if self._read_to is None and not self._keys:
                self._keys = await asyncio.to_thread(self._copy.load)
            return
        self._keys, self._read_to = keys, read_to
        if first:
            await asyncio.to_thread(self._copy.settle)

    async def follow(self) -> None:
        """Keep up, well within a second."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await self.refresh()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unauthorized(code: str, message: str) -> RequestError:
    return RequestError(401, code, message, headers={"www-authenticate": "Bearer"})
