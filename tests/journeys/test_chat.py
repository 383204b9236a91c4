"""What a user does with the real ``openai`` client, against the real server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.journeys.conftest import Running

HELLO: Any = [{"role": "user", "content": "Hello there!"}]


def test_a_plain_answer_comes_with_its_decision_and_cost(running: Running) -> None:
    raw = running.client().chat.completions.with_raw_response.create(model="auto", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    headers = raw.headers
    assert headers["x-tierwise-request-id"]
    assert headers["x-tierwise-tier"] in ("small", "large")
    assert headers["x-tierwise-backend"] == f"{headers['x-tierwise-tier']}-1"
    assert headers["x-tierwise-model"] == f"sim-{headers['x-tierwise-tier']}"
    assert headers["x-tierwise-attempts"] == "1"
    assert headers["x-tierwise-reason"]
    assert float(headers["x-tierwise-classify-ms"]) >= 0
    assert float(headers["x-tierwise-overhead-ms"]) > 0
    price = {"small": (0.10, 0.20), "large": (2.50, 10.00)}[headers["x-tierwise-tier"]]
    expected = (answer.usage.prompt_tokens * price[0] + answer.usage.completion_tokens * price[1]) / 1e6
    assert float(headers["x-tierwise-cost-usd"]) == pytest.approx(expected, rel=0.2, abs=2e-9)
    assert float(headers["x-tierwise-baseline-usd"]) > 0


@pytest.mark.parametrize("model", ["tier/small", "small-1", "gpt-4o-mini", "auto:cheap"])
def test_every_way_of_naming_a_model(running: Running, model: str) -> None:
    first_words: Any = [{"role": "user", "content": f"Hello {model}!"}]
    raw = running.client().chat.completions.with_raw_response.create(model=model, messages=first_words)
    assert raw.headers["x-tierwise-tier"] == "small"


def test_a_stream_arrives_in_pieces_and_hides_the_usage_nobody_asked_for(running: Running) -> None:
    chunks = list(running.client().chat.completions.create(model="tier/small", messages=HELLO, stream=True))
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 5
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_usage_and_cost_when_asked(running: Running) -> None:
    chunks = list(
        running.client().chat.completions.create(
            model="tier/small", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    usage = chunks[-1].usage
    assert usage is not None
    expected = (usage.prompt_tokens * 0.10 + usage.completion_tokens * 0.20) / 1e6
    assert usage.model_dump()["cost"] == pytest.approx(expected, rel=0.2, abs=2e-9)


@pytest.mark.anyio
async def test_the_async_client(running: Running) -> None:
    async with running.async_client() as client:
        stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_tools_survive_the_trip(running: Running, stream: bool) -> None:
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    client = running.client()
    if stream:
        deltas = [
            call
            for chunk in client.chat.completions.create(
                model="auto", messages=HELLO, tools=[TOOL], tool_choice=forced, stream=True
            )
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
        ]
        name = "".join(call.function.name or "" for call in deltas if call.function)
        arguments = "".join(call.function.arguments or "" for call in deltas if call.function)
    else:
        answer = client.chat.completions.create(model="auto", messages=HELLO, tools=[TOOL], tool_choice=forced)
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.type == "function"
        name, arguments = call.function.name, call.function.arguments
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city"}


def test_json_mode(running: Running) -> None:
    answer = running.client().chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "A colour, as JSON"}],
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_several_choices(running: Running) -> None:
    answer = running.client().chat.completions.create(model="tier/small", messages=HELLO, n=3)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]


def test_an_image_goes_where_images_are_understood(running: Running) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    raw = running.client().chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": content}]
    )
    assert raw.headers["x-tierwise-tier"] == "large"


def test_a_long_prompt_goes_where_it_fits(running: Running) -> None:
    raw = running.client().chat.completions.with_raw_response.create(
        model="auto:cheap", messages=[{"role": "user", "content": "the cat sat on the mat. " * 4000}]
    )
    assert raw.headers["x-tierwise-tier"] == "large"


def test_models_lists_every_name(running: Running) -> None:
    names = {model.id for model in running.client().models.list()}
    assert names == {"auto", "auto:cheap", "tier/small", "tier/large", "small-1", "large-1", "gpt-4o-mini"}


def test_route_decides_without_calling(running: Running) -> None:
    response = running.post("/v1/route", json={"model": "auto", "messages": HELLO})
    assert response.status_code == 200
    decision = response.json()
    assert decision["tier"] in ("small", "large")
    assert decision["steps"][0]["backend"] == f"{decision['tier']}-1"
    assert decision["reasons"]
    assert {estimate["tier"] for estimate in decision["estimates"]} == {"small", "large"}
    assert 0 <= decision["signals"]["complexity"] <= 1
    assert "Hello there!" not in response.text


def test_an_unknown_model_is_told_what_exists(running: Running) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        running.client().chat.completions.create(model="gpt-9", messages=HELLO)
    assert raised.value.code == "model_not_found"
    assert "tier/small" in raised.value.message


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "model"),
        (b'{"model": "auto"}', 400, "messages"),
        (b'{"model": "auto", "messages": []}', 400, "messages"),
        (b'{"model": "auto", "messages": "hi"}', 400, "messages"),
        (b'{"model": "auto", "messages": [1]}', 400, "messages[0]"),
        (b'{"model": "auto", "messages": [{"content": "x"}]}', 400, "messages[0].role"),
        (b'{"model": "auto", "messages": [{"role": "user", "content": 7}]}', 400, "messages[0].content"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', 400, "model"),
        (b'{"model": "auto", "stream": "yes", "messages": [{"role": "user", "content": "x"}]}', 400, "stream"),
        (b'{"model": "auto", "n": 0, "messages": [{"role": "user", "content": "x"}]}', 400, "n"),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "' + b"x" * 200_001 + b'"}]}', 413, None),
        (b'{"model": "auto", "messages": [{"role": "user", "content": ' + b"[" * 600 + b"]" * 600 + b"}]}", 400, None),
        (b"\xff\xfe", 400, None),
    ],
)
def test_bad_input_gets_a_clear_error(running: Running, body: bytes, status: int, param: str | None) -> None:
    response = running.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)]
)
def test_wrong_urls_answer_in_openais_shape(running: Running, method: str, path: str, status: int) -> None:
    response = httpx.request(method, f"{running.url}{path}")
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_health_readiness_and_metrics(running: Running) -> None:
    assert httpx.get(f"{running.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{running.url}/readyz").json()
    assert ready["ready"] is True
    assert ready["classifier"] == "full"
    assert ready["store"] == "ready"
    metrics = httpx.get(f"{running.url}/metrics").text
    assert "tierwise_requests_total" in metrics
    assert "gen_ai_server_request_duration_seconds_bucket" in metrics
