"""The HTTP surface: one small function or class per path, and every error in OpenAI's shape."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from policies.values import Decision
from router.errors import BUG, RequestError
from router.express import LARGEST_BODY, Chat, Express
from router.gate import KEY, chat_client
from router.keys import text_in
from router.responses import error_response, json_response
from router.served import Served, told
from router.wheel import Wheel
from router.wire import Client, client_of

if TYPE_CHECKING:
    from router.proxy import Proxy

log = logging.getLogger(__name__)

_LONGEST_NUMBER = 18
_UNWATCHED = 0.05
"""Seconds for which a client's hang-up goes unnoticed."""


def _fields(value: Decision) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _proxy(request: Request) -> Proxy:
    proxy: Proxy = request.app.state.proxy
    return proxy


class ClientGone(Exception):
    """The client hung up."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body. Raises `ClientGone` on a disconnect.

    Raises `RequestError`: 413 past ``limit`` bytes, 415 for a compressed body, which is never unpacked.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > _LONGEST_NUMBER or int(length) > limit):
        raise _too_large(limit)
    if headers.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
        raise RequestError(415, "unsupported_encoding", "Send the body as it is: compressed ones are not accepted.")
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "body_too_large", f"The body is larger than the {limit} bytes this proxy accepts.")


class Connection:
    """The client's side of one request: what goes out to it, and its hang-up, which cancels the work.

    It begins to look for that after `_UNWATCHED` seconds: most answers are there by then, without a task beside them.
    """

    __slots__ = ("_gone", "_place", "_receive", "_send", "_task", "_watcher", "_wheel", "answered")

    def __init__(self, receive: Receive, send: Send, wheel: Wheel, now: float) -> None:
        """Watch over the task that this is called in. ``now`` is on the wheel's clock."""
        task = asyncio.current_task()
        assert task is not None
        self._receive, self._send, self._task = receive, send, task
        self.answered = self._gone = False
        self._watcher: asyncio.Task[None] | None = None
        self._wheel = wheel
        self._place = wheel.add(self, now + _UNWATCHED)

    def look(self, now: float) -> None:
        """Begin to watch; the wheel calls this."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def deliver(self, served: Served) -> None:
        """Send an answer, whole or as it comes."""
        self.answered = True
        await self._send({"type": "http.response.start", "status": served.status, "headers": served.headers})
        last = served.body
        if not isinstance(last, bytes):
            async for chunk in last:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            last = b""
        self.close()
        await self._send({"type": "http.response.body", "body": last})

    def close(self) -> None:
        """Look no longer: a hang-up from now on cancels nothing."""
        self._wheel.remove(self, self._place)
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # it holds us too, and circles wait for the collector

    def lost(self) -> bool:
        """Whether the client's hang-up, and nothing else, is what cancelled the task."""
        return self._gone and self._task.uncancel() == 0


def admit(proxy: Proxy, headers: Mapping[bytes, bytes]) -> Chat | None:
    """What answers ``POST /v1/chat/completions`` as nearly every client asks for it; None where the headers forbid."""
    try:
        client = chat_client(proxy, headers)
    except RequestError:
        return None
    most = proxy.pipeline.most_bytes
    if most < LARGEST_BODY and int(headers[b"content-length"]) > most:
        return None
    return partial(_answer, proxy, client)


def _answer(proxy: Proxy, client: Client, express: Express) -> Awaitable[None]:
    arrived = perf_counter()
    try:
        request = proxy.read_chat(express.body, express.headers, client)
    except RequestError as error:
        return express.deliver(told(error))
    return proxy.pipeline.serve(request, arrived, express.deliver)


class ChatCompletions:
    """The same as an ASGI application, for any server and for requests that come in pieces."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. An error of ours is told as one, and raised for the server to log."""
        arrived = perf_counter()
        proxy: Proxy = scope["app"].state.proxy
        try:
            raw = await read_body(scope, receive, proxy.policy.limits.body_bytes)
            headers = dict(scope["headers"])
            request = proxy.read_chat(raw, headers, client_of(scope[KEY], text_in(headers)))
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        except ClientGone:
            return
        dispatcher = proxy.pipeline.dispatcher
        connection = Connection(receive, send, dispatcher.wheel, dispatcher.clock())
        try:
            await proxy.pipeline.serve(request, arrived, connection.deliver)
        except asyncio.CancelledError:
            if not connection.lost():
                raise
        except Exception as error:
            if not connection.answered:
                await (await _on_bug(None, error))(scope, receive, send)
            raise
        finally:
            connection.close()


async def route(request: Request) -> Response:
    """``POST /v1/route``: decide where a chat request would go, and say why, without calling anyone."""
    proxy = _proxy(request)
    raw = await read_body(request.scope, request.receive, proxy.policy.limits.body_bytes)
    headers = dict(request.scope["headers"])
    chat = proxy.read_chat(raw, headers, client_of(request.scope[KEY], text_in(headers)))
    choice = await proxy.pipeline.choose(chat.features, proxy.pipeline.fleet.trace(chat.body))
    shown = {name: getattr(choice.features, name) for name in _SHOWN_FEATURES}
    return json_response(
        {"tier": choice.decision.tier, "features": shown, "signals": choice.signals, **_fields(choice.decision)}
    )


async def feedback(request: Request) -> Response:
    """``POST /v1/feedback``: take ``{"request_id", "score"}`` for the journal, where training reads it.

    202: it is written within the journal's commit window. The id is not looked up: another proxy may have served it.
    """
    proxy = _proxy(request)
    raw = await read_body(request.scope, request.receive, proxy.policy.limits.body_bytes)
    proxy.judge(raw, request.scope[KEY])
    return json_response({"status": "ok"}, 202)


async def models(request: Request) -> Response:
    """``GET /v1/models``: every name that ``model`` may take with this key, in OpenAI's shape."""
    names = _proxy(request).model_names(request.scope[KEY])
    return json_response({"object": "list", "data": [{"id": name, **_MODEL} for name in names]})


async def healthz(request: Request) -> Response:
    """``GET /healthz``: the process is alive."""
    return json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """``GET /readyz``: whether the proxy takes requests, and in which state each of its parts is.

    What is wrong with them is for admins, where keys are required.
    """
    proxy, key = _proxy(request), request.scope[KEY]
    state = proxy.readiness()
    if proxy.policy.auth.required and not (key and key.admin):
        state = {part: said for part, said in state.items() if not part.endswith("_problem")}
    return json_response(state, 200 if state["ready"] else 503)


async def metrics(request: Request) -> Response:
    """``GET /metrics``: Prometheus' text format."""
    return Response(_proxy(request).exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def engines(request: Request) -> Response:
    """``GET /engines``: what each engine says of itself, and where that differs from what the policy says of it."""
    return json_response(_proxy(request).pipeline.fleet.shown())


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``: what can be asked here, as an OpenAPI document."""
    from router.openapi import document

    return json_response(document())


async def report(request: Request) -> Response:
    """``GET /report``: the cost report as JSON, with ``since``, ``until`` and ``by`` as in ``tierwise report``."""
    return Response(await _proxy(request).report(request.query_params), media_type="application/json")


_SHOWN_FEATURES = ("input_tokens", "turns", "language", "has_code", "has_tools", "has_images", "requires")
_MODEL = {"object": "model", "created": 0, "owned_by": "tierwise"}


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"Invalid URL ({request.method} {request.url.path})" if error.status_code == 404 else error.detail
    return error_response(RequestError(error.status_code, code, message, headers=error.headers))


async def _on_bug(_: Request | None, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return error_response(BUG)


async def _on_client_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=400)


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    RequestError: _on_request_error,
    ClientGone: _on_client_gone,
    HTTPException: _on_http_exception,
    Exception: _on_bug,
}
