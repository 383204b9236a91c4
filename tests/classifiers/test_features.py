"""Facts read off a body: right on what clients send, total on what they shouldn't."""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.features import (
    MAX_TEXT,
    count_input,
    estimate_tokens,
    extract,
    from_text,
    looks_like_code,
    reading,
)
from classifiers.lexical import LEXICAL, lexical

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "x"]) | JSON, "content": JSON}
    )
    | JSON,
    max_size=5,
)


def chat(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **more}


def test_the_users_words_count_and_nobody_elses() -> None:
    found = extract(
        chat(
            ("system", "be brief"),
            ("user", "write a parser"),
            ("assistant", "```python\nimport os\n```"),
            ("tool", "SELECT secrets FROM vault"),
            ("user", "commit it"),
        )
    )
    assert found.text == "write a parser\ncommit it"
    assert found.last_text == "commit it"
    assert found.system_text == "be brief"
    assert (found.turns, found.last_characters) == (2, len("commit it"))
    assert not found.has_code
    assert reading(found) == "commit it\nwrite a parser"


def test_text_that_nobody_reads_is_not_kept_and_all_else_is_the_same() -> None:
    body = chat(("system", "be brief"), ("user", "def f():\n    return 1"), ("user", " Und warum ist das so? "), n=2)
    read, unread = extract(body), extract(body, keeps_text=False)
    assert (unread.text, unread.last_text, unread.system_text) == ("", "", "")
    assert (unread.language, unread.has_code) == ("und", False)
    assert (unread.turns, unread.last_characters) == (2, len("Und warum ist das so?"))
    texts = {"text": "", "last_text": "", "system_text": "", "language": "und", "has_code": False}
    assert replace(read, **texts) == unread


def test_the_newest_turns_survive_trimming() -> None:
    found = extract(chat(("user", "old " * 3000), ("user", "new " * 1000), ("user", "last")))
    assert len(found.text) <= MAX_TEXT
    assert found.text.endswith("new \nlast")


def test_a_long_prompt_keeps_its_question_at_either_end() -> None:
    found = from_text("Question first. " + "filler " * 9000 + "Question last?")
    assert found.text.startswith("Question first.")
    assert found.text.endswith("Question last?")


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, set()),
        ({"response_format": {"type": "json_object"}}, {"json_mode"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"logprobs": True}, {"logprobs"}),
        ({"modalities": ["text", "audio"]}, {"audio"}),
        ({}, set()),
    ],
)
def test_requirements(more: dict[str, Any], needs: set[str]) -> None:
    assert extract(chat(("user", "hi"), **more)).requires == needs


@given(st.text(st.characters(max_codepoint=127)))
def test_letters_and_spaces_are_a_quarter_of_a_token_digits_half_and_symbols_two_thirds(text: str) -> None:
    digits = sum(character.isdigit() for character in text)
    letters = sum(character.isalpha() or character in " \t\n\r" for character in text)
    assert estimate_tokens(text) == ceil(
        Fraction(letters, 4) + Fraction(digits, 2) + 2 * Fraction(len(text) - letters - digits, 3)
    )


def test_images_are_seen_and_counted() -> None:
    body = chat(
        ("user", [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:..."}}])
    )
    found = extract(body, key_id="k", headers={"x-team": "a"}, conversation="c")
    assert found.has_images
    assert found.requires == {"vision"}
    assert found.text == "what is this?"
    assert found.input_tokens > 1000
    assert (found.key_id, found.headers, found.conversation) == ("k", {"x-team": "a"}, "c")


def test_calls_are_seen_and_counted_beside_a_text_or_alone() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    alone, beside = ({"role": "assistant", "tool_calls": calls, **more} for more in ({}, {"content": "I look."}))
    for message in (alone, beside):
        found = extract({"messages": [message]})
        assert found.requires == {"tools"}
        assert found.input_tokens > 15
    assert extract(chat(("user", "hi"), ("tool", "found"))).requires == {"tools"}


def test_limits_and_choices() -> None:
    found = extract(chat(("user", "hi"), max_tokens=5, max_completion_tokens=7, n=3, stream=True, model="tier/small"))
    assert (found.max_output_tokens, found.choices, found.stream, found.model) == (7, 3, True, "tier/small")


@given(JSON)
def test_any_body_is_read_without_an_error(body: Any) -> None:
    extract(body if isinstance(body, dict) else {"messages": body})


@given(MESSAGES, JSON, JSON)
def test_any_messages_are_read_without_an_error(messages: Any, tools: Any, form: Any) -> None:
    found = extract({"messages": messages, "tools": tools, "response_format": form, "n": tools, "max_tokens": form})
    assert found.turns >= 1
    assert found.input_tokens == count_input(
        {"messages": messages, "tools": tools, "response_format": form}, estimate_tokens
    )
    facts = lexical(found)
    assert facts.shape == (len(LEXICAL),)
    assert np.isfinite(facts).all()


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("Hello, how are you?", 5, 9),
        ("字" * 100, 100, 160),
        ("word " * 400, 400, 700),
        ("", 0, 0),
        ("x = {1: 'a'}\n", 6, 12),
    ],
)
def test_token_estimates_lean_high(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most


@pytest.mark.parametrize(
    "text",
    ["```js\nx\n```", "def f(x):\n    return x", "SELECT a FROM b", "#include <vector>", "<div>hi</div>", "print('x')"],
)
def test_code_is_seen(text: str) -> None:
    assert looks_like_code(text)


@pytest.mark.parametrize(
    "text", ["What is the import duty on tea?", "Write a poem; make it rhyme.", "class was fun today"]
)
def test_prose_is_not_code(text: str) -> None:
    assert not looks_like_code(text)


@pytest.mark.parametrize(
    "piece", ["a", "((", "{\n", "字", "A. x\n", " " * 50 + "\n", "x(", "```", "from a.b", "\ud800"]
)
def test_a_megabyte_is_bounded(piece: str) -> None:
    found = from_text(piece * (1_000_000 // len(piece)))
    assert len(found.text) <= MAX_TEXT
    assert np.isfinite(lexical(found)).all()
