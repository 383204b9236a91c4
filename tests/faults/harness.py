"""Run one fault in one mode through the dispatcher, and say what the client, the ledger and the machine saw of it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from policies import schema
from policies.values import Attempt, Decision, Step, Usage
from router import sse
from router.backends import Backend, open_backends
from router.dispatch import Dispatcher, Order
from router.errors import Exhausted, client_status, to_openai
from router.ledger.counting import Counting
from router.trail import Trail
from tests.faults.faults import Fault
from tests.faults.speech import TEXT, well
from tests.faults.upstream import Upstream

INPUT_TOKENS = 10
LOOPS = ("asyncio", ("asyncio", {"use_uvloop": True}))
"""Event loops that behave differently where a connection ends; the proxy runs on the second one."""

PATIENCE = {"connect": "5s", "first_token": "10s", "between_tokens": "10s", "answer": "10s"}


@dataclass(frozen=True)
class Result:
    """``client``, ``attempts`` and ``billed`` as in `faults.Seen`; ``leaked`` names whatever was not let go of."""

    client: str
    attempts: str
    billed: str
    leaked: tuple[str, ...]


def policy(*urls: str, **more: Any) -> schema.Policy:
    """A policy with a tier of one backend for each URL: ``b0``, ``b1``, … at $1 and $2 per million tokens.

    ``backend`` adds to each backend, ``first`` to the first one, anything else to the policy.
    """
    special, first = more.pop("backend", {}), more.pop("first", {})
    tiers = {
        f"t{at}": {
            "backends": [
                {
                    "name": f"b{at}",
                    "kind": "openai",
                    "model": "m",
                    "base_url": url,
                    "api_key": "sk-upstream-key-of-ours",
                    "cost": {"input_usd_per_mtok": Decimal(1), "output_usd_per_mtok": Decimal(2)},
                    **special,
                    **(first if at == 0 else {}),
                }
            ]
        }
        for at, url in enumerate(urls)
    }
    retries = {"attempts": 1, "base": "1ms", "cap": "20ms"}
    return schema.Policy.model_validate(
        {"version": 1, "tiers": tiers, "timeouts": PATIENCE, "retries": retries, **more}
    )


def decision(count: int) -> Decision:
    """Every tier of `policy`, in order."""
    return Decision(tuple(Step(f"t{at}", f"b{at}") for at in range(count)), (), "hash")


def order(stream: bool, wants_usage: bool = True, **body: Any) -> Order:
    """A chat request whose text is about `INPUT_TOKENS` long."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello to the world"}], **body}
    if stream:
        body["stream"] = True
    return Order("chat/completions", body, stream, wants_usage, INPUT_TOKENS)


async def run(fault: Fault, stream: bool) -> Result:
    """Ask a misbehaving backend with a good one behind it."""
    tasks = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(Upstream(fault.behave, tls=_certificate() if fault.tls else None))
        good = await stack.enter_async_context(Upstream(well))
        phases = dict.fromkeys(("first_token", "between_tokens", "answer"), fault.patience)
        settled = policy(fault.url or bad.url, good.url, first={"timeouts": phases})
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        body = dict(fault.body or {})
        if body.pop("prime", False):
            await _ask(dispatcher, order(stream), Trail())
        trail, asked, counting = Trail(), order(stream, **body), Counting()
        said = await _ask(dispatcher, asked, trail)
        await counting.settle(trail, asked.body)
        await counting.close()
        leaked = await _leaks(dispatcher, (bad, good), trail)
        await _close(backends)
    leaked += [f"task {task.get_coro()}" for task in await _tasks_since(tasks)]
    client = "other" if said == "ok" and trail[-1].backend == "b1" else said
    return Result(client, ", ".join(map(_call, trail)), _billed(trail[0]), tuple(leaked))


async def _ask(dispatcher: Dispatcher, asked: Order, trail: Trail) -> str:
    """What the client sees, in the words of `faults.Seen`."""
    try:
        answer = await dispatcher.run(asked, decision(2), trail)
    except Exhausted as error:
        return _refusal(error)
    try:
        data = b"".join([part async for part in answer.body])
    finally:
        await answer.aclose()
    assert answer.attempts == tuple(trail)
    if not asked.stream:
        document = orjson.loads(data)
        assert document["choices"][0]["message"]["content"] in (TEXT, ""), document
        return "ok"
    return _read(data, asked)


def _refusal(error: Exhausted) -> str:
    status, _, body = to_openai(error)
    assert status == client_status(error.last)
    _check_error(orjson.loads(body))
    return str(status)


def _read(data: bytes, asked: Order) -> str:
    """Read a stream as a strict client would."""
    splitter = sse.Splitter()
    events = [found for event in splitter.feed(data) if (found := sse.data_of(event)) is not None]
    assert not splitter.rest, "the last event is not whole"
    text, ended = "", 0
    for at, event in enumerate(events):
        if event == b"[DONE]":
            assert at == len(events) - 1, "something after [DONE]"
            return "ok"
        document = orjson.loads(event)
        if "error" in document:
            _check_error(document)
            assert at == len(events) - 1, "something after the error"
            return f"{text!r} + error"
        for choice in document.get("choices", ()):
            text += choice["delta"].get("content") or ""
            ended += choice["finish_reason"] is not None
    raise AssertionError("a silent stop: neither [DONE] nor an error")


def _check_error(document: dict[str, Any]) -> None:
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    text = orjson.dumps(document).decode()
    assert "sk-" not in text, text
    assert not any(f"\\u00{code:02x}" in text for code in range(32)), text


def _call(attempt: Attempt) -> str:
    return "ok" if attempt.outcome == "ok" else f"{attempt.error}@{attempt.phase}"


def _billed(attempt: Attempt) -> str:
    usage = attempt.usage
    if usage is None:
        assert attempt.cost_nanos == 0
        return "nothing"
    assert attempt.cost_nanos == _nanos(usage)
    return f"{'' if usage.measured else '~'}{usage.input_tokens}/{usage.output_tokens}"


def _nanos(usage: Usage) -> int:
    return usage.input_tokens * 1_000 + usage.output_tokens * 2_000


async def _leaks(dispatcher: Dispatcher, upstreams: Sequence[Upstream], trail: Sequence[Attempt]) -> list[str]:
    """What is still held 100 ms after the request is over."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + 0.1
    for upstream in upstreams:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(limit):
                await upstream.idle()
    leaked = [f"{upstream.serving} upstream requests" for upstream in upstreams if upstream.serving]
    leaked += [f"{count} slots of {name}" for name, count in dispatcher.in_flight().items() if count]
    idle = sum(upstream.connections for upstream in upstreams)
    if idle > 2:
        leaked.append(f"{idle} connections")
    made = sum(attempt.outcome != "rejected" for attempt in trail)
    asked = sum(len(upstream.requests) for upstream in upstreams)
    if asked > made + 1:
        leaked.append(f"{asked - made} requests that are no attempt")
    return leaked


async def _tasks_since(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    for _ in range(20):
        left = asyncio.all_tasks() - before
        if not left:
            break
        await asyncio.sleep(0.005)
    return left


async def _close(backends: dict[str, Backend]) -> None:
    for backend in backends.values():
        await backend.aclose()


@cache
def _certificate() -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody signed but itself."""
    folder = Path(tempfile.mkdtemp())
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
