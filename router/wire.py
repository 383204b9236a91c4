"""The wire: a client's bytes become a `ChatRequest`, or an error in OpenAI's shape that names the field.

Only what Tierwise reads is checked; every other field travels on untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import orjson

from classifiers.features import extract
from policies.frozen import maker, quick
from policies.values import Features
from router import numbers
from router.errors import RequestError

_LONGEST_MODEL = 256
_MOST_PARTS = 10_000
_MOST_CONTAINERS = 1_000_000
"""Arrays and objects in a body: each takes some 60 bytes and its share of an event loop's time, if it is but ``[]``."""

_DEEPEST = 250
"""Levels of nesting that can be written again as well as read."""


_FIGURES = frozenset({"n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"})
"""Numbers that are read here; those that a 64-bit integer or a double does not hold are refused or rounded."""


@quick
@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the public id of the key, and what it may use (None: everything)."""

    id: str
    allowed: tuple[str, ...] | None = None


@quick
@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked ``/v1/chat/completions`` body, as it came, and the facts read off it."""

    body: Mapping[str, object]
    stream: bool
    wants_usage: bool
    features: Features


client_of = maker(Client)
_chat_request = maker(ChatRequest)


def key_id(key: str) -> str:
    """What a key that is not one of ours is known by: a hash, so that no entry or log can give it away."""
    return f"key_{hashlib.sha256(key.encode()).hexdigest()[:16]}" if key else "anonymous"


def read_chat(
    raw: bytes,
    headers: Mapping[str, str],
    client: Client,
    *,
    seen: frozenset[str],
    session_header: str,
    keeps_text: Callable[[str], bool],
) -> ChatRequest:
    """Check a chat body and read its features.

    ``headers`` are those that may steer, by lower-case name; only those in ``seen`` reach the features.
    ``keeps_text`` says whether the text matters where ``model`` is this. Raises `RequestError` (400) that names the
    field.
    """
    body = _object(raw)
    _check(body)
    stream_options = body.get("stream_options")
    return _chat_request(
        body=body,
        stream=body.get("stream") is True,
        wants_usage=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        features=extract(
            body,
            key_id=client.id,
            allowed=client.allowed,
            keeps_text=keeps_text(str(body["model"])),
            headers={name: headers[name] for name in seen if name in headers},
            conversation=_conversation(body, client.id, headers.get(session_header, "")),
        ),
    )


def _object(raw: bytes) -> dict[str, object]:
    containers = raw.count(b"[") + raw.count(b"{")
    if containers > _MOST_CONTAINERS:
        raise RequestError(400, "body_too_complex", f"The body has over {_MOST_CONTAINERS:,} brackets and braces.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, "invalid_json", f"We could not parse the body as JSON: {error}.") from error
    if not isinstance(body, dict):
        raise RequestError(400, "invalid_type", "The body must be a JSON object.")
    if containers > _DEEPEST:
        try:
            orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise RequestError(
                400, "invalid_json", f"The body is nested too deeply: {_DEEPEST} levels at most."
            ) from error
    if numbers.suspicious(raw):
        return {name: body[name] if name in _FIGURES else value for name, value in numbers.exact(raw).items()}
    return body


class _Field(NamedTuple):
    """What a field may be: these types, exactly, and a number within these bounds."""

    told: str
    types: tuple[type, ...]
    least: float = -inf
    most: float = inf


_FIELDS: Mapping[str, _Field] = {
    "model": _Field("a string", (str,)),
    "messages": _Field("an array of messages", (list,)),
    "stream": _Field("a boolean", (bool,)),
    "stream_options": _Field("an object", (dict,)),
    "n": _Field("an integer from 1 to 128", (int,), 1, 128),
    "max_tokens": _Field("a positive integer", (int,), 1),
    "max_completion_tokens": _Field("a positive integer", (int,), 1),
    "temperature": _Field("a number", (int, float)),
    "top_p": _Field("a number", (int, float)),
    "seed": _Field("an integer", (int,)),
    "logprobs": _Field("a boolean", (bool,)),
    "tools": _Field("an array", (list,)),
    "response_format": _Field("an object", (dict,)),
    "stop": _Field("a string or an array", (str, list)),
    "user": _Field("a string", (str,)),
}


def _check(body: Mapping[str, object]) -> None:
    for name in ("model", "messages"):
        if body.get(name) is None:
            raise _missing(name)
    for name, value in body.items():
        field = _FIELDS.get(name)
        if field is None or value is None:
            continue
        bounded = type(value) not in (int, float) or field.least <= value <= field.most  # type: ignore[operator]
        if type(value) not in field.types or not bounded:
            raise _wrong_type(name, field.told, value)
    model, messages = body["model"], body["messages"]
    assert isinstance(model, str)
    assert isinstance(messages, list)
    if len(model) > _LONGEST_MODEL:
        message = f"Invalid 'model': it is longer than {_LONGEST_MODEL} characters."
        raise RequestError(400, "string_above_max_length", message, "model")
    if not messages:
        raise RequestError(400, "empty_array", "Invalid 'messages': expected at least one message.", "messages")
    parts = len(messages)
    for index, message in enumerate(messages):
        parts += _check_message(index, message) if parts <= _MOST_PARTS else 0
    if parts > _MOST_PARTS:
        message = f"Invalid 'messages': over {_MOST_PARTS:,} messages and parts of messages."
        raise RequestError(400, "array_above_max_length", message, "messages")


def _check_message(place: int, message: object) -> int:
    """Check a message; returns how many parts its content has."""
    if type(message) is not dict:
        raise _wrong_type(f"messages[{place}]", "an object", message)
    if type(message.get("role")) is not str:
        raise _missing(f"messages[{place}].role")
    content = message.get("content")
    if content is None or type(content) is str:
        return 0
    if type(content) is not list:
        raise _wrong_type(f"messages[{place}].content", "a string or an array of content parts", content)
    for index, part in enumerate(content):
        if type(part) is not dict:
            raise _wrong_type(f"messages[{place}].content[{index}]", "an object", part)
    return len(content)


_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    orjson.Fragment: "a number",
}


def _missing(field: str) -> RequestError:
    return RequestError(400, "missing_required_parameter", f"Missing required parameter: '{field}'.", field)


def _wrong_type(field: str, expected: str, value: object) -> RequestError:
    found = _JSON_TYPES.get(type(value), "null")
    return RequestError(
        400, "invalid_type", f"Invalid type for '{field}': expected {expected}, but got {found}.", field
    )


def _conversation(body: Mapping[str, object], key: str, session: str) -> str:
    """What names the conversation: the session header, else ``user``, else the system prompt with the first message.

    The client's key is part of it, so that two clients with the same opening never share a session.
    """
    if session or body.get("user"):
        opening = orjson.dumps(["named", session or body["user"]])
    else:
        opening = orjson.dumps(_opening(body["messages"]))  # type: ignore[arg-type]
    return hashlib.blake2b(key.encode() + b"\0" + opening, digest_size=12).hexdigest()


def _opening(messages: Sequence[Mapping[str, object]]) -> list[object]:
    """What is said up to the first message of a user; the first message where there is none."""
    said: list[object] = []
    for message in messages:
        said.append(message.get("content"))
        if message.get("role") == "user":
            return said
    return said[:1]
