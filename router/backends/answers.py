"""What a simulated model says: text that takes up the prompt's words, a tool call, or JSON that fits the schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

_WORD = re.compile(r"[^\W\d_]{4,}")
_NUMBER = re.compile(r"\d+")
_CODE = re.compile(r"(?i)\b(?:code|function|class|python|rust|java|javascript|sql|regex|bug|def|compile|api)\b")
_MATHS = re.compile(r"(?i)\b(?:solve|prove|integral|equation|sum|how many|calculate|percent)\b|\d\s*[-+*/=]\s*\d")

_PROSE = (
    "The short answer is that {a} depends on {b}, and most of the difference comes from how {c} is handled.",
    "It helps to separate {a} from {b}: the first can be checked directly, the second only in context.",
    "In practice people start with {a}, notice where {b} falls short, and then look again at {c}.",
    "A common mistake is to treat {b} as if it were {a}; the two agree in easy cases and part ways in hard ones.",
    "If {c} matters most to you, begin there, and let {a} follow from it.",
    "There is one exception: when {a} is small, {b} hardly changes anything.",
)
_PROGRAM = (
    "Here is a version that handles {a} and {b}:\n\n```python\ndef {a}(items):\n    seen = set()\n"
    "    for item in items:\n        if item not in seen:\n            seen.add(item)\n            yield item\n```",
    "It keeps the order of {b}, runs in linear time, and needs memory for each distinct item.",
    "To test it, pass a list with {a} repeated and compare with the expected {c}.",
)
_WORKING = (
    "Let x stand for {a}. From the statement, x is bound by {n} and {m}.",
    "Adding both sides gives {n} + {m} = {s}, which settles {b}.",
    "So the answer is {s}; putting it back into {c} confirms it.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice: its text as tokens, why it ended, and the function it calls; the tokens are then its arguments."""

    pieces: tuple[str, ...]
    finish_reason: str
    calls: str | None = None
    logprobs: bool = False

    def whole(self, index: int, chat: bool) -> dict[str, Any]:
        """The choice as it stands in a whole answer."""
        text = "".join(self.pieces)
        scores = {"content": [_score(piece) for piece in self.pieces]} if self.logprobs else None
        choice: dict[str, Any] = {"index": index, "finish_reason": self.finish_reason, "logprobs": scores}
        if not chat:
            return {**choice, "text": text}
        message: dict[str, Any] = {"role": "assistant", "content": None if self.calls else text, "refusal": None}
        if self.calls:
            function = {"name": self.calls, "arguments": text}
            message["tool_calls"] = [{"id": f"call_{index}", "type": "function", "function": function}]
        return {**choice, "message": message}

    def piece(self, index: int, step: int, chat: bool) -> dict[str, Any]:
        """The choice as it stands in one chunk."""
        text = self.pieces[step]
        scores = {"content": [_score(text)]} if self.logprobs else None
        choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": scores}
        if not chat:
            return {**choice, "text": text}
        if not self.calls:
            return {**choice, "delta": {"content": text}}
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if step == 0:
            function = {"name": self.calls, "arguments": text}
            call = {"index": 0, "id": f"call_{index}", "type": "function", "function": function}
        return {**choice, "delta": {"tool_calls": [call]}}


def answer(
    body: dict[str, Any], prompt: str, random: Random, output_tokens: int, tokens: Callable[[str], list[str]]
) -> Answer:
    """One choice for a request body: a forced tool call, JSON where it is asked for, else text of about this length."""
    function = _forced(body)
    form = body.get("response_format") or {}
    if function is not None:
        text, finish = orjson.dumps(sample(function.get("parameters") or {}, random)).decode(), "tool_calls"
    elif form.get("type") == "json_schema":
        text, finish = orjson.dumps(sample(form["json_schema"].get("schema") or {}, random)).decode(), "stop"
    elif form.get("type") == "json_object":
        words = _WORD.findall(prompt)
        text, finish = orjson.dumps({"answer": random.choice(words or ["yes"]), "confidence": 0.9}).decode(), "stop"
    else:
        text, finish = _text(prompt, random, max(1, round(output_tokens * random.uniform(0.5, 1.5))), tokens), "stop"
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0]
    pieces = tokens(text)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit and len(pieces) > int(limit):
        pieces, finish = pieces[: int(limit)], "length"
    return Answer(tuple(pieces), finish, function["name"] if function else None, bool(body.get("logprobs")))


def sample(schema: dict[str, Any], random: Random) -> Any:
    """A value that fits a JSON schema of the usual kind: types, enum, const, properties, items, bounds, anyOf."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return random.choice(schema["enum"])
    for either in ("anyOf", "oneOf"):
        if schema.get(either):
            return sample(schema[either][0], random)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: sample(part, random) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema.get("items", {}), random) for _ in range(max(1, schema.get("minItems", 1)))]
        case "integer" | "number" as number:
            least = schema.get("minimum", 0)
            value = random.uniform(least, schema.get("maximum", least + 100))
            return round(value) if number == "integer" else round(value, 3)
        case "boolean":
            return random.random() < 0.5
        case "null":
            return None
    return random.choice(("Berlin", "tomorrow", "blue", "seven", "yes"))


def _text(prompt: str, random: Random, length: int, tokens: Callable[[str], list[str]]) -> str:
    words = list(dict.fromkeys(_WORD.findall(prompt.partition(": ")[2] or prompt))) or ["this", "that", "then"]
    n, m = [int(found[:6]) for found in [*_NUMBER.findall(prompt), "2", "3"][:2]]
    templates = _PROGRAM if _CODE.search(prompt) else _WORKING if _MATHS.search(prompt) else _PROSE
    sentences: list[str] = []
    size = 0
    while size < length:
        template = templates[len(sentences)] if len(sentences) < len(templates) else random.choice(_PROSE)
        a, b, c = (random.choice(words) for _ in range(3))
        sentences.append(template.format(a=a, b=b, c=c, n=n, m=m, s=n + m))
        size += len(tokens(sentences[-1]))
    return "".join(tokens(" ".join(sentences))[:length])


def _forced(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function that the request makes the model call, if it does."""
    tools = body.get("tools") or []
    functions: list[dict[str, Any]] = [tool["function"] for tool in tools if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    if not functions or choice in (None, "auto", "none"):
        return None
    if isinstance(choice, dict):
        return next((one for one in functions if one["name"] == choice["function"]["name"]), None)
    return functions[0]


def _score(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.1, "bytes": list(token.encode()), "top_logprobs": []}
