"""Every fault: how the backend misbehaves, streaming and not, and what must come of it.

``client`` is what the client sees. ``ok`` is this backend's whole answer, ``other`` the other backend's; a number is
the status of an error; ``said + error`` is a stream that broke off in the middle. ``attempts`` are the calls made, as
``error@phase``; ``billed`` is what the first of them used, ``in/out`` tokens, with ``~`` where it is our estimate.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from dataclasses import dataclass
from typing import Any

from tests.faults import speech
from tests.faults.speech import DONE, ROLE, SAID, STOP, answer, chunk, event, say, usage, well
from tests.faults.upstream import Behaviour, Peer


@dataclass(frozen=True)
class Seen:
    """What must come of a fault in one mode."""

    client: str
    attempts: str
    billed: str


@dataclass(frozen=True)
class Fault:
    """One way to misbehave. ``url`` replaces the address of the backend, for faults before a connection; ``patience``
    is how long this backend may be silent.
    """

    name: str
    behave: Behaviour
    stream: Seen
    whole: Seen
    url: str = ""
    tls: bool = False
    body: dict[str, Any] | None = None
    patience: str = "10s"


FAULTS: list[Fault] = []

SHORT = "400ms"

OK = Seen("ok", "ok", "10/3")
ESTIMATED = Seen("ok", "ok", "~12/3")


def fault(name: str, stream: Seen, whole: Seen | None = None, **more: Any) -> Any:
    """Register a behaviour with what must come of it; the same for both modes unless told otherwise."""

    def register(behave: Behaviour) -> Behaviour:
        FAULTS.append(Fault(name, behave, stream, whole or stream, **more))
        return behave

    return register


def elsewhere(attempt: str, billed: str = "nothing") -> Seen:
    return Seen("other", f"{attempt}, ok", billed)


def twice(attempt: str, billed: str = "nothing") -> Seen:
    """Tried again once, as retries say, then the other backend."""
    return Seen("other", f"{attempt}, {attempt}, ok", billed)


def refused(status: int, kind: str) -> Seen:
    return Seen(str(status), f"{kind}@headers", "nothing")


def broken(said: str, attempt: str, billed: str) -> Seen:
    return Seen(f"{said!r} + error", attempt, billed)


def _status(status: int, seen: Seen, message: str = "no", code: str | None = None, *lines: str, name: str = "") -> None:
    async def behave(peer: Peer) -> None:
        error = {"message": message, "type": "error", "param": None, "code": code}
        await peer.whole(status, {"error": error}, *lines)

    fault(name or str(status), seen)(behave)


for _code in (500, 502, 503, 504, 529):
    _status(_code, twice("server_error@headers"))
_status(429, twice("rate_limited@headers"))
_status(429, elsewhere("rate_limited@headers"), "slow down", None, "retry-after: 30", name="429, Retry-After: 30")
_status(429, twice("rate_limited@headers"), "slow down", None, "retry-after-ms: 5", name="429, retry-after-ms: 5")
_status(429, elsewhere("auth@headers"), "You exceeded your quota", "insufficient_quota", name="429, quota spent")
for _code in (401, 402, 403):
    _status(_code, elsewhere("auth@headers"), "Incorrect API key provided: sk-live-aaaaaaaaaaaaaaaa")
for _code in (400, 413, 422):
    _status(_code, refused(_code, "bad_request"))
_status(404, elsewhere("not_found@headers"), "The model `m` does not exist", "model_not_found")
_status(408, elsewhere("timeout@headers"))
_status(307, twice("malformed@headers"), "elsewhere", None, "location: http://127.0.0.1:1/", name="307 redirect")
for _wording in (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "the request exceeds the available context size. try increasing the context size",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
    "Input is too long for requested model.",
    "Please reduce the length of the messages or completion.",
):
    _status(400, elsewhere("context@headers"), _wording, name=f"400 context: {_wording[:24]}")


@fault("connection refused", elsewhere("connect@connect"), url="http://127.0.0.1:9/v1")
async def _refuse(peer: Peer) -> None:
    raise AssertionError("nobody listens there")


@fault("DNS failure", elsewhere("dns@connect"), url="http://no-such-host.invalid/v1")
async def _nowhere(peer: Peer) -> None:
    raise AssertionError("there is no such host")


@fault("TLS failure", elsewhere("tls@connect"), tls=True)
async def _untrusted(peer: Peer) -> None:
    raise AssertionError("its certificate is nobody's")


@fault("reset before headers", twice("reset@headers"))
async def _reset(peer: Peer) -> None:
    peer.reset()


@fault("closed before headers", twice("reset@headers"))
async def _close(peer: Peer) -> None:
    return


@fault("reset on a reused connection", Seen("ok", "reset@headers, ok", "nothing"), body={"prime": True})
async def _stale(peer: Peer) -> None:
    if peer.number == 2:
        peer.reset()
    else:
        await well(peer)


@fault("silence before headers", elsewhere("timeout@headers", "~12/0"), patience=SHORT)
async def _silent(peer: Peer) -> None:
    await peer.silence()


@fault("silence before the first token", elsewhere("timeout@first_token", "~12/0"), patience=SHORT)
async def _headers_only(peer: Peer) -> None:
    await peer.head()
    if peer.stream:
        await peer.piece(ROLE)
    await peer.silence()


@fault("pings and no token", elsewhere("timeout@first_token", "~12/0"), patience=SHORT)
async def _pings(peer: Peer) -> None:
    await peer.head()
    while True:
        await peer.piece(b": ping\n\n" if peer.stream else b" ")
        await asyncio.sleep(0.02)


@fault(
    "stall mid-stream",
    broken("Hello wide", "timeout@stream", "~12/2"),
    elsewhere("timeout@first_token", "~12/0"),
    patience=SHORT,
)
async def _stall(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] + SAID[1] if peer.stream else b'{"id": "c1", "choi')
    await peer.silence()


@fault(
    "stall behind pings",
    broken("Hello", "timeout@stream", "~12/1"),
    elsewhere("timeout@first_token", "~12/0"),
    patience=SHORT,
)
async def _stall_pinging(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] if peer.stream else b'{"id": "c1", "choi')
    while True:
        await peer.piece(b": ping\n\n" if peer.stream else b" ")
        await asyncio.sleep(0.02)


@fault("cut mid-stream", broken("Hello wide", "cut@stream", "~12/2"), twice("cut@first_token", "~12/0"))
async def _cut(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] + SAID[1] + SAID[2][:40] if peer.stream else b'{"id": "c1", "choi')


@fault("reset mid-stream", broken("Hello wide", "cut@stream", "~12/2"), twice("cut@first_token", "~12/0"))
async def _reset_late(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] + SAID[1] if peer.stream else b'{"id": "c1", "choi')
    await asyncio.sleep(0.05)
    peer.reset()


@fault("cut before content", twice("cut@first_token", "~12/0"))
async def _cut_early(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE if peer.stream else b"{")


@fault("ended mid-stream", broken("Hello wide", "cut@stream", "~12/2"), twice("malformed@first_token", "~12/0"))
async def _ended(peer: Peer) -> None:
    await say(peer, ROLE, SAID[0], SAID[1]) if peer.stream else await peer.whole(200, b'{"id": "c1", "choi')


@fault("shorter than its content-length", broken("Hello", "cut@stream", "~12/1"), twice("cut@first_token", "~12/0"))
async def _short(peer: Peer) -> None:
    kind, part = ("text/event-stream", ROLE + SAID[0]) if peer.stream else ("application/json", b'{"id":')
    await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: 9999\r\n\r\n%s" % (kind.encode(), part))


@fault("missing [DONE]", OK)
async def _no_done(peer: Peer) -> None:
    await say(peer, ROLE, *SAID, STOP, usage()) if peer.stream else await well(peer)


@fault("cut after the last word", ESTIMATED, OK)
async def _cut_at_end(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    await peer.head()
    return await peer.piece(b"".join((ROLE, *SAID, STOP)))


@fault("malformed chunk", broken("Hello", "malformed@stream", "~12/1"), twice("malformed@first_token", "~12/0"))
async def _malformed(peer: Peer) -> None:
    if peer.stream:
        return await say(peer, ROLE, SAID[0], b'data: {"id": "c1", "choices": [{]}\n\n', *SAID[1:], STOP, DONE)
    return await peer.whole(200, b'{"id": "c1", "choices": [{]}')


@fault("malformed first chunk", twice("malformed@first_token", "~12/0"))
async def _malformed_first(peer: Peer) -> None:
    if peer.stream:
        return await say(peer, b"data: {{{\n\n", *SAID, STOP, DONE)
    return await peer.whole(200, b"[]")


@fault("200 with an error body", twice("server_error@first_token"))
async def _error_body(peer: Peer) -> None:
    await peer.whole(200, {"error": {"message": "CUDA out of memory", "type": "server_error", "code": None}})


@fault("200 with an error event", twice("server_error@first_token"))
async def _error_event(peer: Peer) -> None:
    error = {"error": {"message": "engine died", "code": 500}}
    await say(peer, event(error), DONE) if peer.stream else await peer.whole(200, error)


@fault("200 with an overloaded error", twice("rate_limited@first_token"))
async def _overloaded(peer: Peer) -> None:
    error = {"error": {"message": "slow down", "type": "rate_limit_error"}}
    await say(peer, ROLE, event(error)) if peer.stream else await peer.whole(200, error)


@fault("error event mid-stream", broken("Hello", "server_error@stream", "~12/1"), twice("server_error@first_token"))
async def _error_late(peer: Peer) -> None:
    error = {"error": {"message": "engine died with key sk-live-aaaaaaaaaaaaaaaa", "code": 500}}
    await say(peer, ROLE, SAID[0], event(error)) if peer.stream else await peer.whole(200, error)


@fault(
    "slow drip", broken("Hello", "timeout@stream", "~12/1"), elsewhere("timeout@first_token", "~12/0"), patience=SHORT
)
async def _drip(peer: Peer) -> None:
    await peer.head()
    if peer.stream:
        await peer.piece(ROLE + SAID[0])
    for byte in SAID[1] * 100:
        await peer.piece(bytes([byte]))
        await asyncio.sleep(0.01)


@fault("flapping backend", Seen("ok", "server_error@headers, ok", "nothing"))
async def _flap(peer: Peer) -> None:
    await (peer.whole(500, {"error": {"message": "not now"}}) if peer.number % 2 else well(peer))


@fault("bad chunk size", broken("Hello", "cut@stream", "~12/1"), twice("cut@first_token", "~12/0"))
async def _bad_chunk(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] if peer.stream else b'{"id"')
    await asyncio.sleep(0.05)
    await peer.raw(b"zz\r\nnonsense\r\n")


@fault("not HTTP", twice("malformed@headers"))
async def _not_http(peer: Peer) -> None:
    await peer.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@fault("huge headers", twice("malformed@headers"))
async def _huge_headers(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\nx-huge: " + b"h" * 1_000_000 + b"\r\n\r\n")


@fault("endless headers", twice("malformed@headers"))
async def _endless_headers(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        await peer.raw(b"x-more: and more\r\n" * 1000)
        await asyncio.sleep(0)


@fault("an HTML page", twice("malformed@first_token", "~12/0"))
async def _html(peer: Peer) -> None:
    await peer.whole(200, b"<html><body>Welcome to nginx!</body></html>", kind="application/json")


@fault("HTML as an error", twice("server_error@headers"))
async def _html_error(peer: Peer) -> None:
    await peer.whole(502, b"<html><h1>502 Bad Gateway</h1></html>", kind="text/html")


@fault("gzip'd body", OK)
async def _gzip(peer: Peer) -> None:
    kind, body = "application/json", speech.orjson.dumps(answer())
    if peer.stream:
        kind, body = "text/event-stream", b"".join((ROLE, *SAID, STOP, usage(), DONE))
    await peer.whole(200, gzip.compress(body), "content-encoding: gzip", kind=kind)


def _bomb_of_nothing() -> bytes:
    """100 MB of nothing in 100 kB."""
    press = zlib.compressobj(wbits=31)
    return b"".join(press.compress(bytes(1_000_000)) for _ in range(100)) + press.flush()


BOMB = _bomb_of_nothing()


@fault("gzip bomb", twice("malformed@first_token", "~12/0"))
async def _bomb(peer: Peer) -> None:
    kind = "text/event-stream" if peer.stream else "application/json"
    await peer.whole(200, BOMB, "content-encoding: gzip", kind=kind)


@fault("says gzip, is not", twice("malformed@first_token", "~12/0"))
async def _not_gzip(peer: Peer) -> None:
    kind = "text/event-stream" if peer.stream else "application/json"
    await peer.whole(200, b"plain as can be", "content-encoding: gzip", kind=kind)


@fault("an encoding nobody asked for", twice("malformed@first_token", "~12/0"))
async def _brotli(peer: Peer) -> None:
    await peer.whole(200, b"\x0b\x02\x80hello\x03", "content-encoding: br", kind="text/event-stream")


@fault("an event without end", twice("malformed@first_token", "~12/0"))
async def _endless_event(peer: Peer) -> None:
    if not peer.stream:
        return await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n")
    await peer.head()
    while True:
        await peer.piece(b"data: " + b"x" * 1_000_000)


@fault("SSE with CRLF", OK)
async def _crlf(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    return await say(peer, *(part.replace(b"\n", b"\r\n") for part in (ROLE, *SAID, STOP, usage(), DONE)))


@fault("SSE with comments and pings", OK)
async def _comments(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    ping = b": OPENROUTER PROCESSING\n\n"
    return await say(peer, ping, ROLE, ping, *SAID, b"event: ping\n\n", STOP, b": x\n" + usage(), DONE)


@fault("SSE with fields and multi-line data", OK)
async def _fields(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    said = (b"id: 1\nretry: 9\n" + part.replace(b',"', b',\ndata: "') for part in SAID)
    return await say(peer, b"\xef\xbb\xbf" + ROLE, *said, STOP, usage(), DONE)


@fault("split UTF-8, one byte at a time", OK)
async def _bytewise(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    await peer.head()
    for byte in b"".join((ROLE, chunk({"content": "Grüße 🌍"}), STOP, usage(), DONE)):
        await peer.piece(bytes([byte]))
    return await peer.end()


@fault("no usage", ESTIMATED)
async def _no_usage(peer: Peer) -> None:
    await say(peer, ROLE, *SAID, STOP, DONE) if peer.stream else await peer.whole(200, answer(usage=None))


@fault("usage null", ESTIMATED)
async def _null_usage(peer: Peer) -> None:
    bare = usage(usage={"prompt_tokens": None, "completion_tokens": None})
    parts = (ROLE, *SAID, STOP, bare, DONE)
    await say(peer, *parts) if peer.stream else await peer.whole(200, answer(usage={}))


@fault("usage of zero", Seen("ok", "ok", "0/0"))
async def _zero_usage(peer: Peer) -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    parts = (ROLE, *SAID, STOP, usage(usage=zero), DONE)
    await say(peer, *parts) if peer.stream else await peer.whole(200, answer(usage=zero))


@fault("usage in the last content chunk", OK)
async def _usage_with_content(peer: Peer) -> None:
    last = chunk({"content": speech.WORDS[-1]}, "stop", usage=speech.TOKENS.get())
    await say(peer, ROLE, *SAID[:2], last, DONE) if peer.stream else await well(peer)


@fault("usage after [DONE]", OK)
async def _usage_late(peer: Peer) -> None:
    await say(peer, ROLE, *SAID, STOP, DONE, usage()) if peer.stream else await well(peer)


@fault("usage in every chunk", OK)
async def _usage_always(peer: Peer) -> None:
    so_far = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    said = [chunk({"content": word}, usage=so_far) for word in speech.WORDS]
    await say(peer, ROLE, *said, STOP, usage(), DONE) if peer.stream else await well(peer)


@fault("usage without choices", OK)
async def _usage_bare(peer: Peer) -> None:
    bare = event({"id": "c1", "object": "chat.completion.chunk", "usage": speech.TOKENS.get()})
    await say(peer, ROLE, *SAID, STOP, bare, DONE) if peer.stream else await well(peer)


@fault("two finish reasons", OK)
async def _finish_twice(peer: Peer) -> None:
    await say(peer, ROLE, *SAID, STOP, STOP, usage(), DONE) if peer.stream else await well(peer)


@fault("n > 1, interleaved", OK, body={"n": 2})
async def _interleaved(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    both = [chunk({"content": word}, index=index) for word in speech.WORDS for index in (0, 1)]
    return await say(peer, ROLE, *both, STOP, chunk(finish="length", index=1), usage(), DONE)


@fault("n > 1, one cut off", broken("HelloHello", "cut@stream", "~12/2"), OK, body={"n": 2})
async def _one_cut(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    both = [chunk({"content": "Hello"}, index=index) for index in (0, 1)]
    return await say(peer, ROLE, *both, STOP)


@fault("tool-call delta cut in the middle", broken("", "cut@stream", "~12/3"), twice("cut@first_token", "~12/0"))
async def _tool_cut(peer: Peer) -> None:
    await peer.head()
    if not peer.stream:
        return await peer.piece(b'{"id": "c1", "choices": [{"message": {"tool_calls": [{"fun')
    function = {"name": "weather", "arguments": '{"city'}
    return await peer.piece(ROLE + chunk({"tool_calls": [{"index": 0, "function": function}]}))


@fault("content-free end", twice("empty@first_token", "~12/0"))
async def _empty(peer: Peer) -> None:
    await say(peer, ROLE, DONE) if peer.stream else await peer.whole(200, {**answer(), "choices": []})


@fault("only the end", Seen("ok", "ok", "10/3"))
async def _only_stop(peer: Peer) -> None:
    await say(peer, ROLE, STOP, usage(), DONE) if peer.stream else await peer.whole(200, answer(""))


@fault("not a stream after all", twice("malformed@first_token", "10/3"), OK)
async def _not_a_stream(peer: Peer) -> None:
    await peer.whole(200, answer())


@fault("words after [DONE]", OK)
async def _chatty(peer: Peer) -> None:
    await say(peer, ROLE, *SAID, STOP, usage(), DONE, *SAID, DONE) if peer.stream else await well(peer)


@fault("open after [DONE]", OK)
async def _lingering(peer: Peer) -> None:
    if not peer.stream:
        return await well(peer)
    await peer.head()
    await peer.piece(b"".join((ROLE, *SAID, STOP, usage(), DONE)))
    return await peer.silence()


@fault("control characters and a key in the error", refused(400, "bad_request"))
async def _dirty_error(peer: Peer) -> None:
    await peer.whole(400, {"error": {"message": "bad\r\n\x1b[31mkey sk-live-aaaaaaaaaaaaaaaa\x00", "code": "x\ny"}})
