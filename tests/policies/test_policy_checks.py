"""Whether an answer will do: what each check catches, and what it lets pass because it cannot tell."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import Answered, Asked, fits, shortcoming
from policies.schema import Escalate

CHECKS = ("refusal", "truncated", "json", "tool_arguments", "repetition", "language")
ALL = Escalate(checks=CHECKS, min_mean_logprob=-1.5)
PROPERTIES = {"name": {"type": "string"}, "age": {"type": "integer"}}
PERSON = {"type": "object", "properties": PROPERTIES, "required": ["name"]}
STRUCTURED = Asked(json=True, schema=PERSON)
TOOLS = Asked(tools={"greet": PERSON})
LOOP = "and then the next step is to check the next step again. " * 40
PROSE = " ".join(f"Sentence number {n} says something about {n * 7919 % 1013} and nothing else." for n in range(60))


@pytest.mark.parametrize(
    ("answered", "asked", "failed"),
    [
        (Answered("Berlin is the capital."), Asked(), None),
        (Answered("I'm sorry, but I can't help with that."), Asked(), "refusal"),
        (Answered("I’m unable to access files."), Asked(), "refusal"),
        (Answered("As an AI, I have no opinion."), Asked(), "refusal"),
        (Answered("很抱歉，我不能"), Asked(), "refusal"),
        (Answered("Es tut mir leid, das geht nicht."), Asked(), "refusal"),
        (Answered("", refused=True), Asked(), "refusal"),
        (Answered("x", finish_reason="content_filter"), Asked(), "refusal"),
        (Answered("The hero says: I'm sorry."), Asked(), None),
        (Answered("I can swim."), Asked(), None),
        (Answered("half a sent", finish_reason="length"), Asked(), "truncated"),
        (Answered("half a sent", finish_reason="length"), Asked(limited=True), None),
        (Answered('{"name": "Ada"}'), STRUCTURED, None),
        (Answered('{"name": "Ada"'), STRUCTURED, "json"),
        (Answered('{"age": 3}'), STRUCTURED, "json"),
        (Answered('```json\n{"name": "Ada"}\n```'), STRUCTURED, "json"),
        (Answered("[1]"), Asked(json=True), None),
        (Answered("[" * 100_000), Asked(json=True), "json"),
        (Answered("", calls=(("greet", '{"name": "Ada"}'),)), STRUCTURED, "tool_arguments"),
        (Answered("", calls=(("greet", '{"name": "Ada"}'),)), TOOLS, None),
        (Answered("", calls=(("greet", '{"name": 7}'),)), TOOLS, "tool_arguments"),
        (Answered("", calls=(("greet", ""),)), Asked(tools={"greet": {}}), None),
        (Answered("", calls=(("greet", '{"na'),)), TOOLS, "tool_arguments"),
        (Answered("", calls=(("leave", "{}"),)), TOOLS, "tool_arguments"),
        (Answered(LOOP), Asked(), "repetition"),
        (Answered(PROSE), Asked(), None),
        (Answered("ha " * 20), Asked(), None),
        (Answered(PROSE, language="en"), Asked(language="de"), "language"),
        (Answered(PROSE, language="und"), Asked(language="de"), None),
        (Answered("Yes.", language="en"), Asked(language="de"), None),
        (Answered("x", mean_logprob=-2.0), Asked(), "logprob"),
        (Answered("x", mean_logprob=-1.0), Asked(), None),
    ],
)
def test_what_fails(answered: Answered, asked: Asked, failed: str | None) -> None:
    assert shortcoming([Answered("fine"), answered] if not asked.json else [answered], asked, ALL) == failed


def test_only_the_checks_asked_for_are_made() -> None:
    sorry = Answered("I'm sorry, but no.", finish_reason="length", mean_logprob=-9)
    assert shortcoming([sorry], Asked(), Escalate(checks=("json",))) is None
    assert shortcoming([sorry], Asked(), Escalate(checks=("truncated", "refusal"))) == "truncated"
    assert shortcoming([], Asked(), ALL) is None


@pytest.mark.parametrize(
    ("value", "schema", "good"),
    [
        (1, {"type": "integer"}, True),
        (1.0, {"type": "integer"}, True),
        (1.5, {"type": "integer"}, False),
        (True, {"type": "integer"}, False),
        (True, {"type": "boolean"}, True),
        (1, {"type": ["string", "number"]}, True),
        (None, {"type": "null"}, True),
        ("x", {"type": "unheard of"}, True),
        ("x", {"type": 7}, True),
        ("x", {"enum": ["x", "y"]}, True),
        ("z", {"enum": ["x", "y"]}, False),
        (2, {"const": 1}, False),
        ([1, "x"], {"items": {"type": "integer"}}, False),
        ([1, 2], {"items": {"type": "integer"}}, True),
        ([1, 2], {"type": "array"}, True),
        ({"a": 1}, {"properties": {"a": {"type": "string"}}}, False),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": False}, False),
        ({"b": 1}, {"patternProperties": {"b": {}}, "additionalProperties": False}, True),
        ({"b": 1}, {"properties": "nonsense"}, True),
        ({"b": 1}, {"required": [[], "b"]}, True),
        (1, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, True),
        (1, {"oneOf": [{"type": "string"}]}, False),
        (1, {"allOf": [{"type": "integer"}, {"const": 2}]}, False),
        (1, {"$ref": "http://169.254.169.254/"}, True),
        ("aaaa!", {"pattern": "(a+)+$"}, True),
        (1, True, True),
        (1, False, False),
    ],
)
def test_how_a_value_fits_a_schema(value: object, schema: Any, good: bool) -> None:
    assert fits(value, schema) is good


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "enum", "anyOf", "allOf", "items", "properties", "required", "a"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(JSON, JSON)
def test_any_schema_is_survived(value: object, schema: object) -> None:
    assert fits(value, schema) in (True, False)
