"""Structural facts of a request, read off an OpenAI chat body without any model.

Everything here is total (odd content is skipped, never raised), linear in the body's size, and bounded: whatever a
client sends, classifiers read at most `MAX_TEXT` characters of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import orjson

from classifiers.defence import plain
from classifiers.language import detect
from policies.frozen import maker
from policies.values import Features

MAX_TEXT: Final = 6000
"""Characters of user text that are kept; a longer conversation keeps its newest turns."""

_EMPTY: Final[Mapping[str, str]] = {}
_features = maker(Features)
_NEEDS_NOTHING: Final[frozenset[str]] = frozenset()
_TEXT_PARTS: Final = ("text", "input_text")
_IMAGE_PARTS: Final = ("image_url", "input_image", "image")
_AUDIO_PARTS: Final = ("input_audio", "audio")
_SYSTEM: Final = ("system", "developer")
_TOOLS: Final = ("tool", "function")
_ASKING: Final = frozenset({"tools", "functions", "response_format", "modalities", "logprobs", "top_logprobs"})
"""Fields of a body by which a request can require something or send more than its messages; most have none."""


def extract(
    body: Mapping[str, object],
    *,
    key_id: str = "anonymous",
    allowed: tuple[str, ...] | None = None,
    keeps_text: bool = True,
    headers: Mapping[str, str] = _EMPTY,
    conversation: str = "",
) -> Features:
    """Read the facts off a validated chat body; unknown or misshapen fields count as absent.

    ``text`` holds what users wrote, in its `plain` form, oldest first, trimmed to `MAX_TEXT` characters with the newest
    turns kept; tool output, system text and the assistant's own words never enter it. ``input_tokens`` leans high (see
    `estimate_tokens`) and covers everything that would be sent, tools and schemas included. Without ``keeps_text`` no
    text is kept, and its language and code in it are not looked for.
    """
    user, system, parts = [], [], []
    calls, tokens = False, _FIRST_TOKENS
    for message in _list(body.get("messages")):
        if not isinstance(message, dict):
            continue
        role, content, count = message.get("role"), message.get("content"), estimate_tokens
        if role == "user":
            user.append(_text(content))
        elif role in _SYSTEM:
            system.append(_text(content))
            count = _system_tokens
        if type(content) is str and len(message) == 2 and role not in _TOOLS:
            tokens += _MESSAGE_TOKENS + count(content)
        else:
            tokens += _message_tokens(message, estimate_tokens)
            parts += _dicts(content)
            calls = calls or role in _TOOLS or bool(message.get("tool_calls"))
    asks = not _ASKING.isdisjoint(body)
    text = last = system_text = ""
    language, has_code = "und", False
    if keeps_text:
        last = plain(trim(user[-1], MAX_TEXT)) if user else ""
        text = _newest(user[:-1], last)
        system_text = trim("\n".join(s for s in system if s), MAX_TEXT)
        language, has_code = detect(last if len(last) > 20 else text), looks_like_code(text)
    stream, has_tools = body.get("stream") is True, asks and _has_tools(body)
    has_images = bool(parts) and any(part.get("type") in _IMAGE_PARTS for part in parts)
    # By place: names of more than fifteen are put into a dictionary, which takes longer than all the rest of it.
    return _features(
        _str(body.get("model")) or "auto",
        text,
        last,
        len(user[-1].strip()) if user else 0,
        system_text,
        len(user) or 1,
        tokens + _schema_tokens(body, estimate_tokens) if asks else tokens,
        _positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens")),
        _positive(body.get("n")) or 1,
        stream,
        language,
        has_code,
        has_tools,
        has_images,
        _requires(body, calls, parts) if asks or calls or parts else _NEEDS_NOTHING,
        conversation,
        key_id,
        headers,
        allowed,
    )


def from_text(text: str) -> Features:
    """The features of one bare prompt, as `extract` reads them from a body with a single user message."""
    return extract({"messages": [{"role": "user", "content": text}]})


def reading(features: Features) -> str:
    """What encoders read: the newest turn first, so that an encoder's own truncation drops the oldest words."""
    if features.turns <= 1 or features.text == features.last_text:
        return features.text
    earlier = features.text.removesuffix(features.last_text).rstrip()
    return f"{features.last_text}\n{earlier}"


def trim(text: str, limit: int) -> str:
    """At most ``limit`` characters: the first three quarters and the last quarter, where questions stand."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 1]}\n{text[-tail:]}"


def _newest(earlier: Sequence[str], last: str) -> str:
    """All turns, oldest first, as far back as there is room for: the last one, and the ones before it made plain."""
    kept = [last] if last else []
    room = MAX_TEXT - len(last) - 1 if last else MAX_TEXT
    for turn in reversed(earlier):
        if room <= 0:
            break
        piece = plain(trim(turn, room))
        if piece:
            kept.append(piece)
            room -= len(piece) + 1
    return "\n".join(reversed(kept))


def _has_tools(body: Mapping[str, object]) -> bool:
    return bool(_list(body.get("tools")) or _list(body.get("functions")))


def _requires(body: Mapping[str, object], calls: bool, parts: Sequence[Mapping[str, object]]) -> frozenset[str]:
    """What a body cannot do without; ``calls`` says whether tools are called or answer in it."""
    needs = set()
    if calls or (_has_tools(body) and body.get("tool_choice") != "none"):
        needs.add("tools")
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_object":
        needs.add("json_mode")
    elif kind == "json_schema":
        needs.add("json_schema")
    if any(p.get("type") in _IMAGE_PARTS for p in parts):
        needs.add("vision")
    if any(p.get("type") in _AUDIO_PARTS for p in parts) or "audio" in _list(body.get("modalities")):
        needs.add("audio")
    if body.get("logprobs") is True or _positive(body.get("top_logprobs")):
        needs.add("logprobs")
    return frozenset(needs)


# Tokens per UTF-8 byte by its class, fitted to lean above the byte-pair vocabularies of current models: letters and
# spaces four to a token, digits two, punctuation one and a half; Cyrillic, Arabic and their like about two characters
# to a token, Han, kana, Hangul and Indic scripts one, emoji half. Continuation bytes are free.
_LETTERS: Final = bytes([*range(65, 91), *range(97, 123), 32, 9, 10, 13])
_DIGITS: Final = b"0123456789"
_DIGITS_ALIKE: Final = bytes.maketrans(_DIGITS, b"0000000000")
_TOKEN_WEIGHTS: Final = np.zeros(256)
_TOKEN_WEIGHTS[:128] = 1 / 1.5
_TOKEN_WEIGHTS[[*_LETTERS]] = 1 / 4
_TOKEN_WEIGHTS[[*_DIGITS]] = 1 / 2
_TOKEN_WEIGHTS[0xC2:0xE0] = 0.6
_TOKEN_WEIGHTS[0xE0:0xF0] = 1.1
_TOKEN_WEIGHTS[0xF0:0xF5] = 2.0

_LONGEST_REMEMBERED: Final = 8 * 1024
_FIRST_TOKENS: Final = 3
_MESSAGE_TOKENS: Final = 4
_IMAGE_TOKENS: Final = 1105
_LOW_IMAGE_TOKENS: Final = 85
_BLOB_CHARS_PER_TOKEN: Final = 400
"""Base64 of audio and files: a second of 16 kHz speech is about 42,000 characters and 10 to 100 tokens."""


def estimate_tokens(text: str) -> int:
    """Estimated tokens of a text, leaning high, from byte classes alone: one linear pass, any script."""
    if text.isascii():
        raw = text.encode()
        # In twelfths of a token: 3 for a letter, 6 for a digit, 8 for anything else.
        beyond_letters = raw.translate(_DIGITS_ALIKE, _LETTERS)
        return -(-(3 * len(raw) + 5 * len(beyond_letters) - 2 * beyond_letters.count(b"0")) // 12)
    counts = np.bincount(np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8), minlength=256)
    return int(np.ceil(counts @ _TOKEN_WEIGHTS))


def _system_tokens(text: str) -> int:
    """The same of what an application tells a model with every request: remembered, unless it is very long."""
    return _remembered_tokens(text) if len(text) <= _LONGEST_REMEMBERED else estimate_tokens(text)


_remembered_tokens = lru_cache(256)(estimate_tokens)


def count_input(body: Mapping[str, object], count: Callable[[str], int]) -> int:
    """Tokens of everything that a chat body would send: of texts by ``count``, of images and audio as estimated."""
    messages = sum(_message_tokens(message, count) for message in _dicts(body.get("messages")))
    return _FIRST_TOKENS + messages + _schema_tokens(body, count)


def _message_tokens(message: Mapping[str, object], count: Callable[[str], int]) -> int:
    content = message.get("content")
    more = [value for name, value in message.items() if name not in ("content", "role")]
    said = count(content) if isinstance(content, str) else _content_tokens(content, count)
    return _MESSAGE_TOKENS + said + _json_tokens(more, count)


def _schema_tokens(body: Mapping[str, object], count: Callable[[str], int]) -> int:
    form = body.get("response_format")
    return _json_tokens([body.get("tools"), body.get("functions"), form if isinstance(form, dict) else None], count)


def _content_tokens(content: object, count: Callable[[str], int]) -> int:
    total = 0
    for part in _dicts(content):
        kind = part.get("type")
        if kind in _IMAGE_PARTS:
            image = part.get("image_url")
            detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
            total += _LOW_IMAGE_TOKENS if detail == "low" else _IMAGE_TOKENS
        elif kind in _AUDIO_PARTS or kind in ("file", "input_file"):
            total += sum(len(s) for s in _strings(part)) // _BLOB_CHARS_PER_TOKEN + 50
        else:
            total += count(_str(part.get("text")) or _str(part.get("refusal")))
    return total + sum(count(p) for p in _list(content) if isinstance(p, str))


def _json_tokens(values: Sequence[object], count: Callable[[str], int]) -> int:
    """Tokens of values as JSON: written and counted as a whole, however many they are made of."""
    given = [value for value in values if value is not None]
    if not given:
        return 0
    try:
        return count(orjson.dumps(given).decode())
    except orjson.JSONEncodeError:
        return sum(count(text) + 2 for text in _strings(given))


def _strings(value: object) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif item is not None:
            yield str(item)[:32]


def _dicts(values: object) -> list[Mapping[str, object]]:
    return [one for one in _list(values) if isinstance(one, dict)]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    found = []
    for part in _list(content):
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            found.append(_str(part.get("text")))
    return "\n".join(s for s in found if s)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


# Each alternative starts where a line does or at a literal, and none nests a repetition: linear on any input. A pattern
# that begins with a literal is found much sooner than others.
_WEAK_START: Final = r"return |if ?\(|for ?\(|while ?\(|else:?$|elif |end$|//|#[ \w]"
_CODE_LINE: Final = re.compile(
    r"\n[ \t]*(?:def \w+ ?\(|class \w+ ?[:({]|#include ?[<\"]|from [\w.]+ import |import [\w.]+(?: as \w+)?;?$"
    r"|(?:public|private|protected) (?:static |class |void |int )|(?:async )?function \w* ?\(|(?:const|let|var) \w+ ?="
    r"|func \w+ ?\(|fn \w+ ?[(<]|#!/|<\?php|<!DOCTYPE|SELECT [^\n]{1,200} FROM |INSERT INTO |CREATE TABLE "
    rf"|using [\w.]+;|Traceback \(most recent|\$ \w+ |@\w+\.\w+\(|({_WEAK_START}))",
    re.MULTILINE,
)
"""A line's beginning: in a group where it is only a weak sign of code."""
_CODE_INSIDE: Final = re.compile(
    r"</(?:div|p|span|html|script|body|td|a|li)>|\bconsole\.log\(|\bprint(?:f|ln)?\([\"'\w]|System\.out\.|\w\(\) ?\{"
)
_CALLS: Final = ("print", ".log(", "() {", "(){")
"""What there is of each alternative of `_CODE_INSIDE` that has a parenthesis."""
_WEAK_ENDS: Final = (";", "{", "}", ")")
_WEAK_CODE: Final = re.compile(rf"[;{{}}]$|^[ \t]*(?:{_WEAK_START})|\w\([^()\n]{{0,80}}\)$", re.MULTILINE)


def looks_like_code(text: str) -> bool:
    """Whether a text contains program code (not merely talks about it)."""
    head = "\n" + text[:MAX_TEXT]
    begins = _CODE_LINE.findall(head)
    if "```" in head or "" in begins:
        return True
    called = "(" in head and _holds(head, _CALLS)
    if (called or "</" in head or "System.out." in head) and _CODE_INSIDE.search(head):
        return True
    ends = [line for line in head.split("\n") if line.endswith(_WEAK_ENDS)] if _holds(head, _WEAK_ENDS) else []
    return len(begins) + len(ends) >= 3 and len(_WEAK_CODE.findall(head)) >= 3


def _holds(text: str, parts: Iterable[str]) -> bool:
    return any(map(text.__contains__, parts))
