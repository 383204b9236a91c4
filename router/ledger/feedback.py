"""Feedback: what somebody who saw an answer says of it, from 0 (wrong) to 1 (right)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

ANYBODY: Final = "*"
"""The ``key_id`` of feedback that counts for every key's requests: an admin's, or anyone's where no key is required."""

LONGEST_ID: Final = 64


class FeedbackError(ValueError):
    """Feedback or a journal that cannot be used; the message says where, what was found, and what is expected."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A score, 0..1, of the answer to a request. It counts where the request was made with the key ``key_id``.

    ``at`` is Unix time in seconds; of two with the same request and key the later one stands.
    """

    request_id: str
    key_id: str
    at: float
    score: float


def read(body: bytes, key_id: str, at: float) -> Feedback:
    """The feedback in a JSON object ``{"request_id", "score"}``. Raises `FeedbackError`."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FeedbackError(f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise FeedbackError(f"expected a JSON object, found {type(value).__name__}")
    if unknown := sorted(value.keys() - {"request_id", "score"}):
        raise FeedbackError(f"unknown key {unknown[0]!r}; known: request_id, score")
    name, score = value.get("request_id"), value.get("score")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID or not name.isascii() or not name.isprintable():
        raise FeedbackError("'request_id' must be the x-tierwise-request-id of an answer")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise FeedbackError(f"'score' must be a number from 0 (wrong) to 1 (right), found {score!r}")
    return Feedback(name, key_id, at, float(score))
