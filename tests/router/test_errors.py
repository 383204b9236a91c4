"""What a client is told of a failure: the right status, OpenAI's shape, and never a key."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.values import Attempt
from router.errors import (
    Exhausted,
    RequestError,
    TierwiseError,
    UpstreamError,
    classify,
    from_response,
    in_body,
    keep_secret,
    redact,
    to_openai,
)

CONTEXT = [
    "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
    "prompt is too long: 215000 tokens > 200000 maximum",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "the request exceeds the available context size, try increasing it",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Input is too long for requested model.",
    "too many tokens: the total number of tokens in the prompt cannot exceed 4081",
    "Please reduce the length of the messages or completion.",
    "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
    "prompt length (3000) should not exceed max_num_tokens (2048)",
    "input length exceeds maximum context length",
]


@pytest.mark.parametrize("message", CONTEXT)
def test_every_provider_says_context_in_its_own_words(message: str) -> None:
    assert classify(400, None, message) == "context"


@pytest.mark.parametrize(
    "message", ["temperature must be at most 2", "max_tokens is too large", "unknown field 'foo'", "Invalid image URL"]
)
def test_other_refusals_are_not_about_context(message: str) -> None:
    assert classify(400, None, message) == "bad_request"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, "context_length_exceeded", "context"), (401, None, "auth"), (402, None, "auth"), (403, None, "auth"),
     (404, None, "not_found"), (408, None, "timeout"), (409, None, "server_error"), (413, None, "bad_request"),
     (418, None, "bad_request"), (422, None, "bad_request"), (425, None, "rate_limited"), (429, None, "rate_limited"),
     (429, "insufficient_quota", "auth"), (500, None, "server_error"), (503, None, "server_error"),
     (529, None, "server_error"), (302, None, "malformed"), (204, None, "malformed")],
)  # fmt: skip
def test_kinds_by_status(status: int, code: str | None, kind: str) -> None:
    assert classify(status, code, "") == kind


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError(404, "model_not_found", "no such model", "model"), 404, "model_not_found"),
        (UpstreamError("bad_request", "no", status=422, code="x"), 422, "x"),
        (UpstreamError("context", "long", status=400), 400, "upstream_context"),
        (UpstreamError("auth", "no", status=401), 502, "upstream_auth"),
        (UpstreamError("rate_limited", "slow", status=429), 429, "upstream_rate_limited"),
        (UpstreamError("full", "full"), 429, "upstream_full"),
        (UpstreamError("timeout", "slow"), 504, "upstream_timeout"),
        (UpstreamError("cooling", "rests"), 503, "upstream_cooling"),
        (UpstreamError("server_error", "no", status=503), 503, "upstream_server_error"),
        (UpstreamError("reset", "no"), 502, "upstream_reset"),
        (TierwiseError("secret detail"), 500, "internal_error"),
    ],
)
def test_what_the_client_gets(error: TierwiseError, status: int, code: str) -> None:
    got, _, body = to_openai(error)
    told = orjson.loads(body)["error"]
    assert (got, told["code"]) == (status, code)
    assert set(told) == {"message", "type", "param", "code"}
    assert "secret detail" not in told["message"]


def test_a_wait_is_told_in_whole_seconds_and_never_too_short() -> None:
    error = Exhausted((Attempt("b", "t", "m", "rejected"),), UpstreamError("full", "full", retry_after=1.2))
    assert to_openai(error)[1] == {"retry-after": "2"}


@pytest.mark.parametrize(
    "text",
    ["Bearer abcdef", "Incorrect API key provided: s3cr3tvalue.", "sk-proj-abcdefghijkl", "key=abcdef123456&x=1",
     "AIzaSyA1234567890abcdef", "hf_abcdefghijklmnop", "https://user:pa55word@host/v1", "gsk_abcdefghijkl",
     "token eyJhbGciOiJI.eyJzdWIiOiIx.sig", "our-own-secret is wrong"],
)  # fmt: skip
def test_keys_are_taken_out(text: str) -> None:
    told = redact(f"failed with {text}", ["our-own-secret"])
    assert "[redacted]" in told
    for secret in ("abcdef", "s3cr3tvalue", "abcdefghijkl", "AIzaSy", "pa55word", "eyJzdWIiOiIx", "our-own-secret"):
        assert secret not in told


@given(st.text(st.characters(), max_size=300))
def test_no_control_character_survives(text: str) -> None:
    told = redact(text)
    assert all(ord(character) >= 32 for character in told)
    assert orjson.dumps(told)


@given(st.binary(max_size=200), st.integers(100, 599))
def test_any_error_body_becomes_an_error(body: bytes, status: int) -> None:
    error = from_response(status, body, secrets=["hunter2hunter2"])
    assert error.message
    assert "hunter2hunter2" not in error.message


KEYS = st.sampled_from(["message", "code", "type", "param", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)


@given(JSON)
def test_any_error_in_a_body_becomes_an_error(error: object) -> None:
    found = in_body(error)
    status, _, body = to_openai(found)
    assert 400 <= status < 600
    assert orjson.loads(body)["error"]["message"]


def test_secrets_that_the_process_knows_are_told_in_no_form() -> None:
    keep_secret('pa"ss/wörd')
    for form in ('pa"ss/wörd', 'pa\\"ss/wörd', "pa%22ss/w%C3%B6rd", "pa%22ss%2Fw%C3%B6rd"):
        error = in_body({"message": f"no: {form}", "code": form})
        assert (error.message, error.code) == ("no: [redacted]", "[redacted]")


def test_tracebacks_are_not_passed_on() -> None:
    told = "boom Traceback (most recent call last):\n  File '/srv/app/secret.py', line 1"
    assert redact(told) == "boom"
