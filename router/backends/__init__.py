"""Backends: one module for each way of speaking to an upstream, one registry of kinds.

A new kind is one module with a function from a backend's configuration to a `Backend`, and one line in ``_KINDS``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from policies import schema
from policies.frozen import quick

USAGE_PATHS = frozenset({"chat/completions", "completions"})
"""Paths whose streams report usage when ``stream_options.include_usage`` asks for it."""


@quick
@dataclass(frozen=True, slots=True)
class Call:
    """One call to one backend: ``body`` is the client's JSON; the backend puts its own ``model`` into it.

    ``on_sent`` is called when there is a connection for it: from then on the backend may work, and ask money for it.
    """

    path: str
    body: Mapping[str, Any]
    stream: bool = False
    on_sent: Callable[[], None] | None = None


class Reply(Protocol):
    """A response with status 200 whose body has not been read: ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The whole body. Raises `errors.UpstreamError`."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `errors.UpstreamError`."""

    def close(self) -> None:
        """Stop upstream's work now: drop the connection unless the body has come to its end."""


class Backend(Protocol):
    """One configured upstream."""

    name: str
    config: schema.Backend

    async def send(self, call: Call) -> Reply:
        """Make the call; returns when a 200 response has begun. Raises `errors.UpstreamError` for anything else.

        Cancelling it drops the connection.
        """

    async def healthy(self) -> bool:
        """Ask the backend whether it is well. Never raises; takes no longer than its connect timeout allows twice."""

    async def aclose(self) -> None:
        """Close every connection."""


_KINDS = {
    "openai": "router.backends.openai:OpenAI",
    "vllm": "router.backends.openai:OpenAI",
    "sglang": "router.backends.openai:OpenAI",
    "tensorrt-llm": "router.backends.openai:OpenAI",
    "llamacpp": "router.backends.openai:OpenAI",
    "ollama": "router.backends.openai:OpenAI",
    "tgi": "router.backends.openai:OpenAI",
    "transformers": "router.backends.openai:OpenAI",
    "hosted": "router.backends.hosted:Hosted",
    "simulated": "router.backends.simulated:Simulated",
}


def open_backend(config: schema.Backend, timeouts: schema.Timeouts) -> Backend:
    """The backend for one configuration; ``timeouts`` are the policy's, where the backend states none of its own."""
    module, _, name = _KINDS[config.kind].partition(":")
    kind = cast(Callable[[schema.Backend, schema.Timeouts], Backend], getattr(import_module(module), name))
    return kind(config, config.timeouts or timeouts)


def open_backends(policy: schema.Policy) -> dict[str, Backend]:
    """Every backend of a policy, by name, in policy order. Connections open when they are first needed."""
    return {
        config.name: open_backend(config, policy.timeouts) for tier in policy.tiers.values() for config in tier.backends
    }
