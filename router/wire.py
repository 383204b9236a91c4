"""The wire: a client's bytes become a `ChatRequest`, or an error in OpenAI's shape that names the field.

Only what Tierwise reads is checked; every other field travels on untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any

import orjson

from classifiers.features import extract
from policies.frozen import maker, quick
from policies.values import Features
from router import numbers
from router.errors import RequestError

if TYPE_CHECKING:
    from router.keys import Key

_LONGEST_MODEL = 256
_LONGEST_REMEMBERED = 256
"""Characters of a key whose hash is remembered: some fifty are usual, and a head may hold 64 thousand."""

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


_FLAT = frozenset({str, bool, type(None)})
"""What is neither a number nor holds other values."""

NO_HEADERS: Mapping[str, str] = {}

_client, _chat_request = maker(Client), maker(ChatRequest)


def client_of(key: Key | None, text: str) -> Client:
    """Who brings a key with this text; ``key`` is None where it is not one of ours."""
    if key is not None:
        return _client(key.id, key.allowed)
    return _stranger(text) if len(text) <= _LONGEST_REMEMBERED else Client(key_id(text))


@lru_cache(1024)
def _stranger(text: str) -> Client:
    return Client(key_id(text))


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
    body = _parsed(raw)
    try:
        flat, texts = _check(body), _check_messages(body["messages"])
    except RequestError:
        _as_written(body, raw)  # what nests too deeply is told so, whatever else is wrong with it
        raise
    if not (flat and texts):
        body = _as_written(body, raw)
    options, session = body.get("stream_options"), headers.get(session_header, "") if headers else ""
    features = extract(
        body,
        key_id=client.id,
        allowed=client.allowed,
        keeps_text=keeps_text(body["model"]),
        headers={name: headers[name] for name in seen if name in headers} if headers else NO_HEADERS,
        conversation=_conversation(body, client.id, session),
    )
    asks_usage = options is not None and options.get("include_usage") is True
    return _chat_request(body, features.stream, asks_usage, features)


def _parsed(raw: bytes) -> dict[str, Any]:
    if len(raw) > _MOST_CONTAINERS and _containers(raw) > _MOST_CONTAINERS:
        raise RequestError(400, "body_too_complex", f"The body has over {_MOST_CONTAINERS:,} brackets and braces.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, "invalid_json", f"We could not parse the body as JSON: {error}.") from error
    if type(body) is not dict:
        raise RequestError(400, "invalid_type", "The body must be a JSON object.")
    return body


def _containers(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def _as_written(body: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """A body that can be written again as it was read; raises `RequestError` where it is nested too deeply for that."""
    if _containers(raw) > _DEEPEST:
        try:
            orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise RequestError(
                400, "invalid_json", f"The body is nested too deeply: {_DEEPEST} levels at most."
            ) from error
    if numbers.suspicious(raw):
        return {name: body[name] if name in _FIGURES else value for name, value in numbers.exact(raw).items()}
    return body


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field may be: these types, exactly, and where it is bounded, a number from ``least`` to ``most``.

    ``flat`` says that nothing in it has to be looked for any more: no deep nesting, and no number that is not read.
    """

    told: str
    types: tuple[type, ...]
    least: int | None = None
    most: float = inf
    flat: bool = True


_FIELDS: Mapping[str, _Field] = {
    "model": _Field("a string", (str,)),
    "messages": _Field("an array of messages", (list,)),
    "stream": _Field("a boolean", (bool,)),
    "stream_options": _Field("an object", (dict,), flat=False),
    "n": _Field("an integer from 1 to 128", (int,), 1, 128),
    "max_tokens": _Field("a positive integer", (int,), 1),
    "max_completion_tokens": _Field("a positive integer", (int,), 1),
    "temperature": _Field("a number", (int, float)),
    "top_p": _Field("a number", (int, float)),
    "seed": _Field("an integer", (int,)),
    "logprobs": _Field("a boolean", (bool,)),
    "tools": _Field("an array", (list,), flat=False),
    "response_format": _Field("an object", (dict,), flat=False),
    "stop": _Field("a string or an array", (str, list), flat=False),
    "user": _Field("a string", (str,)),
}


def _check(body: Mapping[str, Any]) -> bool:
    """Check a body's fields, messages by themselves aside; says whether all of them are flat (see `_Field`)."""
    model, messages = body.get("model"), body.get("messages")
    if model is None or messages is None:
        raise _missing("model" if model is None else "messages")
    flat = True
    for name, value in body.items():
        field = _FIELDS.get(name)
        if field is None:
            flat = flat and _is_flat(value)
        elif type(value) in field.types and (field.least is None or field.least <= value <= field.most):
            flat = flat and (field.flat or _is_flat(value))
        elif value is not None:
            raise _wrong_type(name, field.told, value)
    if len(model) > _LONGEST_MODEL:
        message = f"Invalid 'model': it is longer than {_LONGEST_MODEL} characters."
        raise RequestError(400, "string_above_max_length", message, "model")
    if not messages:
        raise RequestError(400, "empty_array", "Invalid 'messages': expected at least one message.", "messages")
    if len(messages) > _MOST_PARTS:
        raise _too_many()
    return flat


def _is_flat(value: object) -> bool:
    if type(value) is dict:
        return _FLAT.issuperset(map(type, value.values()))
    return _FLAT.issuperset(map(type, value)) if type(value) is list else type(value) in _FLAT


def _check_messages(messages: Sequence[Any]) -> bool:
    """Check each message; says whether each is a role and a text and nothing else."""
    texts, parts = 0, len(messages)
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise _wrong_type(f"messages[{index}]", "an object", message)
        if type(message.get("role")) is not str:
            raise _missing(f"messages[{index}].role")
        content = message.get("content")
        if type(content) is str and len(message) == 2:
            texts += 1
        else:
            parts += _check_content(index, content)
            if parts > _MOST_PARTS:
                raise _too_many()
    return texts == len(messages)


def _check_content(place: int, content: object) -> int:
    """Check what a message says; returns how many parts it has."""
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
}


def _too_many() -> RequestError:
    message = f"Invalid 'messages': over {_MOST_PARTS:,} messages and parts of messages."
    return RequestError(400, "array_above_max_length", message, "messages")


def _missing(field: str) -> RequestError:
    return RequestError(400, "missing_required_parameter", f"Missing required parameter: '{field}'.", field)


def _wrong_type(field: str, expected: str, value: object) -> RequestError:
    found = _JSON_TYPES.get(type(value), "null")
    return RequestError(
        400, "invalid_type", f"Invalid type for '{field}': expected {expected}, but got {found}.", field
    )


def _conversation(body: Mapping[str, Any], key: str, session: str) -> str:
    """What names the conversation: the session header, else ``user``, else the system prompt with the first message.

    The client's key is part of it, so that two clients with the same opening never share a session.
    """
    named = session or body.get("user")
    said = [True, named] if named else _opening(body["messages"])
    # No text in UTF-8 has such a byte, so that no two openings are joined into the same.
    texts = [one.encode() if type(one) is str else orjson.dumps(one) + b"\xfe" for one in (key, *said)]
    return hashlib.sha256(b"\xff".join(texts)).hexdigest()[:24]


def _opening(messages: Sequence[Mapping[str, object]]) -> list[object]:
    """What is said up to the first message of a user; the first message where there is none."""
    said: list[object] = []
    for message in messages:
        said.append(message.get("content"))
        if message["role"] == "user":
            return said
    return said[:1]
