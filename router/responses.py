"""Responses in JSON, errors in OpenAI's shape."""

from __future__ import annotations

from decimal import Decimal

import orjson
from starlette.responses import Response

from router.errors import TierwiseError, to_openai


def json_response(content: object, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(content, default=_plain), status, media_type="application/json")


def error_response(error: TierwiseError) -> Response:
    """What a client is told of an error."""
    status, headers, body = to_openai(error)
    return Response(body, status, headers, "application/json")


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else float(value) if isinstance(value, Decimal) else str(value)
