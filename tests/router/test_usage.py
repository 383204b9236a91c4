"""Usage as every server states it, and a look at any document at all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.values import Usage
from router import sse
from router.usage import KEPT_CHARACTERS, Look, Said, estimate, look, plain, usage_of


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (None, None),
        ({}, None),
        ("12", None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        ({"prompt_tokens": True, "completion_tokens": -1}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 7}, Usage(input_tokens=7)),
        ({"input_tokens": 7, "output_tokens": 2.0}, Usage(input_tokens=7, output_tokens=2)),
        (
            {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64},
             "completion_tokens_details": {"reasoning_tokens": 5}},
            Usage(input_tokens=100, cached_input_tokens=64, output_tokens=9, reasoning_tokens=5),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 9, "prompt_cache_hit_tokens": 80},
            Usage(input_tokens=100, cached_input_tokens=80, output_tokens=9),
        ),
        (
            {"input_tokens": 100, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 20, "output_tokens": 9},
            Usage(input_tokens=100, cached_input_tokens=30, cache_write_tokens=20, output_tokens=9),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(input_tokens=10, cached_input_tokens=10, output_tokens=1),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(10, output_tokens=1)),
    ],
)  # fmt: skip
def test_dialects_of_usage(stated: object, usage: Usage | None) -> None:
    assert usage_of(stated) == usage


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["choices", "usage", "delta", "message", "content", "tool_calls", "finish_reason", "index",
                         "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["choices", "usage", "id"]), JSON))
def test_a_look_never_fails(document: dict[str, Any]) -> None:
    seen = look(document)
    assert isinstance(seen.text, str)
    if seen.usage is not None:
        usage = seen.usage
        assert 0 <= usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("choice", "text", "content", "finished"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, "", False, 0),
        ({"delta": {"content": "abc"}}, "abc", True, 0),
        ({"delta": {"content": "无锁"}}, "无锁", True, 0),
        ({"delta": {"reasoning_content": "hmm"}}, "hmm", True, 0),
        ({"delta": {"refusal": "no"}}, "no", True, 0),
        ({"delta": {"tool_calls": [CALL]}}, 'f{"a": 1}', True, 0),
        ({"delta": {"audio": {"id": "a", "data": "UklGRg==", "transcript": "Hi"}}}, "Hi", True, 0),
        ({"delta": {"content": "a", "refusal": "b"}}, "ab", True, 0),
        ({"delta": {}, "finish_reason": "stop"}, "", True, 1),
        ({"text": "abc"}, "abc", True, 0),
        ({"message": {"content": "abc"}, "finish_reason": "length"}, "abc", True, 1),
        ({"message": {"content": [{"type": "text", "text": "abc"}]}}, "abc", True, 0),
    ],
)
def test_what_counts_as_content(choice: dict[str, Any], text: str, content: bool, finished: int) -> None:
    seen = look({"choices": [choice]})
    assert seen[:3] == (text, content, finished)


DELTAS = st.dictionaries(st.sampled_from(["content", "role", "refusal", "tool_calls"]), JSON, max_size=2)
CHOICES = st.dictionaries(st.sampled_from(["delta", "finish_reason", "index"]), JSON | DELTAS, max_size=3)
CHUNKS = st.dictionaries(
    st.sampled_from(["choices", "usage", "error"]), JSON | st.lists(CHOICES, max_size=2), min_size=1, max_size=2
)


@given(CHUNKS)
def test_what_is_plain_is_seen_as_a_look_sees_it(document: dict[str, Any]) -> None:
    text = plain(sse.event_of(document))
    assert not text or (look(document) == Look(text, content=True) and not document.get("error"))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("delta", [b'"content":"abc"', b'"role":"assistant","content":"abc","tool_calls":null'])
def test_a_chunk_of_text_is_plain(end: bytes, delta: bytes) -> None:
    chunk = b'{"choices":[{"index":0,"delta":{%b},"finish_reason":null}],"usage":null}' % delta
    assert plain(b"data: " + chunk + end) == "abc"


@pytest.mark.parametrize(
    "event",
    [
        b"data: [DONE]\n\n",
        b": ping\n\n",
        b'data: {"choices":[{"delta":{"content":"abc"}}]\n\n',
        b'data: {"choices":[{"delta":\ndata: {"content":"abc"}}]}\n\n',
        b'event: x\ndata: {"choices":[{"delta":{"content":"abc"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"abc"}}],"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"choices":[{"delta":{"content":"abc"}}],"error":{"message":"no"}}\n\n',
        b'data: {"choices":[{"delta":{"content":"abc"},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"abc","tool_calls":[{}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}\n\n',
    ],
)
def test_an_event_with_anything_else_is_not_plain(event: bytes) -> None:
    assert plain(event) == ""


def test_estimates_round_up_and_are_marked() -> None:
    assert estimate(10, Said("123456789")) == Usage(input_tokens=10, output_tokens=3, measured=False)
    assert estimate(10, Said("无锁")) == Usage(input_tokens=10, output_tokens=2, measured=False)
    assert estimate(10, None) == Usage(input_tokens=10, output_tokens=0, measured=False)


@given(st.lists(st.text(max_size=KEPT_CHARACTERS // 3) | st.integers(0, KEPT_CHARACTERS).map("x".__mul__), max_size=5))
def test_what_is_said_is_kept_up_to_a_bound_and_counted_beyond_it(texts: list[str]) -> None:
    said, whole = Said(), "".join(texts)
    for text in texts:
        said.add(text)
    assert said.text == whole[:KEPT_CHARACTERS]
    assert said.beyond == len(whole) - len(said.text)


def test_audio_hour_long_writes_and_the_service_tier_are_read_where_they_are_stated() -> None:
    stated = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"audio_tokens": 30, "cached_tokens": 10, "image_tokens": 20},
        "completion_tokens_details": {"audio_tokens": 40, "image_tokens": 5},
        "cache_creation": {"ephemeral_1h_input_tokens": 8},
    }
    found = look({"usage": stated, "choices": [], "service_tier": "flex"}).usage
    assert found is not None
    assert (found.audio_input_tokens, found.audio_output_tokens, found.cache_write_1h_tokens) == (30, 40, 8)
    assert (found.image_input_tokens, found.image_output_tokens) == (20, 5)
    assert found.service_tier == "flex"
    plain = look({"usage": {"prompt_tokens": 1}, "service_tier": None}).usage
    assert plain is not None
    assert plain.service_tier == ""
