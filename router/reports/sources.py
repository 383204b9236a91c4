"""Where a report's figures come from: the store with what a local journal has yet to ship, or a journal alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from router.ledger.journal_file import JournalFile
from router.ledger.sums import BUDGET_FIELD
from router.state.values import StoreAway

if TYPE_CHECKING:
    from router.state.store import RedisStore

Sums: TypeAlias = list[tuple[int, str, bytes]]


class NoSource(Exception):
    """There is nothing to read the figures from; the text says where they were looked for."""


class Source(Protocol):
    """What has been recorded. Every method raises `NoSource` when it cannot be read."""

    def whole_days_before(self) -> int:
        """The hour since 1970, UTC, before which sums are kept by UTC day; 0 where none are."""

    def sums(self, hours: range) -> Sums:
        """The packed sums of some hours since 1970, UTC."""

    def accounts(self) -> Sums:
        """What has been spent of budgets, as packed sums."""

    def bodies(self, since: float, until: float) -> Iterator[bytes]:
        """Whole entries of a half-open range of Unix time, as JSON, oldest first."""


class JournalSource:
    """A journal alone, offline; it gives the same figures as the store that it was shipped to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def whole_days_before(self) -> int:
        """None: a journal keeps every hour."""
        return 0

    def sums(self, hours: range) -> Sums:
        """All sums of the journal."""
        with _opened(self._path) as file:
            return list(file.packed(hours.start, hours.stop))

    def accounts(self) -> Sums:
        """What its entries were charged to."""
        return [line for line in self.sums(range(2**40)) if line[1].startswith(BUDGET_FIELD)]

    def bodies(self, since: float, until: float) -> Iterator[bytes]:
        """The entries that it still keeps whole."""
        with _opened(self._path) as file:
            yield from file.bodies(since, until)


class StoreSource:
    """The store at a URL, and what a local journal has not shipped to it yet."""

    def __init__(self, url: str, journal: Path | None = None) -> None:
        self._url = url
        self._journal = journal

    def whole_days_before(self) -> int:
        """As the store says."""

        async def read() -> int:
            async with _connected(self._url) as store:
                return await store.whole_days_before()

        return asyncio.run(read())

    def sums(self, hours: range) -> Sums:
        """All sums in the store, and the journal's that it does not have."""

        async def read() -> Sums:
            async with _connected(self._url) as store:
                return await read_store(store, hours, self._journal)

        return asyncio.run(read())

    def accounts(self) -> Sums:
        """What has been spent of budgets; what is not shipped yet is not in it."""

        async def read() -> Sums:
            async with _connected(self._url) as store:
                return await store.accounts()

        return asyncio.run(read())

    def bodies(self, since: float, until: float) -> Iterator[bytes]:
        """The entries of the local journal: a store has none."""
        if self._journal is None:
            raise NoSource("a store has no whole entries: name a journal with --journal, or a data folder")
        return JournalSource(self._journal).bodies(since, until)


def data_dir_source(data_dir: Path) -> Source:
    """What the proxies of a data folder have recorded: their embedded store where it runs, else their journal.

    Raises `NoSource`.
    """
    from router.ledger.ledger import JOURNAL_NAME
    from router.state.embedded import EmbeddedStore

    journal = data_dir / JOURNAL_NAME
    embedded = EmbeddedStore(data_dir)
    if embedded.socket.exists() and embedded.running():
        return StoreSource(embedded.url, journal)
    if not journal.is_file():
        raise NoSource(f"nothing has been recorded in {data_dir}: no store runs there and there is no {JOURNAL_NAME}")
    return JournalSource(journal)


async def read_store(store: RedisStore, hours: range, journal: Path | None = None) -> Sums:
    """All sums in the store, and those of a local journal that have not been shipped to it yet. Raises `StoreAway`."""
    snapshot = await store.rollups(hours.start, hours.stop)
    sums = list(snapshot.sums)
    if journal is not None:
        sums += await asyncio.to_thread(_unshipped, journal, hours, snapshot.applied)
    return sums


def _unshipped(path: Path, hours: range, applied: Mapping[str, int]) -> Sums:
    if not path.is_file():
        return []
    with _opened(path) as file:
        return list(file.packed(hours.start, hours.stop, applied))


@contextmanager
def _opened(path: Path) -> Iterator[JournalFile]:
    try:
        file = JournalFile(path, create=False)
    except (OSError, sqlite3.Error) as error:
        raise NoSource(str(error)) from error
    try:
        yield file
    except sqlite3.Error as error:
        raise NoSource(f"{path} cannot be read as a journal: {error}") from error
    finally:
        file.close()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[RedisStore]:
    from router.state.store import RedisStore

    store = RedisStore(url)
    try:
        yield store
    except StoreAway as error:
        raise NoSource(f"the store {store.url} is away: {error}") from error
    finally:
        await store.aclose()
