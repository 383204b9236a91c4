"""Any server that speaks OpenAI's protocol, and the engines that do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson

from policies import schema
from router.backends import USAGE_PATHS, Call, Reply
from router.backends.client import LARGEST_ERROR, Client
from router.engines import engine_of
from router.errors import UpstreamError, from_response, keep_secret
from router.retry_after import retry_after


class OpenAI:
    """A backend spoken to over HTTP in OpenAI's protocol. A request's body goes out as it came, but for two fields."""

    def __init__(self, config: schema.Backend, timeouts: schema.Timeouts, base_url: str | None = None) -> None:
        engine = engine_of(config.kind)
        self.name = config.name
        self.config = config
        self._health = engine.health
        headers = {name.lower(): value.get_secret_value() for name, value in config.headers.items()}
        self._secrets = tuple(headers.values())
        if config.api_key is not None and (key := config.api_key.get_secret_value()):
            headers.setdefault("authorization", f"Bearer {key}")
            self._secrets += (key,)
        keep_secret(*self._secrets)
        self._connect = timeouts.connect.total_seconds()
        self._client = Client(
            base_url or config.base_url or engine.base_url,
            headers,
            connect=self._connect,
            reuse=engine.reuses_connections,
        )

    def __repr__(self) -> str:
        return f"OpenAI({self.name!r}, model={self.config.model!r})"

    async def send(self, call: Call) -> Reply:
        """Make the call. Raises `UpstreamError` for anything but a 200."""
        body = orjson.dumps(patched(call, self.config.model))
        response = await self._client.post(call.path, body, call.on_sent, urgent=call.stream)
        if response.status == 200:
            return response
        try:
            body = await response.read(LARGEST_ERROR)
        except UpstreamError:
            body = b""
        finally:
            response.close()
        wait = retry_after(response.headers, time.time())
        raise from_response(response.status, body, secrets=self._secrets, retry_after=wait)

    async def healthy(self) -> bool:
        """Whether the engine's health path answers below 400 within twice the connect timeout."""
        try:
            async with asyncio.timeout(2 * self._connect):
                response = await self._client.get(self._health)
        except (UpstreamError, TimeoutError):
            return False
        response.close()
        return response.status < 400

    async def fetch(self, path: str, largest: int) -> bytes:
        """GET what the engine tells of itself (metrics, models), at most ``largest`` bytes. Raises `UpstreamError`."""
        response = await self._client.get(path)
        try:
            body = await response.read(largest)
        finally:
            response.close()
        if response.status != 200:
            raise from_response(response.status, body, secrets=self._secrets)
        return body

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def patched(call: Call, model: str) -> dict[str, Any]:
    """The client's body with the backend's ``model``; a stream is asked for its usage. All else stays as it was."""
    body = {**call.body, "model": model}
    if call.stream and call.path in USAGE_PATHS:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return body
