"""The gate: every request passes it before anything is routed, so that no endpoint can forget to ask who is there.

Where the policy requires keys, ``/v1/…`` wants any valid one, a few paths want none, and everything else an admin's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import RequestError
from router.keys import Key, text_in
from router.responses import error_response
from router.wire import Client, client_of

if TYPE_CHECKING:
    from router.proxy import Proxy

KEY: Final = "tierwise.key"
"""Where the scope of a request has its `Key`, or None."""

OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})


class Gate:
    """ASGI middleware that puts the client's key into the scope, or answers in place of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or refuse it."""
        if scope["type"] == "http":
            try:
                scope[KEY] = _key(scope)
            except RequestError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def chat_client(proxy: Proxy, headers: Mapping[bytes, bytes]) -> Client:
    """Who asks for a chat and is no page in a browser. Raises `RequestError` (401)."""
    text = text_in(headers)
    key = proxy.keys.check(text) if proxy.pipeline.auth.required else proxy.keys.find_active(text)
    return client_of(key, text)


def _key(scope: Scope) -> Key | None:
    """The client's key. Raises `RequestError` (401, 403) for what it may not see."""
    proxy: Proxy = scope["app"].state.proxy
    headers = dict(scope["headers"])
    auth, path, text = proxy.policy.auth, scope["path"], text_in(headers)
    if not auth.required or path in OPEN or (path == "/metrics" and auth.public_metrics):
        key = proxy.keys.find_active(text)
        if key is None and path not in OPEN:
            _refuse_other_sites(scope, headers)
        return key
    key = proxy.keys.check(text)
    if not key.admin and not path.startswith("/v1/"):
        raise RequestError(403, "admin_required", f"The key {key.id!r} is not an admin's: {path} needs one.")
    return key


def _refuse_other_sites(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Refuse what a page of another site makes a browser do to a proxy that its user can reach without a key.

    Browsers say where a request comes from. A page whose host name was made to resolve to this address is of the same
    origin as far as they know, but still says the name.
    """
    site = headers.get(b"sec-fetch-site")
    if site in (None, b"none"):
        return
    if site != b"same-origin" and scope["method"] not in ("GET", "HEAD"):
        raise RequestError(403, "cross_site", "A page of another site may not use this proxy without a key.")
    server = scope.get("server")
    if server and _is_loopback(server[0]) and not _is_loopback(_host(headers.get(b"host", b""))):
        message = "A page may use this proxy without a key by its address or as localhost only."
        raise RequestError(403, "unknown_host", message)


def _host(header: bytes) -> str:
    host, _, port = header.decode("latin-1").rpartition(":")
    return (host if host and port.isdigit() else header.decode("latin-1")).strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
