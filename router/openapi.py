"""What the HTTP surface accepts and answers, as an OpenAPI 3.1 document, served at ``/openapi.json``.

Of a chat request it states what Tierwise checks; every other field of OpenAI's goes on to the backend as it came.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

_JSON: Final = "application/json"
_NULL: Final = {"type": "null"}


def document() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tierwise",
            "version": version("tierwise"),
            "description": "A drop-in OpenAI base URL that answers each request with the cheapest model that will do.",
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": {"post": _chat("Answer a chat request", _answer())},
            "/v1/route": {"post": _chat("Decide where a chat request would go", _described("The decision"))},
            "/v1/feedback": {"post": _feedback()},
            "/v1/models": {"get": _read("Every name that model may take", _MODELS)},
            "/healthz": {"get": _read("Whether the process is alive", _STATUS, security=[])},
            "/readyz": {"get": _ready()},
            "/metrics": {"get": _operation("Metrics for Prometheus", _described("The metrics", "text/plain", _TEXT))},
            "/report": {"get": {**_read("The cost report", {"type": "object"}), "parameters": _WINDOW}},
            "/engines": {"get": _read("What each engine says of itself", {})},
            "/openapi.json": {"get": _read("This document", {"type": "object"}, security=[])},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "tierwise keys create"}},
            "schemas": {"Error": _ERROR, "ChatRequest": _CHAT_REQUEST, "Message": _MESSAGE},
        },
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, _NULL]}


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_POSITIVE: Final = {"type": "integer", "minimum": 1}
_OPTIONAL: Final[dict[str, dict[str, Any]]] = {
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object"},
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "max_tokens": _POSITIVE,
    "max_completion_tokens": _POSITIVE,
    "temperature": {"type": "number"},
    "top_p": {"type": "number"},
    "seed": {"type": "integer"},
    "logprobs": {"type": "boolean"},
    "tools": {"type": "array"},
    "response_format": {"type": "object"},
    "stop": {"anyOf": [_TEXT, {"type": "array"}]},
    "user": _TEXT,
}
_MESSAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": _TEXT,
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}, _NULL]},
    },
}
_CHAT_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {
            "type": "string",
            "maxLength": 256,
            "description": "auto, auto:OBJECTIVE, tier/NAME, a backend's name, or an alias",
            "examples": ["auto", "tier/small"],
        },
        "messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}},
        **{name: _or_null(schema) for name, schema in _OPTIONAL.items()},
    },
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _or_null(_TEXT),
                "code": _or_null(_TEXT),
            },
        }
    },
}
_STATUS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"const": "ok"}},
}
_READY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["ready", "policy", "classifier", "store"],
    "properties": {"ready": {"type": "boolean"}, "policy": _TEXT, "classifier": _TEXT, "store": _TEXT},
}
_MODELS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"type": "object", "required": ["id", "object", "created", "owned_by"]}},
    },
}
_FEEDBACK: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["request_id", "score"],
    "properties": {
        "request_id": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[ -~]+$"},
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "0 is wrong, 1 is right"},
    },
    "additionalProperties": False,
}
_WINDOW: Final = [
    {"name": name, "in": "query", "schema": _TEXT, "description": meaning}
    for name, meaning in {
        "since": "an ISO date or time, a duration back from now (24h, 7d), today, yesterday or month",
        "until": "the same; the window ends before it",
        "by": "tier, model, backend, domain, key, precision, hour or day; several with commas",
    }.items()
]


def _described(description: str, content_type: str = _JSON, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema or {"type": "object"}}}}


def _answer() -> dict[str, Any]:
    found = _described("The answer, in OpenAI's shape; as events where the request says stream")
    found["content"]["text/event-stream"] = {}
    return found


def _operation(summary: str, ok: dict[str, Any], **more: Any) -> dict[str, Any]:
    error = _described("What is wrong, in OpenAI's shape", schema={"$ref": "#/components/schemas/Error"})
    return {"summary": summary, "responses": {"200": ok, "default": error}, **more}


def _read(summary: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return _operation(summary, _described(summary, schema=schema), **more)


def _ready() -> dict[str, Any]:
    found = _read("Whether it takes requests, and how its parts are", _READY, security=[])
    found["responses"]["503"] = _described("It does not take requests now", schema=_READY)
    return found


def _chat(summary: str, ok: dict[str, Any]) -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}
    return _operation(summary, ok, requestBody={"required": True, "content": content})


def _feedback() -> dict[str, Any]:
    found = _operation("Say how right an answer was, for training", _STATUS)
    found["responses"]["202"] = _described("It will be in the journal", schema=_STATUS)
    del found["responses"]["200"]
    content = {_JSON: {"schema": _FEEDBACK}}
    return {**found, "requestBody": {"required": True, "content": content}}
