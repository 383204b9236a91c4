"""The wire: what is read, what is refused, and that nothing makes it fail otherwise."""

import contextlib
import hashlib
import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import RequestError
from router.keys import text_in
from router.wire import ChatRequest, Client, client_of, key_id, read_chat

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "tools",
    "response_format",
    "user",
    "logprobs",
    "x",
)


def known_by(headers: dict[str, str]) -> str:
    return key_id(text_in({name.encode(): value.encode() for name, value in headers.items()}))


def read(body: Any, headers: dict[str, str] | None = None) -> ChatRequest:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = headers or {}
    return read_chat(
        raw,
        headers,
        Client(known_by(headers)),
        seen=frozenset({"x-team"}),
        session_header="x-session-id",
        keeps_text=lambda model: True,
    )


def chat(*contents: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(contents)]
    return {"model": "auto", "messages": messages, **fields}


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_read_or_refused_with_a_field(body: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        assert read(body).body == body


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        read(raw)


def test_unknown_fields_travel_untouched() -> None:
    body = chat("hi", metadata={"a": [1, None]}, top_k=7)
    assert read(body).body == body


NUMBERS = ("12345678901234567890123", "-9223372036854775809", "0.10", "0.30000000000000004441", "1E5", "7", "1e-400")


PLACES = (
    '{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "x": {0}}}',
    '{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "stop": {0}}}',
    '{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "stream_options": {{"x": {0}}}}}',
    '{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "metadata": ["a", {{"x": {0}}}]}}',
    '{{"model": "auto", "messages": [{{"role": "user", "content": "hi", "x": {0}}}]}}',
    '{{"model": "auto", "messages": [{{"role": "user", "x": {0}}}]}}',
    '{{"model": "auto", "messages": [{{"role": "user", "content": [{{"type": "text", "text": "hi", "x": {0}}}]}}]}}',
)
WRONG = ('{{"model": "auto", "messages": [{{"role": "user", "content": {0}}}]}}', '{{"model": {0}}}', '{{"x": {0}}}')


@given(
    st.lists(st.sampled_from(NUMBERS) | st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?", fullmatch=True)),
    st.sampled_from(PLACES),
)
def test_no_number_is_altered_on_its_way(written: list[str], place: str) -> None:
    raw = place.format(f"[{', '.join(written)}]")
    sent, was = (_numbers(json.loads(text, parse_int=Decimal, parse_float=Decimal)) for text in (_sent(raw), raw))
    for number, told, text in zip(sent, was, written, strict=True):
        assert number == told or (float(number) == float(told) and len(text) < 17)


def _sent(raw: str) -> bytes:
    return orjson.dumps(read(raw.encode()).body)


def _numbers(value: Any) -> list[Decimal]:
    if isinstance(value, dict | list):
        return [number for one in (value.values() if isinstance(value, dict) else value) for number in _numbers(one)]
    return [value] if isinstance(value, Decimal) else []


def test_numbers_that_are_read_are_refused_or_doubles() -> None:
    large = b'"x": 12345678901234567890123, "messages": [{"role": "user", "content": "hi"}], "model": "auto"}'
    with pytest.raises(RequestError, match="'seed': expected an integer"):
        read(b'{"seed": 12345678901234567890123, ' + large)
    assert read(b'{"temperature": 0.70000000000000000001, ' + large).body["temperature"] == 0.7
    with pytest.raises(RequestError, match="infinity"):
        read(b'{"y": 1e400, ' + large)


def test_what_the_client_asked_of_the_stream() -> None:
    assert not read(chat("hi")).stream
    asked = read(chat("hi", stream=True, stream_options={"include_usage": True}))
    assert asked.stream
    assert asked.wants_usage
    assert not read(chat("hi", stream=True)).wants_usage


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer sk-secret"}, {"authorization": "bearer  sk-secret"}, {"x-api-key": "sk-secret"}],
)
def test_a_key_is_known_by_its_hash_alone(headers: dict[str, str]) -> None:
    assert known_by(headers) == f"key_{hashlib.sha256(b'sk-secret').hexdigest()[:16]}"
    assert "secret" not in known_by(headers)


@given(st.text(max_size=300))
def test_a_stranger_is_known_by_the_hash_of_its_key_however_long(key: str) -> None:
    assert client_of(None, key) == client_of(None, key) == Client(key_id(key))


def test_no_key_is_anonymous() -> None:
    assert known_by({}) == known_by({"authorization": "Basic abc"}) == "anonymous"


def test_only_headers_that_the_policy_reads_reach_the_features() -> None:
    request = read(chat("hi"), {"x-team": "blue", "cookie": "secret"})
    assert request.features.headers == {"x-team": "blue"}


def conversation(body: Any, headers: dict[str, str] | None = None) -> str:
    return read(body, headers).features.conversation


def test_a_conversation_is_known_by_its_opening() -> None:
    assert conversation(chat("hi")) == conversation(chat("hi", "hello", "and now?"))
    assert conversation(chat("hi")) != conversation(chat("ho"))
    assert conversation(chat("hi")) != conversation(chat("hi"), {"authorization": "Bearer other"})


def test_a_conversation_is_known_by_header_or_user_where_given() -> None:
    assert conversation(chat("hi"), {"x-session-id": "7"}) == conversation(chat("ho"), {"x-session-id": "7"})
    assert conversation(chat("hi", user="ann")) == conversation(chat("ho", user="ann"))
    assert conversation(chat("hi", user="ann")) != conversation(chat("hi", user="bob"))


def test_the_system_prompt_is_part_of_the_opening() -> None:
    system = {"role": "system", "content": "Be brief."}
    with_system = {"model": "auto", "messages": [system, {"role": "user", "content": "hi"}]}
    assert conversation(with_system) != conversation(chat("hi"))


@pytest.mark.parametrize("place", PLACES + WRONG)
def test_what_is_nested_past_reason_is_refused_as_such(place: str) -> None:
    with pytest.raises(RequestError, match="nested too deeply") as raised:
        read(place.format("[" * 300 + "]" * 300).encode())
    assert raised.value.status == 400


@pytest.mark.parametrize("place", PLACES)
def test_what_is_nested_within_reason_is_read(place: str) -> None:
    raw = place.format("[" * 200 + "]" * 200).encode()
    assert read(raw).body == orjson.loads(raw)


@pytest.mark.parametrize("more", [{}, {"metadata": {"a": 1}}, {"stop": "x"}, {"x": 1}])
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "user", "content": "hi"}, "hi"], "messages[1]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": 1, "content": "hi"}], "messages[0].role"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}, 1]}], "messages[0].content[1]"),
        ([{"role": "user", "content": "hi"}] * 10_001, "messages"),
        ([{"role": "user", "content": [{}] * 5_000}] * 2, "messages"),
    ],
)
def test_messages_are_checked_whatever_else_there_is(more: dict[str, Any], messages: list[Any], param: str) -> None:
    with pytest.raises(RequestError) as raised:
        read({"model": "auto", "messages": messages, **more})
    assert (raised.value.status, raised.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"), ({"messages": None}, "messages"), ({"model": "x" * 257}, "model"),
        ({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": True}, "n"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"), ({"stream": 1}, "stream"), ({"stop": 1}, "stop"),
        ({"stream_options": []}, "stream_options"), ({"temperature": "0"}, "temperature"), ({"user": 1}, "user"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_as_it_should_be_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as raised:
        read(chat("hi", **fields))
    assert (raised.value.status, raised.value.param) == (400, param)
    assert read(chat("hi", **dict.fromkeys(fields.keys() - {"model", "messages"})))
