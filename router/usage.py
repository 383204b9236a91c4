"""What an answer says of itself: token usage, whether it has content, whether it is finished, whether it is an error.

A look at one event costs one `orjson.loads`, under a microsecond for a chunk of usual size, which is no more than
searching its bytes for the four things that matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from policies.values import Usage

CHARACTERS_PER_TOKEN = 4
"""What an estimate assumes where a backend reports no usage; about right for English with today's tokenizers.

A character beyond ASCII counts as its bytes in UTF-8, which makes a Cyrillic letter half a token and a Chinese one
three quarters, about what they are.
"""

_SAID = frozenset(
    {"content", "reasoning_content", "reasoning", "refusal", "text", "tool_calls", "function_call", "audio", "images"}
)
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def usage_of(stated: object) -> Usage | None:
    """Read a ``usage`` object of OpenAI's, or of the dialects spoken by servers compatible with it.

    None where it is absent or states no token counts: a count of zero is a count, an absent one is not.
    """
    if not isinstance(stated, Mapping):
        return None
    taken = _count(stated, "prompt_tokens", "input_tokens")
    given = _count(stated, "completion_tokens", "output_tokens")
    if taken is None and given is None:
        return None
    if stated.keys() <= _PLAIN:
        return Usage(input_tokens=taken or 0, output_tokens=given or 0)
    prompt = _details(stated, "prompt_tokens_details", "input_tokens_details")
    completion = _details(stated, "completion_tokens_details", "output_tokens_details")
    total_in, total_out = taken or 0, given or 0
    cached = _count(prompt, "cached_tokens") or _count(stated, "prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = _count(prompt, "cache_write_tokens", "cache_creation_tokens")
    written = written or _count(stated, "cache_creation_input_tokens") or 0
    cached = min(cached or 0, total_in)
    return Usage(
        input_tokens=total_in,
        cached_input_tokens=cached,
        cache_write_tokens=min(written, total_in - cached),
        output_tokens=total_out,
        reasoning_tokens=min(_count(completion, "reasoning_tokens") or 0, total_out),
        cache_write_1h_tokens=_count(_details(stated, "cache_creation"), "ephemeral_1h_input_tokens") or 0,
        audio_input_tokens=_count(prompt, "audio_tokens") or 0,
        audio_output_tokens=_count(completion, "audio_tokens") or 0,
        image_input_tokens=_count(prompt, "image_tokens") or 0,
        image_output_tokens=_count(completion, "image_tokens") or 0,
    )


def usage_in(document: Mapping[str, Any]) -> Usage | None:
    """The usage that a document of an answer states, with the service tier that it was served as."""
    stated = document.get("usage")
    usage = usage_of(stated) if stated else None
    if usage is not None and type(served_as := document.get("service_tier")) is str:
        usage = replace(usage, service_tier=served_as)
    return usage


def estimate(input_tokens: int, characters: int) -> Usage:
    """A usage of our own, for an attempt whose backend reported none: marked as not measured."""
    return Usage(input_tokens=input_tokens, output_tokens=-(-characters // CHARACTERS_PER_TOKEN), measured=False)


def input_estimate(body: Mapping[str, Any]) -> int:
    """Tokens of a request's text, four characters each, three more per message; images and audio are not counted."""
    messages = body.get("messages")
    count = 3 * len(messages) if isinstance(messages, list) else 0
    given = (body.get(name) for name in ("messages", "prompt", "input", "instructions", "system", "tools"))
    return count + -(-sum(map(_length, given)) // CHARACTERS_PER_TOKEN)


class Look(NamedTuple):
    """What one document of an answer, a whole body or one chunk, holds. (A tuple, because one is made for each chunk.)

    ``characters`` of generated text (tool arguments and reasoning too) over all choices, those beyond ASCII by their
    bytes. ``finished`` counts choices that state a finish reason. ``content`` says that there is something to read:
    text, a tool call, or an end. ``bare_usage`` is usage and no choices: the chunk that a client sees only if it asked
    for usage.
    """

    characters: int = 0
    content: bool = False
    finished: int = 0
    usage: Usage | None = None
    bare_usage: bool = False


def look(document: Mapping[str, Any]) -> Look:
    """Look at one chunk, or at one whole answer. Never raises, whatever the document holds."""
    choices = document.get("choices")
    usage = usage_in(document) if document.get("usage") else None
    characters, content, finished = 0, False, 0
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                continue
            part = choice.get("delta") or choice.get("message") or choice
            if type(part) is dict:
                for name, value in part.items():
                    if value and name in _SAID:
                        content = True
                        characters += len(value) if type(value) is str and value.isascii() else _length(value)
            if choice.get("finish_reason"):
                finished += 1
    return Look(characters, content or finished > 0, finished, usage, usage is not None and not choices)


def _length(value: object) -> int:
    if isinstance(value, str):
        return 0 if value.startswith("data:") else len(value if value.isascii() else value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(map(_length, value.values()))
    return sum(map(_length, value)) if isinstance(value, list) else 0


def _count(stated: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = stated.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**12:
            return int(value)
    return None


def _details(stated: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = stated.get(name)
        if isinstance(value, Mapping):
            return value
    return {}
