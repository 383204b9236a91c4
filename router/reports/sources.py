"""Where a report's sums come from: the store with what a local journal has yet to ship, or a journal alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from router.ledger.journal_file import JournalFile

if TYPE_CHECKING:
    from router.state.store import RedisStore

Sums: TypeAlias = list[tuple[int, str, bytes]]


class NoSource(Exception):
    """There is nothing to report from; the text says where it was looked for."""


def read_journal(path: Path, hours: range) -> Sums:
    """All sums of a journal, offline: the same figures as its store gives. Raises `NoSource`."""
    try:
        file = JournalFile(path, create=False)
    except (OSError, sqlite3.Error) as error:
        raise NoSource(str(error)) from error
    try:
        return list(file.packed(hours.start, hours.stop))
    except sqlite3.Error as error:
        raise NoSource(f"{path} is not a journal: {error}") from error
    finally:
        file.close()


async def read_store(store: RedisStore, hours: range, journal: Path | None = None) -> Sums:
    """All sums in the store, and those of a local journal that have not been shipped to it yet.

    Raises `router.state.values.StoreAway`.
    """
    snapshot = await store.rollups(hours.start, hours.stop)
    sums = list(snapshot.sums)
    if journal is not None and journal.is_file():
        sums += await asyncio.to_thread(_unshipped, journal, hours, snapshot.applied)
    return sums


def _unshipped(path: Path, hours: range, applied: Mapping[str, int]) -> Sums:
    file = JournalFile(path, create=False)
    try:
        return list(file.packed(hours.start, hours.stop, applied))
    finally:
        file.close()


def read_url(url: str, hours: range) -> Sums:
    """All sums in the store at a URL. Raises `NoSource`."""
    return asyncio.run(_read_url(url, hours, None))


def read_data_dir(data_dir: Path, hours: range) -> Sums:
    """What the proxies of a data folder have recorded: their embedded store where it runs, else their journal.

    Raises `NoSource`.
    """
    from router.ledger.ledger import JOURNAL_NAME
    from router.state.embedded import EmbeddedStore

    journal = data_dir / JOURNAL_NAME
    embedded = EmbeddedStore(data_dir)
    if embedded.socket.exists() and embedded.running():
        return asyncio.run(_read_url(embedded.url, hours, journal))
    if not journal.is_file():
        raise NoSource(f"nothing has been recorded in {data_dir}: no store runs there and there is no {JOURNAL_NAME}")
    return read_journal(journal, hours)


async def _read_url(url: str, hours: range, journal: Path | None) -> Sums:
    from router.state.store import RedisStore
    from router.state.values import StoreAway

    try:
        store = RedisStore(url)
    except ValueError as error:
        raise NoSource(str(error)) from error
    try:
        return await read_store(store, hours, journal)
    except StoreAway as error:
        raise NoSource(f"the store {store.url} is away: {error}") from error
    finally:
        await store.aclose()
