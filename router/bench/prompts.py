"""What a benchmark asks: prompts from a file, or built in. No two requests of a run are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

SYSTEM = (
    "You are a careful assistant for the staff of a public library. Answer in plain words, in the language of the "
    "question, and say so when you do not know. Do not invent titles, authors or dates. Keep to what was asked."
)
"""Shared by all built-in prompts, as applications share theirs: a prefix cache may show what it can."""

_SUBJECTS = ("tides", "sourdough", "the printing press", "binary search", "compound interest", "volcanoes", "sonnets",
             "vaccines", "railway timetables", "black holes", "trade unions", "sorting networks")  # fmt: skip
_TASKS = ("Explain {} to a ten-year-old.", "Write a short story in which {} decide everything.",
          "List five common mistakes about {} and correct each.", "Compare {} with {} in a table.",
          "Draft a friendly letter that asks a neighbour about {}.")  # fmt: skip


def read(path: Path) -> list[list[dict[str, Any]]]:
    """Conversations of a JSONL file: each line a string, ``{"prompt": …}`` or ``{"messages": […]}``; else plain lines.

    Raises `ValueError` that names file and line.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line) if line.lstrip()[0] in '{["' else line
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error.msg}") from error
        if isinstance(row, dict):
            row = row.get("messages") or row.get("prompt")
        if isinstance(row, str):
            row = [{"role": "user", "content": row}]
        if not isinstance(row, list):
            raise ValueError(f'{path}:{number}: expected a prompt, {{"prompt": …}} or {{"messages": […]}}')
        found.append(row)
    if not found:
        raise ValueError(f"{path}: there are no prompts in it")
    return found


def endless(given: Sequence[list[dict[str, Any]]] | None, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Conversations without end. Those given come in turn as they are; built-in ones never repeat."""
    if given is not None:
        while True:
            yield from given
    random = Random(seed)
    for number in count(1):
        subjects = random.sample(_SUBJECTS, 2)
        question = f"Question {number}, from desk {random.randrange(10**6)}: {random.choice(_TASKS).format(*subjects)}"
        yield [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
