"""Read what a request laid down and what an answer says, so that `policies.checks` can tell whether it will do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from classifiers.language import detect
from policies.checks import Answered, Asked
from router import sse


def asked_of(body: Mapping[str, Any]) -> Asked:
    """What a chat request's body lays down. Never raises."""
    form = _mapping(body.get("response_format"))
    schema = _mapping(form.get("json_schema")).get("schema")
    tools = {}
    for tool in _list(body.get("tools")):
        function = _mapping(_mapping(tool).get("function"))
        if isinstance(function.get("name"), str):
            tools[function["name"]] = _mapping(function.get("parameters"))
    return Asked(
        json=form.get("type") in ("json_object", "json_schema"),
        schema=schema if isinstance(schema, Mapping) else None,
        tools=tools,
        limited=bool(body.get("max_tokens") or body.get("max_completion_tokens")),
        language=detect(_question(body)),
    )


def _question(body: Mapping[str, Any]) -> str:
    """The text of the last message that is the user's."""
    asked = [message for message in map(_mapping, _list(body.get("messages"))) if message.get("role") == "user"]
    content = asked[-1].get("content") if asked else ""
    parts = [_text(_mapping(part).get("text")) for part in _list(content)]
    return _text(content) or " ".join(parts)


def answers_of(body: bytes) -> list[Answered]:
    """The choices of a whole answer. Never raises."""
    choices = _list(_mapping(orjson.loads(body)).get("choices"))
    return [_answered(_mapping(choice), _mapping(_mapping(choice).get("message"))) for choice in choices]


def answers_of_stream(body: bytes) -> list[Answered]:
    """The choices of an answer that came as a stream and has been held. Never raises."""
    parts: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
    for event in sse.Splitter(len(body)).feed(body):
        data = sse.data_of(event)
        if data is not None and data != b"[DONE]":
            for choice in _list(_mapping(orjson.loads(data)).get("choices")):
                parts[_mapping(choice).get("index")].append(_mapping(choice))
    return [_joined(chunks) for chunks in parts.values()]


def _joined(chunks: Sequence[Mapping[str, Any]]) -> Answered:
    """One choice out of its chunks, read as if it had come whole."""
    text, refusal, finish = "", "", None
    calls: dict[object, dict[str, str]] = defaultdict(lambda: {"name": "", "arguments": ""})
    tokens: list[Any] = []
    for chunk in chunks:
        delta = _mapping(chunk.get("delta"))
        text += _text(delta.get("content"))
        refusal += _text(delta.get("refusal"))
        finish = chunk.get("finish_reason") or finish
        tokens += _list(_mapping(chunk.get("logprobs")).get("content"))
        for call in map(_mapping, _list(delta.get("tool_calls"))):
            function = _mapping(call.get("function"))
            calls[call.get("index")]["name"] += _text(function.get("name"))
            calls[call.get("index")]["arguments"] += _text(function.get("arguments"))
    message = {"content": text, "refusal": refusal, "tool_calls": [{"function": call} for call in calls.values()]}
    return _answered({"finish_reason": finish, "logprobs": {"content": tokens}}, message)


def _answered(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Answered:
    functions = [_mapping(_mapping(call).get("function")) for call in _list(message.get("tool_calls"))]
    tokens = [_mapping(token).get("logprob") for token in _list(_mapping(choice.get("logprobs")).get("content"))]
    scores = [score for score in tokens if isinstance(score, int | float)]
    text = _text(message.get("content"))
    return Answered(
        text=text,
        calls=tuple((_text(function.get("name")), _text(function.get("arguments"))) for function in functions),
        finish_reason=_text(choice.get("finish_reason")),
        refused=bool(message.get("refusal")),
        mean_logprob=sum(scores) / len(scores) if scores else None,
        language=detect(text),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
