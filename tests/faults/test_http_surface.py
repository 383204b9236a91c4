"""The HTTP surface under attack: any body, any request that its own document describes, and secrets told by backends.

Never a failure of our own making, never a hang, never a leaked task, never a key of ours in anything that comes out.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.applications import Starlette

from classifiers.encoder import EncoderUnavailable
from policies import schema
from router import encoders
from router.app import create
from router.backends import Call, hosted
from router.errors import UpstreamError
from router.keys import made, make
from router.launch import Proxy, running_proxy
from router.looks.start import EncoderProcess
from router.openapi import document
from router.settings import Settings
from router.telemetry import _Unforgeable
from router.wire import _FIELDS
from tests.faults.upstream import Peer, Upstream
from tests.journeys.conftest import POLICY

COST = "cost: {gpu_hour_usd: 1}"
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "Hello there!"}]}
STEERED = """
rules: [{name: premium, when: {header: {x-plan: [premium]}}, tier: large}]
budgets: [{name: all, per: day, usd: 1000, tokens: 1000000000}, {name: each, per: hour, scope: key, requests: 1000000}]
"""


# in process: any bytes, and what is left behind


@asynccontextmanager
async def app(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Starlette]:
    """The whole application on the embedded store, with lexical features alone."""

    def unavailable(*_: object) -> None:
        raise EncoderUnavailable("not here")

    def not_started(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(encoders, "static", unavailable)
    monkeypatch.setattr(EncoderProcess, "begin", not_started)
    policy = folder / "policy.yaml"
    policy.write_text(text)
    made = create(Settings(policy, folder / "data", folder / "cache", "WARNING"))
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async with app(tmp_path, POLICY + STEERED, monkeypatch) as application:
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            tasks = asyncio.all_tasks()
            yield client
            await asyncio.sleep(0)
            left = asyncio.all_tasks() - tasks
            assert not [task for task in left if "tests" in str(task) or "endpoints" in str(task)]
            assert "tierwise_in_flight 0.0" in (await client.get("/metrics")).text


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("aAtyperolcntx_", max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(("text", "image_url", "input_audio", "file", "")) | values},
    optional={"text": values, "image_url": values, "input_audio": values},
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(("system", "user", "assistant", "tool")) | values},
    optional={"content": st.text(max_size=60) | st.lists(parts | values, max_size=3) | values, "tool_calls": values},
)
bodies = st.fixed_dictionaries(
    {
        "model": st.sampled_from(("auto", "tier/small", "large-1", "gpt-4o-mini", "auto:cheap")) | values,
        "messages": st.lists(messages, max_size=4) | values,
    },
    optional=dict.fromkeys({*_FIELDS, "metadata", "tool_choice", "functions"} - {"model", "messages"}, values),
)  # fmt: skip
headers = st.dictionaries(
    st.sampled_from(("authorization", "x-api-key", "x-session-id", "x-plan", "content-type", "content-encoding", "host",
                     "sec-fetch-site", "user-agent", "cookie")),
    st.binary(max_size=40).filter(lambda value: not {*value} & {*b"\0\r\n"}),
    max_size=4,
)  # fmt: skip
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.anyio
@FUZZ
@given(
    bodies.map(orjson.dumps) | st.binary(max_size=60), headers, st.sampled_from(("/v1/chat/completions", "/v1/route"))
)
async def test_any_body_is_answered(client: httpx.AsyncClient, body: bytes, given: dict[str, bytes], path: str) -> None:
    async with asyncio.timeout(20):
        response = await client.post(path, content=body, headers=given)
    assert response.status_code < 500
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].isprintable()


@pytest.mark.anyio
async def test_no_field_and_no_size_stops_the_books(client: httpx.AsyncClient) -> None:
    """The largest numbers that JSON brings go through budgets, ledger and store, and the store stays."""
    for changes in (
        {"max_tokens": 2**63 - 1},
        {"max_completion_tokens": 2**64 - 1, "n": 128},
        {"seed": -(2**63)},
        {"temperature": 1e308},
        {"user": "\u2028\x00" * 10},
        {"n": 128, "max_tokens": 1},
    ):
        response = await client.post("/v1/chat/completions", json={**HELLO, **changes})
        assert response.status_code in (200, 400, 429), response.text
    async with asyncio.timeout(20):
        while not (await client.get("/report")).json()["total"]["requests"] >= 3:  # noqa: ASYNC110 the books close behind
            await asyncio.sleep(0.05)
    state = (await client.get("/readyz")).json()
    assert (state["store"], state["ledger_problem"]) == ("ready", "")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"sec-fetch-site": "cross-site"}, "cross_site"),
        ({"sec-fetch-site": "same-site"}, "cross_site"),
        ({"sec-fetch-site": "same-origin", "host": "rebound.example:8080"}, "unknown_host"),
        ({"sec-fetch-site": "same-origin", "host": "localhost:8080"}, None),
        ({"sec-fetch-site": "same-origin", "host": "[::1]:8080"}, None),
        ({"sec-fetch-site": "none", "host": "rebound.example"}, None),
        ({"host": "gateway.example"}, None),
    ],
)
async def test_a_page_of_another_site_cannot_spend(
    client: httpx.AsyncClient, given: dict[str, str], code: str | None
) -> None:
    response = await client.post("/v1/chat/completions", json=HELLO, headers=given)
    assert response.status_code == (403 if code else 200)
    assert code is None or response.json()["error"]["code"] == code


@pytest.mark.anyio
async def test_compressed_bodies_are_refused_unread(client: httpx.AsyncClient) -> None:
    for encoding in ("gzip", "br", "deflate, gzip", "zstd"):
        response = await client.post("/v1/chat/completions", content=b"x", headers={"content-encoding": encoding})
        assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_encoding")
    same = await client.post("/v1/chat/completions", json=HELLO, headers={"content-encoding": "identity"})
    assert same.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"tools":[' + b"1," * 2_000_000 + b"1]}",
        b'{"model":"auto","messages":[' + b'{"role":"user","content":"x"},' * 150_000 + b'{"role":"user"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"x":[' + b"[]," * 1_500_000 + b"[]]}",
        b'{"model":"auto","messages":[{"role":"user","content":['
        + b'{"type":"text"},' * 250_000
        + b'{"type":"text"}]}]}',
    ],
)
@pytest.mark.anyio
async def test_no_body_holds_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    text = POLICY.replace("body_bytes: 200000", "body_bytes: 5000000")
    async with app(tmp_path, text, monkeypatch) as application:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            late = 0.0

            async def heartbeat() -> None:
                nonlocal late
                loop = asyncio.get_running_loop()
                while True:
                    before = loop.time()
                    await asyncio.sleep(0.01)
                    late = max(late, loop.time() - before)

            beating = asyncio.create_task(heartbeat())
            assert (await client.post("/v1/route", content=body)).status_code in (200, 400)
            beating.cancel()
    assert late < 10.0


# through a real server: what its own document describes


@dataclass(frozen=True)
class Attacked:
    proxy: Proxy
    log: Path


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("surface")
    (folder / "policy.yaml").write_text(POLICY + STEERED)
    with (folder / "log").open("wb") as log, running_proxy(folder / "policy.yaml", folder / "data", log=log) as proxy:
        proxy.wait_until_ready()
        yield Attacked(proxy, folder / "log")


def test_the_document_states_all_that_is_checked() -> None:
    assert {*document()["components"]["schemas"]["ChatRequest"]["properties"]} == {*_FIELDS}


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
described = schemathesis.openapi.from_dict(document())


@described.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_surface_is_as_its_document_says(attacked: Attacked, case: schemathesis.Case) -> None:
    case.call_and_validate(base_url=attacked.proxy.url, checks=CHECKS, timeout=30)


@pytest.mark.parametrize("path", ["/%0d%0aFORGED", "/v1/%0aFORGED", "/report?by=%0aFORGED"])
def test_no_request_writes_a_line_of_the_log_or_a_header(attacked: Attacked, path: str) -> None:
    httpx.get(attacked.proxy.url + path, headers={"user-agent": "FORGED"})
    body = {**HELLO, "model": "\r\nFORGED: ERROR"}
    response = httpx.post(f"{attacked.proxy.url}/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert "forged" not in response.headers
    assert not [line for line in attacked.log.read_text().splitlines() if line.lstrip().startswith("FORGED")]


def test_nothing_has_failed_in_the_end(attacked: Attacked) -> None:
    assert "Traceback" not in attacked.log.read_text()
    assert "tierwise_in_flight 0.0" in httpx.get(f"{attacked.proxy.url}/metrics").text


@given(st.text(), st.text())
def test_a_log_record_is_one_event(message: str, told: str) -> None:
    record = logging.LogRecord("tierwise", logging.ERROR, "", 0, message.replace("%", "%%") + "%s", (told,), None)
    first, *rest = _Unforgeable("%(asctime)s %(levelname)s %(message)s").format(record).split("\n")
    assert re.match(r"\d{4}-\d\d-\d\d ", first)
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in (first, *rest))


# secrets told by backends

SECRETS = ("hunter2hunter2", "sk-proj-0123456789abcdef", "correct horse battery", "p4ssw0rd!")
"""An API key without any of the usual marks, and one with them; a header's value; a password in a base URL."""


def _error(status: int, document: object) -> Callable[[Peer], Awaitable[None]]:
    async def behave(peer: Peer) -> None:
        await peer.whole(status, document, f"x-echo: {SECRETS[0]}", f"www-authenticate: Bearer {SECRETS[1]}")

    return behave


async def _in_stream(peer: Peer) -> None:
    await peer.head()
    await peer.piece(b"data: " + orjson.dumps({"error": {"message": TOLD, "code": SECRETS[0]}}) + b"\n\n")
    await peer.end()


TOLD = f"Incorrect API key provided: {' and '.join(SECRETS)}. Sent as Authorization: Bearer {SECRETS[0]}"
ECHOES: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "401": _error(401, {"error": {"message": TOLD, "type": SECRETS[0], "param": SECRETS[1], "code": SECRETS[0]}}),
    "400": _error(400, {"error": {"message": TOLD, "type": "invalid_request_error", "param": SECRETS[0]}}),
    "500 text": _error(500, TOLD.encode()),
    "422 detail": _error(422, {"detail": [{"loc": ["header", "authorization"], "msg": TOLD, "input": SECRETS[0]}]}),
    "404 html": _error(404, b"<html>" + TOLD.encode()),
    "200 error": _error(200, {"error": {"message": TOLD, "code": SECRETS[0]}}),
    "200 not JSON": _error(200, TOLD.encode()),
    "200 other JSON": _error(200, {"detail": TOLD}),
    "in a stream": _in_stream,
}


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", ECHOES)
async def test_keys_of_ours_are_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, echo: str, stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Upstream(ECHOES[echo]) as upstream:
        at = upstream.url.replace("http://", f"http://user:{SECRETS[3]}@")
        shape = "name: b{0}, kind: openai, model: m, base_url: '{1}', api_key: '{2}', headers: {{x-secret: '{3}'}}"
        written = [shape.format(i, at, SECRETS[i], SECRETS[2]) for i in (0, 1)]
        tiers = [f"  t{i}: {{backends: [{{{backend}, {COST}}}]}}" for i, backend in enumerate(written)]
        text = "\n".join(("version: 1", "tiers:", *tiers, "fallback: {t0: t1}", "retries: {attempts: 0}", ""))
        async with app(tmp_path, text, monkeypatch) as application:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                asked = await client.post("/v1/chat/completions", json={**HELLO, "model": "tier/t0", "stream": stream})
                others = [
                    await client.get(path) for path in ("/metrics", "/readyz", "/report", "/engines", "/v1/models")
                ]
                proxy = application.state.proxy
                said = repr((proxy.policy, proxy.pipeline.loaded, proxy.pipeline.dispatcher.lanes, vars(proxy)))
    assert upstream.requests
    out = [f"{answer.headers}{answer.text}" for answer in (asked, *others)]
    journal = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    for secret in SECRETS:
        assert [text for text in (*out, said, caplog.text) if secret in text] == []
        assert secret.encode() not in journal


@pytest.mark.anyio
async def test_a_failure_of_ours_tells_the_client_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, text = make("ann")
    async with app(tmp_path, POLICY + "auth: {required: true}\n", monkeypatch) as application:
        proxy = application.state.proxy
        await proxy._store.tell_key(made(key))
        await proxy.keys.refresh()

        async def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(proxy.pipeline, "choose", broken)
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            response = await client.post(
                "/v1/chat/completions", json=HELLO, headers={"authorization": f"Bearer {text}"}
            )
    assert response.status_code == 500
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "bug" not in response.text
    assert text not in caplog.text


@pytest.mark.anyio
async def test_images_are_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(peer: Peer) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        choice = {"index": 0, "message": {"role": "assistant", "content": "a cat"}, "finish_reason": "stop"}
        await peer.whole(200, {"choices": [choice], "usage": usage})

    fetched: list[object] = []
    async with Upstream(answer) as upstream:
        server = await asyncio.start_server(lambda *peer: fetched.append(peer), "127.0.0.1", 0)
        where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/cat.png"
        backend = f"name: eye, kind: openai, model: m, base_url: '{upstream.url}', supports: vision, {COST}"
        text = f"version: 1\ntiers: {{t: {{backends: [{{{backend}}}]}}}}\n"
        async with app(tmp_path, text, monkeypatch) as application:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                content = [{"type": "image_url", "image_url": {"url": where}}]
                body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        server.close()
        await server.wait_closed()
    assert not fetched
    (sent,) = upstream.requests
    assert sent["messages"][0]["content"] == content


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["anthropic/claude-3-5-sonnet-20241022", "gemini/gemini-1.5-pro", "ollama/llava"])
async def test_what_a_request_names_is_not_fetched_for_hosted_models_either(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Litellm fetches files for APIs that take them only whole, and would take our word for which hosts are fine."""
    reached: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        reached.append(head.partition(b"\r\n")[0])
        length = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(b"HTTP/1.1 400 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        at = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        litellm = await asyncio.to_thread(hosted._litellm)
        monkeypatch.setattr(litellm, "user_url_allowed_hosts", ["127.0.0.1", at.removeprefix("http://")])
        config = schema.Backend(name="x", kind="hosted", model=model, api_key=SecretStr("sk-secret"), base_url=at)
        backend = hosted.Hosted(config, schema.Timeouts())
        steering = dict.fromkeys(("api_base", "base_url", "endpoint", "proxy"), "http://127.0.0.1:9")
        for part in (
            {"type": "image_url", "image_url": {"url": f"{at}/cat.png"}},
            {"type": "file", "file": {"file_id": f"{at}/cat.pdf", "format": "application/pdf"}},
        ):
            body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}], **steering}
            with pytest.raises(UpstreamError):
                await backend.send(Call("chat/completions", body, stream=False))
        await backend.aclose()
    assert [line for line in reached if not line.startswith(b"POST ")] == []
