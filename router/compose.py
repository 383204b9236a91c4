"""The composition root: everything one worker holds, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from router.ledger.journal import Journal
from router.ledger.ledger import JOURNAL_NAME, Ledger
from router.proxy import Proxy
from router.settings import Settings, load_policy
from router.state import open_store
from router.telemetry import configure_logging

_YOUNG = 20_000
"""Objects made before the garbage collector looks at them: requests leave no cycles, so looking seldom loses little."""


@asynccontextmanager
async def open_proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """Open everything a worker needs, in order; close it in reverse: the ledger is flushed before the store goes.

    Raises what `load_policy` raises, and `StoreNotStarted` when there is no server to embed.
    """
    configure_logging(settings.log_level)
    loaded = load_policy(settings.policy)
    async with AsyncExitStack() as stack:
        keep = loaded.policy.ledger
        store = await stack.enter_async_context(open_store(loaded.policy.redis, settings.data_dir, keep.rollups))
        journal = Journal(settings.data_dir / JOURNAL_NAME, keep_content=loaded.policy.logging.content)
        ledger = Ledger(journal, store, keep=keep)
        await ledger.start()
        stack.push_async_callback(ledger.stop)
        proxy = Proxy(settings, loaded, store, ledger)
        stack.push_async_callback(proxy.close)
        await proxy.learn()
        await proxy.keys.refresh()
        following = (proxy.follow_policy(), proxy.listen(), proxy.keys.follow(), proxy.follow_books())
        for background in (proxy.warm(), proxy.watch_lag(), proxy.share_counts(), *following):
            stack.callback(asyncio.create_task(background).cancel)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, proxy.reload)
        gc.freeze()
        gc.set_threshold(_YOUNG)
        yield proxy
        proxy.draining = True
