"""What every kind of backend promises, whichever way it speaks to its upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from policies import schema
from router import sse
from router.backends import Backend, Call, open_backend
from router.backends.simulated import Simulated
from router.errors import UpstreamError
from tests.faults.speech import DONE, ROLE, SAID, STOP, WORDS, answer, say, well
from tests.faults.upstream import Peer, Upstream

KINDS = ("openai", "vllm", "hosted", "simulated")
KEY = "sk-a-key-that-is-ours"
TIMEOUTS = schema.Timeouts()
QUICK = {"ttft": "1ms", "tokens_per_second": 5000}

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict class:UserWarning"),  # litellm's own, as is the next
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]


def config(kind: str, url: str | None, **more: Any) -> schema.Backend:
    """A backend of this kind whose upstream serves the model ``tiny`` at ``url``."""
    model = "openai/tiny" if kind == "hosted" else "tiny"
    stated = {"name": "b", "kind": kind, "model": model, "base_url": url, "api_key": KEY, "context_window": 400, **more}
    return schema.Backend.model_validate(stated)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def backend(kind: str) -> AsyncIterator[Backend]:
    """A backend of each kind, with a simulated model behind it."""
    simulated = Simulated(config("simulated", None, simulate=QUICK), TIMEOUTS)
    opened = simulated if kind == "simulated" else open_backend(config(kind, simulated.simulator.url), TIMEOUTS)
    yield opened
    await opened.aclose()
    if opened is not simulated:
        await simulated.aclose()


Told = Callable[..., Call]


def chat(stream: bool = False, **body: Any) -> Call:
    messages = [{"role": "user", "content": "Compare the rivers Rhine and Danube"}]
    return Call("chat/completions", {"model": "auto", "messages": messages, "stream": stream, **body}, stream)


async def whole(backend: Backend, **body: Any) -> dict[str, Any]:
    reply = await backend.send(chat(**body))
    document = orjson.loads(await reply.read())
    reply.close()
    assert isinstance(document, dict)
    return document


async def events(backend: Backend, **body: Any) -> list[dict[str, Any]]:
    reply = await backend.send(chat(stream=True, **body))
    assert reply.headers["content-type"].startswith("text/event-stream")
    splitter, found = sse.Splitter(), []
    async for data in reply.chunks():
        found += [sse.data_of(event) for event in splitter.feed(data)]
    reply.close()
    assert splitter.rest == b""
    assert found[-1] == b"[DONE]"
    return [orjson.loads(data) for data in found[:-1] if data is not None]


async def test_a_whole_answer(backend: Backend) -> None:
    answer = await whole(backend)
    [choice] = answer["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 0


async def test_a_stream_says_the_same_and_its_usage(backend: Backend) -> None:
    answer, chunks = await whole(backend), await events(backend)
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == answer["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]


async def test_a_forced_tool_call(backend: Backend) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    function = {"name": "forecast", "parameters": parameters}
    asked = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    [choice] = (await whole(backend, **asked))["choices"]
    called = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert (called["name"], set(orjson.loads(called["arguments"]))) == ("forecast", {"city", "days"})
    deltas = [c["delta"] for chunk in await events(backend, **asked) for c in chunk["choices"] if c.get("delta")]
    parts = [call["function"].get("arguments") or "" for delta in deltas for call in delta.get("tool_calls") or ()]
    assert "".join(parts) == called["arguments"]


async def test_json_that_fits_a_schema(backend: Backend) -> None:
    form = {"type": "object", "properties": {"river": {"enum": ["Rhine", "Danube"]}}, "required": ["river"]}
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    [choice] = (await whole(backend, response_format=asked))["choices"]
    assert orjson.loads(choice["message"]["content"])["river"] in ("Rhine", "Danube")


async def test_several_choices_and_a_length_limit(backend: Backend) -> None:
    choices = (await whole(backend, n=2, max_tokens=4))["choices"]
    assert [(choice["index"], choice["finish_reason"]) for choice in choices] == [(0, "length"), (1, "length")]


async def test_a_prompt_too_long_is_a_context_error(backend: Backend) -> None:
    messages = [{"role": "user", "content": "word " * 500}]
    with pytest.raises(UpstreamError) as caught:
        await backend.send(chat(messages=messages))
    assert (caught.value.kind, caught.value.status) == ("context", 400)
    assert "maximum context length" in caught.value.message


async def test_an_unknown_path_is_not_found(backend: Backend) -> None:
    with pytest.raises(UpstreamError) as caught:
        await backend.send(Call("no/such/path", {"model": "auto"}))
    assert caught.value.kind == "not_found"


async def test_embeddings(backend: Backend) -> None:
    reply = await backend.send(Call("embeddings", {"model": "auto", "input": ["a", "b"]}))
    assert len(orjson.loads(await reply.read())["data"]) == 2
    reply.close()


async def test_it_is_healthy_and_keeps_its_key_to_itself(backend: Backend) -> None:
    assert await backend.healthy()
    assert KEY not in repr(backend)
    assert KEY not in repr(backend.config)


async def _refuse(peer: Peer) -> None:
    await peer.whole(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}})


async def _limit(peer: Peer) -> None:
    await peer.whole(429, {"error": {"message": "slow down"}}, "retry-after: 7")


async def _fail(peer: Peer) -> None:
    await peer.whole(503, {"error": {"message": "warming up"}})


REAL = tuple(kind for kind in KINDS if kind != "simulated")


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize(
    ("behave", "kind", "status", "wait"),
    [(_refuse, "auth", 401, None), (_limit, "rate_limited", 429, 7.0), (_fail, "server_error", 503, None)],
)
async def test_failures_have_the_same_kind(real: str, behave: Any, kind: str, status: int, wait: float | None) -> None:
    async with Upstream(behave) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        try:
            with pytest.raises(UpstreamError) as caught:
                await backend.send(chat())
        finally:
            await backend.aclose()
    error = caught.value
    assert (error.kind, error.status, error.retry_after) == (kind, status, wait)
    assert KEY not in error.message
    assert len(upstream.requests) == 1, "a retry of its own"


@pytest.mark.parametrize("real", REAL)
async def test_a_refused_connection(real: str) -> None:
    backend = open_backend(config(real, "http://127.0.0.1:9/v1"), TIMEOUTS)
    with pytest.raises(UpstreamError) as caught:
        await backend.send(chat())
    assert caught.value.kind == "connect"
    assert real == "hosted" or not await backend.healthy()
    await backend.aclose()


@pytest.mark.parametrize("real", REAL)
async def test_the_body_goes_out_as_it_came_but_for_two_fields(real: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Grüße \u2028 🌍"}, image]}],
        "temperature": 0.1,
        "seed": 7,
        "logit_bias": {"50256": -100},
        "stop": ["\n\n"],
        "x_vendor": {"nested": [1, None, 2.5]},
    }
    async with Upstream(well) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        await events(backend, **body)
        await backend.aclose()
    [received] = upstream.requests
    assert received == {**body, "model": "tiny", "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("real", REAL)
async def test_large_integers_go_out_as_they_came(real: str) -> None:
    async with Upstream(well) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        sent: list[bytes] = []
        upstream.heard = sent.append
        reply = await backend.send(chat(x_vendor={"id": orjson.Fragment("12345678901234567890123")}))
        await reply.read()
        await backend.aclose()
    assert json.loads(sent[0])["x_vendor"] == {"id": 12345678901234567890123}


async def _no_usage(peer: Peer) -> None:
    unmeasured = {name: value for name, value in answer().items() if name != "usage"}
    await (say(peer, ROLE, *SAID, STOP, DONE) if peer.stream else peer.whole(200, unmeasured))


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("stream", [True, False])
async def test_usage_that_did_not_come_is_not_made_up(real: str, stream: bool) -> None:
    async with Upstream(_no_usage) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        reply = await backend.send(chat(stream=stream))
        data = b"".join([part async for part in reply.chunks()])
        reply.close()
        await backend.aclose()
    assert b"wide" in data
    assert b'"usage":{' not in data


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_cannot_steer_where_it_goes(real: str, stream: bool) -> None:
    steer = {"api_base": "http://127.0.0.1:9", "base_url": "http://127.0.0.1:9", "api_key": "x", "mock_response": "hi",
             "extra_headers": {"authorization": "x"}, "fallbacks": ["y"], "custom_llm_provider": "z"}  # fmt: skip
    async with Upstream(well) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        reply = await backend.send(chat(stream=stream, **steer))
        data = b"".join([part async for part in reply.chunks()])
        reply.close()
        await backend.aclose()
    assert len(upstream.requests) == 1
    assert WORDS[0].encode() in data


async def _slow(peer: Peer) -> None:
    if peer.stream:
        await peer.head()
        await peer.piece(b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"m","choices":'
                         b'[{"index":0,"delta":{"content":"Hello"}}]}\n\n')  # fmt: skip
    await peer.silence()


@pytest.mark.parametrize("real", REAL)
async def test_closing_a_stream_hangs_up(real: str) -> None:
    async with Upstream(_slow) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        reply = await backend.send(chat(stream=True))
        assert b"Hello" in await anext(aiter(reply.chunks()))
        reply.close()
        async with asyncio.timeout(2):
            await upstream.idle()
        assert upstream.abandoned == 1
        await backend.aclose()


@pytest.mark.parametrize("real", REAL)
async def test_cancelling_a_call_hangs_up(real: str) -> None:
    async with Upstream(_slow) as upstream:
        backend = open_backend(config(real, upstream.url), TIMEOUTS)
        call = asyncio.ensure_future(backend.send(chat()))
        async with asyncio.timeout(10):
            await upstream.busy()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(2):
            await upstream.idle()
        assert upstream.abandoned == 1
        await backend.aclose()
