"""From a URL to a client: one server, a Sentinel's primary, or a cluster.

``redis://``, ``rediss://`` and ``unix://`` as redis-py reads them; ``redis+cluster://host:port,host:port`` (and
``rediss+cluster``); ``redis+sentinel://host:port,host:port/primary-name/db`` (and ``rediss+sentinel``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis
import redis.asyncio as aio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

Client: TypeAlias = "aio.Redis | aio.RedisCluster"
_CONNECT_SECONDS = 2.0
_SHAPES = "redis://, rediss://, unix://, redis+cluster://, rediss+cluster://, redis+sentinel://, rediss+sentinel://"


def open_client(url: str) -> Client:
    """A client for the store at ``url``, which connects when first used. Raises `ValueError` for any other URL."""
    parts = urlsplit(url)
    secure = parts.scheme.startswith("rediss")
    if parts.scheme in ("redis", "rediss", "unix"):
        server = aio.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_connect_timeout=_CONNECT_SECONDS)
        pool = server.connection_pool
        pool.connection_class = type("Connection", (_Packing, pool.connection_class), {})
        return server
    if parts.scheme in ("redis+cluster", "rediss+cluster"):
        nodes = [ClusterNode(node.host, node.port) for node in _nodes(parts, 6379)]
        return aio.RedisCluster(
            startup_nodes=nodes, ssl=secure, retry=Retry(NoBackoff(), 2),
            socket_connect_timeout=_CONNECT_SECONDS, **_login(parts),
        )  # fmt: skip
    if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        primary, _, database = parts.path.strip("/").partition("/")
        if not primary:
            raise ValueError(
                f"{without_password(url)}: a Sentinel URL names its primary: redis+sentinel://host:26379/primary/0"
            )
        sentinels = Sentinel(  # type: ignore[no-untyped-call]
            [(node.host, node.port) for node in _nodes(parts, 26379)], socket_connect_timeout=_CONNECT_SECONDS
        )
        client: aio.Redis = sentinels.master_for(
            primary, db=int(database or 0), ssl=secure, retry=Retry(NoBackoff(), 0), **_login(parts)
        )
        return client
    raise ValueError(f"{without_password(url)}: not the URL of a store; expected one of {_SHAPES}")


class _Packing:
    """A connection whose commands hiredis writes, in a fifth of the time; redis-py has it write those of threads."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """A command in Redis' protocol."""
        name, *others = arguments
        return [hiredis.pack_command((*name.split(), *others))]


async def close_client(client: Client) -> None:
    """Close a client's connections, those to Sentinels too."""
    await client.aclose()
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for watcher in sentinel.sentinels if sentinel is not None else ():
        await watcher.aclose()


@dataclass(frozen=True, slots=True)
class _Node:
    host: str
    port: int


def _nodes(parts: SplitResult, default_port: int) -> list[_Node]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    split = (host.rpartition(":") if ":" in host else (host, "", "") for host in hosts if host)
    return [_Node(host, int(port or default_port)) for host, _, port in split]


def _login(parts: SplitResult) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    return parts._replace(netloc=f"{user}:***{at}{hosts}" if ":" in login else parts.netloc, query="").geturl()
