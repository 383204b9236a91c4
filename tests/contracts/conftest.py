"""The stores that one contract is held against."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from router.state.embedded import EmbeddedStore
from router.state.store import RedisStore
from tests.contracts.stores_servers import (
    SERVERS,
    redis_server,
    running,
    running_cluster,
    running_sentinel,
    running_with_tls,
    valkey_server,
)

_SPECIAL = {"cluster": running_cluster, "sentinel": running_sentinel, "tls": running_with_tls}


@pytest.fixture(scope="session", params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw")))
        if request.param == "embedded":
            embedded = EmbeddedStore(folder)
            stack.callback(embedded.stop)
            yield embedded.start()
        elif request.param in _SPECIAL:
            yield stack.enter_context(_SPECIAL[request.param](folder))
        else:
            binary = redis_server() if request.param == "redis" else valkey_server()
            yield stack.enter_context(running(binary, folder)).url


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, prefix=uuid4().hex)
    assert await store.connect()
    yield store
    await store.aclose()
