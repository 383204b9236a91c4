"""What an answer says of itself: token usage, whether it has content, whether it is finished, whether it is an error.

A look at one event costs one `orjson.loads`, under a microsecond for a chunk of usual size, which is no more than
searching its bytes for the four things that matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from typing import Any, Final, NamedTuple

import orjson

from policies.frozen import maker
from policies.values import Usage

_usage = maker(Usage)

CHARACTERS_PER_TOKEN = 4
"""What a first estimate assumes; about right for English with today's tokenizers.

A character beyond ASCII counts as its bytes in UTF-8, which makes a Cyrillic letter half a token and a Chinese one
three quarters, about what they are. `router.ledger.counting` puts a tokenizer's count in its place.
"""

KEPT_CHARACTERS: Final = 65_536
"""How much of an answer's text is kept for counting: as long as answers get where nobody asks for longer ones."""

_SAID = frozenset(
    {"content", "reasoning_content", "reasoning", "refusal", "text", "tool_calls", "function_call", "audio", "images"}
)
_UNSAID = frozenset({"id", "type", "data", "b64_json", "url", "image_url", "signature", "format"})
"""What stands beside text in tool calls, audio and images, and is no text that a model wrote token by token."""
_MOST: Final = 10**12
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def usage_of(stated: object) -> Usage | None:
    """Read a ``usage`` object of OpenAI's, or of the dialects spoken by servers compatible with it.

    None where it is absent or states no token counts: a count of zero is a count, an absent one is not.
    """
    if not isinstance(stated, dict):
        return None
    taken, given = stated.get("prompt_tokens"), stated.get("completion_tokens")
    if not (type(taken) is type(given) is int and 0 <= taken < _MOST and 0 <= given < _MOST):
        taken = _count(stated, "prompt_tokens", "input_tokens")
        given = _count(stated, "completion_tokens", "output_tokens")
        if taken is None and given is None:
            return None
    if stated.keys() <= _PLAIN:
        return _usage(input_tokens=taken or 0, output_tokens=given or 0)
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


class Said:
    """What an answer has said: its ``text``, of which `KEPT_CHARACTERS` are kept, and how many are ``beyond``."""

    __slots__ = ("_room", "_text")

    def __init__(self, text: str = "") -> None:
        self._text = StringIO()
        self._room = KEPT_CHARACTERS
        self.add(text)

    def add(self, text: str) -> None:
        """Take what it says next."""
        room = self._room
        self._room = room - len(text)
        if room > 0:
            self._text.write(text if self._room >= 0 else text[:room])

    @property
    def beyond(self) -> int:
        """How many characters there are that are not kept."""
        return max(0, -self._room)

    @property
    def text(self) -> str:
        """What is kept."""
        return self._text.getvalue()


def estimate(input_tokens: int, said: Said | None) -> Usage:
    """A usage of our own, for an attempt whose backend reported none: marked as not measured."""
    size = 0 if said is None else len(said.text.encode(errors="replace")) + said.beyond
    return Usage(input_tokens=input_tokens, output_tokens=-(-size // CHARACTERS_PER_TOKEN), measured=False)


class Look(NamedTuple):
    """What one document of an answer, a whole body or one chunk, holds. (A tuple, because one is made for each chunk.)

    ``text`` is what was generated, names and arguments of tools and reasoning too, over all choices. ``finished``
    counts choices that state a finish reason. ``content`` says that there is something to read: text, a tool call, or
    an end. ``bare_usage`` is usage and no choices: the chunk that a client sees only if it asked for usage.
    """

    text: str = ""
    content: bool = False
    finished: int = 0
    usage: Usage | None = None
    bare_usage: bool = False


def look(document: Mapping[str, Any]) -> Look:
    """Look at one chunk, or at one whole answer. Never raises, whatever the document holds."""
    choices = document.get("choices")
    usage = usage_in(document) if document.get("usage") else None
    text, content, finished = "", False, 0
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                continue
            part = choice.get("delta") or choice.get("message") or choice
            if type(part) is dict:
                for name, value in part.items():
                    if value and name in _SAID:
                        content = True
                        said = value if type(value) is str else "".join(_texts(value))
                        text = text + said if text else said
            if choice.get("finish_reason"):
                finished += 1
    return Look(text, content or finished > 0, finished, usage, usage is not None and not choices)


def plain(event: bytes) -> str:
    """The text of an event that is a chunk of one choice's text and nothing else; empty for any other event.

    Nearly all events of a stream are such, and cost a third of a `look` this way. Never raises.
    """
    if not event.startswith(b"data: {"):
        return ""
    try:
        document = orjson.loads(event[6:])
        [choice] = document["choices"]
        delta = choice["delta"]
        text = delta["content"]
    except (ValueError, TypeError, KeyError):
        return ""
    more = choice.get("finish_reason") or document.get("usage") or document.get("error")
    if len(delta) > 1:
        more = more or any(value for name, value in delta.items() if name not in ("content", "role"))
    return "" if more or type(text) is not str else text


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in _UNSAID:
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _count(stated: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = stated.get(name)
        if (type(value) is int or type(value) is float) and 0 <= value < _MOST:
            return int(value)
    return None


def _details(stated: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = stated.get(name)
        if isinstance(value, Mapping):
            return value
    return {}
