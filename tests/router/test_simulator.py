"""The simulated model keeps the protocol's promises: repeatable, paced, priced by what it says, cached by prefix."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from policies.schema import Simulation
from router.backends.simulator import Simulator
from tests.waiting import eventually

QUICK = {"ttft": "0ms", "tokens_per_second": 100_000}


@pytest.fixture(scope="module")
def model() -> Iterator[httpx.Client]:
    simulator = Simulator("tiny", Simulation.model_validate(QUICK), context_window=500)
    simulator.start()
    with httpx.Client(base_url=simulator.url) as client:
        yield client
    simulator.stop()


def ask(model: httpx.Client, text: str = "Compare the rivers Rhine and Danube", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    response = model.post("/chat/completions", json={"model": "tiny", "messages": messages, **body})
    assert response.status_code == 200, response.text
    document = response.json()
    assert isinstance(document, dict)
    return document


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_the_same_request_gets_the_same_answer(model: httpx.Client) -> None:
    assert said(ask(model)) == said(ask(model))
    assert said(ask(model)) != said(ask(model, "Explain photosynthesis"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Write a Python function to sort names", "```python"), ("Solve 17 + 25 for me", "42"), ("Rhine?", "Rhine")],
)
def test_answers_take_up_the_prompt(model: httpx.Client, text: str, expected: str) -> None:
    assert expected in said(ask(model, text))


def test_choices_differ_and_limits_hold(model: httpx.Client) -> None:
    assert len({choice["message"]["content"] for choice in ask(model, n=3)["choices"]}) == 3
    answer = ask(model, n=3, max_completion_tokens=5)
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 15


def test_it_stops_where_it_is_told(model: httpx.Client) -> None:
    whole = said(ask(model))
    word = whole.split()[4]
    assert said(ask(model, stop=[word])) == whole.split(word)[0]


def test_a_repeated_prefix_is_cached(model: httpx.Client) -> None:
    first = {"role": "system", "content": "You are terse. " * 20}
    turns = [first, {"role": "user", "content": "one"}]
    fresh = model.post("/chat/completions", json={"model": "tiny", "messages": turns}).json()["usage"]
    turns.append({"role": "user", "content": "two"})
    again = model.post("/chat/completions", json={"model": "tiny", "messages": turns}).json()["usage"]
    assert fresh["prompt_tokens_details"]["cached_tokens"] == 0
    assert 0 < again["prompt_tokens_details"]["cached_tokens"] <= fresh["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "other", "messages": []}, 404, "model"),
        ({"model": "tiny", "messages": [{"role": "user", "content": "word " * 600}]}, 400, "messages"),
        ({"model": "tiny"}, 400, None),
        ({"model": "tiny", "messages": 7}, 400, None),
    ],
)
def test_it_refuses_as_openai_does(model: httpx.Client, body: dict[str, Any], status: int, param: str | None) -> None:
    response = model.post("/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_it_lists_its_model_with_its_window(model: httpx.Client) -> None:
    assert [(one["id"], one["max_model_len"]) for one in model.get("/models").json()["data"]] == [("tiny", 500)]


def test_legacy_completions(model: httpx.Client) -> None:
    response = model.post("/completions", json={"model": "tiny", "prompt": "The Rhine", "max_tokens": 4}).json()
    assert response["object"] == "text_completion"
    assert response["choices"][0]["text"]


def test_it_speaks_at_the_speed_it_is_given() -> None:
    slow = Simulation.model_validate({"ttft": "50ms", "tokens_per_second": 100, "output_tokens": 40})
    simulator = Simulator("slow", slow)
    simulator.start()
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}], "max_tokens": 10, "stream": True}
    begun = time.monotonic()
    with httpx.stream("POST", f"{simulator.url}/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    passed = time.monotonic() - begun
    simulator.stop()
    assert lines[-1] == "data: [DONE]"
    assert passed >= 0.05 + 9 / 100


SLOW = {"ttft": "60s", "tokens_per_second": 1}


def running(url: str) -> float:
    """How many requests the simulated engine says that it is working on."""
    page = httpx.get(f"{url.removesuffix('/v1')}/metrics").text
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:num_requests_running{"))


def asking(url: str, **body: Any) -> socket.socket:
    """A client that has asked and waits, as a bare socket that can hang up at any moment."""
    content = orjson.dumps({"model": "slow", "messages": [{"role": "user", "content": "x"}], **body})
    address = urlsplit(url)
    client = socket.create_connection((address.hostname, address.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    client.sendall(head.encode() + content)
    return client


@pytest.mark.parametrize("body", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_hangs_up_before_an_answer_ends_the_work(body: dict[str, Any]) -> None:
    simulator = Simulator("slow", Simulation.model_validate(SLOW))
    simulator.start()
    client = asking(simulator.url, **body)
    eventually(lambda: running(simulator.url) == 1)
    client.close()
    eventually(lambda: running(simulator.url) == 0, seconds=5)
    simulator.stop()


def test_a_client_that_hangs_up_in_a_stream_ends_the_work() -> None:
    simulator = Simulator("slow", Simulation.model_validate({**SLOW, "ttft": "1ms"}))
    simulator.start()
    client = asking(simulator.url, stream=True)
    assert b"200 OK" in client.recv(4096)
    eventually(lambda: running(simulator.url) == 1)
    client.close()
    eventually(lambda: running(simulator.url) == 0, seconds=5)
    simulator.stop()


def test_it_stops_at_once_and_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """With a client before its answer and one in its stream: both are told, nobody reads a traceback."""
    simulator = Simulator("slow", Simulation.model_validate(SLOW))
    quick = Simulator("slow", Simulation.model_validate({**SLOW, "ttft": "1ms"}))
    with caplog.at_level(logging.DEBUG):
        for each in (simulator, quick):
            each.start()
        waiting, reading = asking(simulator.url), asking(quick.url, stream=True)
        eventually(lambda: running(simulator.url) == running(quick.url) == 1)
        begun = time.monotonic()
        for each in (simulator, quick):
            each.stop()
        assert time.monotonic() - begun < 3
    with waiting, reading:
        assert waiting.recv(4096).startswith(b"HTTP/1.1 503")
        assert received(reading).endswith(b"0\r\n\r\n")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []


def received(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(4096):
        data += more
    return data


def test_it_leaves_other_servers_logs_alone(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn's loggers are the whole process's: the proxy's own server speaks through them too."""
    server = logging.getLogger("uvicorn.error")
    before = server.level, list(server.handlers), list(server.filters)
    simulator = Simulator("tiny", Simulation())
    simulator.start()
    httpx.get(f"{simulator.url}/models")
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        server.info("the proxy's own words")
    simulator.stop()
    assert "the proxy's own words" in caplog.text
    assert (server.level, server.handlers, server.filters) == before


def test_it_stops_while_someone_listens() -> None:
    simulator = Simulator("slow", Simulation.model_validate({"tokens_per_second": 1}))
    simulator.start()
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with httpx.stream("POST", f"{simulator.url}/chat/completions", json=body, timeout=5) as response:
        assert response.status_code == 200
        begun = time.monotonic()
        simulator.stop()
    assert time.monotonic() - begun < 4
