"""Everything that can go wrong, and what a client is told of it.

::

    TierwiseError
    ├── RequestError      the request cannot be served as it is: status, code, message, param
    ├── UpstreamError     one attempt at one backend failed: kind, phase, status
    └── Exhausted         every attempt failed before a byte of content had been sent

An `UpstreamError` has one of these kinds, which is also what `policies.values.Attempt.error` holds:

================ ======================================================================================
``connect``      nothing listens there, or the network does not reach it
``dns``          the host name does not resolve
``tls``          the TLS handshake or the certificate failed
``timeout``      a phase took longer than the policy allows; the phase says which
``deadline``     the deadline over all attempts ran out
``reset``        the connection closed before the response began
``cut``          the response broke off before its end
``malformed``    what came is not what OpenAI's protocol says
``empty``        a stream ended without any content
``rate_limited`` 429: too many requests, may say when to come back
``server_error`` 5xx, or an error in a 200 body
``auth``         401, 402, 403, or a spent quota: this key does not work
``not_found``    404: the backend does not know the model or the path
``context``      the input is longer than the model's window, in whichever words the backend says so
``bad_request``  any other 4xx: the request itself is refused
``full``         our own limit: the backend has no free slot and its queue is too long
``cooling``      our own breaker: the backend rests after failures
``cancelled``    the client left
``stopped``      the proxy was stopped, and had no time left for the answer to end in
``poor``         the answer came, but failed a check of its tier; `Attempt.error` names which, as ``poor:json``
================ ======================================================================================

Text from upstream is cut short, stripped of control characters and of anything that looks like a key before it goes
into an error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import orjson

from policies.values import Attempt, Phase

Kind: TypeAlias = Literal[
    "connect", "dns", "tls", "timeout", "deadline", "reset", "cut", "malformed", "empty", "rate_limited",
    "server_error", "auth", "not_found", "context", "bad_request", "full", "cooling", "cancelled", "stopped",
    "poor",
]  # fmt: skip

REQUEST_KINDS: frozenset[str] = frozenset({"bad_request", "context"})
"""Kinds that are about the request, so that the client is told what the backend said."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CONTEXT = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|max(?:imum)?[_ ](?:model|input|prompt|sequence|seq)[_ ]len"
    r"|(?:prompt|input) (?:is )?too long|too many (?:input )?tokens|longer than the (?:model|maximum)"
    r"|input token count.{0,40}exceeds|tokens? .{0,40}exceeds? .{0,40}(?:limit|maximum)"
    r"|reduce the length of the (?:messages|prompt|input)|too large for model with .{0,20}context"
    r"|max_num_tokens|exceed.{0,20}max(?:imum)? (?:number of )?(?:input )?tokens"
    r"|max_new_tokens. must be <=|must have less than \d+ tokens",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?i:bearer\s+)[^\s\"',;]+|\b(?:sk|pk|rk|tw|gsk|xai|hf|nvapi|key|r8|pplx|fw|csk)[-_][A-Za-z0-9_\-*.]{6,}"
    r"|\bAIza[A-Za-z0-9_\-]{10,}|\beyJ[A-Za-z0-9_\-]{6,}\.[A-Za-z0-9_\-.]+"
    r"|(?i:(?<=key=)|(?<=token=)|(?<=secret=)|(?<=key:\s)|(?<=provided:\s))[^\s\"',;&]{6,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST = 2_000
_SHORTEST_SECRET = 4
_SECRETS: set[str] = set()
"""Every secret that this process was told of: a text that passes through many hands is redacted wherever it is read."""


class TierwiseError(Exception):
    """Any failure that Tierwise names itself."""


class RequestError(TierwiseError):
    """The request cannot be served: an HTTP ``status``, OpenAI's ``code``, what to do next, and the field at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers: Mapping[str, str] = headers or {}


STOPPED: Final = RequestError(503, "shutting_down", "The proxy is being stopped, and had no time left for this answer.")
BUG: Final = RequestError(500, "internal_error", "The proxy failed on this request; its log says why.")


class UpstreamError(TierwiseError):
    """One attempt failed: its ``kind`` (table above), the ``phase`` it was in, and what the backend said, redacted.

    ``retry_after`` is in seconds from now, where the backend named a time. ``param`` and ``code`` are the backend's.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        phase: Phase = "headers",
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.phase, self.status = kind, message, phase, status
        self.code, self.param, self.retry_after = code, param, retry_after


class Exhausted(TierwiseError):
    """Every attempt failed before content. ``attempts`` in the order made; ``last`` is the error to tell the client."""

    def __init__(self, attempts: tuple[Attempt, ...], last: UpstreamError) -> None:
        super().__init__(last.message)
        self.attempts, self.last = attempts, last


def out_of_time(error: BaseException) -> bool:
    """Whether it is the server who cancels, since the proxy stops and what was given to requests to end in is over."""
    return isinstance(error, asyncio.CancelledError) and "graceful shutdown" in str(error)


def shape(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def to_openai(error: TierwiseError) -> tuple[int, dict[str, str], bytes]:
    """What the client gets: HTTP status, extra headers (lower-case), and the body in OpenAI's shape."""
    match error:
        case RequestError():
            body = shape(error.status, error.message, code=error.code, param=error.param)
            return error.status, dict(error.headers), orjson.dumps(body)
        case Exhausted(last=last) | (UpstreamError() as last):
            status = client_status(last)
            wait = {} if last.retry_after is None else {"retry-after": str(max(1, round(last.retry_after + 0.5)))}
            body = shape(status, last.message, code=last.code or f"upstream_{last.kind}", param=last.param)
            return status, wait, orjson.dumps(body)
    return 500, {}, orjson.dumps(shape(500, "The proxy failed. The log has more.", code="internal_error"))


def client_status(error: UpstreamError) -> int:
    """The HTTP status that a client sees for an upstream failure.

    A refused request keeps its own status. A key of ours that does not work is not the client's 401: it is a 502.
    """
    if error.kind in REQUEST_KINDS:
        return error.status or 400
    if error.kind in ("rate_limited", "full"):
        return 429
    if error.kind in ("timeout", "deadline"):
        return 504
    if error.kind == "cooling" or error.status == 503:
        return 503
    return 502


def classify(status: int, code: str | None, message: str) -> Kind:
    """The kind of failure behind a response's HTTP status and what its body says."""
    text = f"{code or ''} {message}"
    if status in (400, 413, 422, 500) and _CONTEXT.search(text):
        return "context"
    if status in (401, 402, 403) or (code or "") in ("insufficient_quota", "invalid_api_key", "billing_not_active"):
        return "auth"
    if status in (425, 429):
        return "rate_limited"
    if status == 404:
        return "not_found"
    if status == 408:
        return "timeout"
    if 400 <= status < 500 and status != 409:
        return "bad_request"
    return "malformed" if status < 400 else "server_error"


def from_response(
    status: int, body: bytes, *, secrets: Iterable[str] = (), phase: Phase = "headers", retry_after: float | None = None
) -> UpstreamError:
    """Read an error response of any server that means to be compatible with OpenAI's; its text is redacted."""
    message, code, param = _told(body)
    text = redact(message, secrets) or f"The backend answered {status} without saying why."
    kind = classify(status, code, message)
    code = "context_length_exceeded" if kind == "context" else code
    return UpstreamError(kind, text, phase=phase, status=status, code=code, param=param, retry_after=retry_after)


def in_body(error: object, *, secrets: Iterable[str] = (), phase: Phase = "first_token") -> UpstreamError:
    """Read an error that came inside a 200 response: OpenAI's ``error`` object, or whatever stands in its place."""
    stated = error.get("code") if isinstance(error, dict) else None
    number = str(stated)
    status = int(number) if re.fullmatch("[45][0-9][0-9]", number) else 500
    if isinstance(error, dict) and status == 500:
        status = _status_of(str(error.get("type") or ""), str(stated or ""))
    return from_response(status, orjson.dumps({"error": error}, default=str), secrets=secrets, phase=phase)


def keep_secret(*secrets: str) -> None:
    """Have no error tell these from now on, nor what becomes of them in JSON and in URLs."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            escaped = orjson.dumps(secret.encode("utf-8", "replace").decode())[1:-1].decode()
            _SECRETS.update((secret, escaped, quote(secret), quote(secret, safe="")))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Cut ``text`` to a readable length, without control characters, tracebacks, secrets, or what looks like a key.

    Secrets are those given, and those that `keep_secret` was told of.
    """
    for secret in sorted({*secrets, *_SECRETS}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "[redacted]")
    text = text[: 4 * _LONGEST].partition("Traceback (most recent call last)")[0]
    text = _SECRET.sub("[redacted]", _CONTROL.sub(" ", text)).strip()
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _told(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and param out of an error body: OpenAI's shape, FastAPI's ``detail``, a bare message, or text."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text), None, None
    if not isinstance(document, dict):
        return str(document or ""), None, None
    error = document.get("error", document)
    if not isinstance(error, dict):
        return str(error), None, None
    told = error.get("message") or error.get("detail") or error.get("error") or ""
    message = told if isinstance(told, str) else orjson.dumps(told, default=str).decode()
    stated = error.get("code") or error.get("type")
    return message, _short(stated), _short(error.get("param"))


def _short(value: object) -> str | None:
    return redact(value)[:200] if isinstance(value, str) and value else None


def _status_of(kind: str, code: str) -> int:
    words = f"{kind} {code}".lower()
    for word, status in (("rate_limit", 429), ("overloaded", 503), ("auth", 401), ("quota", 402), ("permission", 403),
                         ("not_found", 404), ("invalid_request", 400), ("context_length", 400), ("exceed_context", 400),
                         ("badrequest", 400)):  # fmt: skip
        if word in words:
            return status
    return 500
