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
from router.wire import ChatRequest, Client, key_id, read_chat

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


@given(st.lists(st.sampled_from(NUMBERS) | st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?", fullmatch=True)))
def test_no_number_is_altered_on_its_way(written: list[str]) -> None:
    told = ", ".join(written)
    raw = f'{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "x": {{"y": [{told}]}}}}'
    sent = json.loads(orjson.dumps(read(raw.encode()).body), parse_int=Decimal, parse_float=Decimal)["x"]["y"]
    for number, was in zip(sent, written, strict=True):
        assert number == Decimal(was) or (float(number) == float(was) and len(was) < 17)


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


def test_content_nested_past_reason_is_refused() -> None:
    nested = b"[" * 300 + b"]" * 300
    with pytest.raises(RequestError) as raised:
        read(b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "text", "x": ' + nested + b"}]}]}")
    assert raised.value.status == 400
