"""What proxies share: the one store, spoken to as Redis. The only folder that imports ``redis``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.state.store import RedisStore


@asynccontextmanager
async def open_store(url: str, data_dir: Path, retention: timedelta = timedelta(days=400)) -> AsyncIterator[RedisStore]:
    """The store at a Redis URL, or the embedded one of a data folder when the URL is empty, for as long as it is used.

    ``retention`` is how long it keeps rollups.
    A store that is away is not an error: it is used when it comes. Raises `ValueError` for a URL of no known shape and
    `router.state.embedded.StoreNotStarted` when nothing can be embedded.
    """
    from router.state.embedded import EmbeddedStore
    from router.state.store import RedisStore

    embedded = None if url else EmbeddedStore(data_dir)
    if embedded is not None:
        url = await asyncio.to_thread(embedded.start)
    store = RedisStore(url, retention=retention, revive=embedded.ensure if embedded else None)
    try:
        await store.connect()
        yield store
    finally:
        await store.aclose()
        if embedded is not None:
            await asyncio.to_thread(embedded.stop)
