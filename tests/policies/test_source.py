"""YAML as plain data: the core schema, places, the environment, and hostile input."""

from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.problems import hint, listing, nearest
from policies.source import Place, dotted, plain, read


def tree(text: str, **environ: str) -> object:
    source, problems = read(text, file="p", environ=environ)
    assert problems == []
    return source.tree


def problem(text: str, **environ: str) -> str:
    _, problems = read(text, file="p", environ=environ)
    return "\n".join(map(str, problems))


@pytest.mark.parametrize(
    ("text", "value"),
    [("22:00", "22:00"), ("on", "on"), ("no", "no"), ("true", True), ("FALSE", False), ("~", None), ("", None),
     ("null", None), ("12", 12), ("-3", -3), ("0.10", Decimal("0.10")), ("1e-3", Decimal("0.001")),
     (".5", Decimal("0.5")), ("012", 12), ("1_000", "1_000"), (".inf", ".inf"), (".nan", ".nan"), ("2026-01-01",) * 2,
     ("'12'", "12"), ("0x1f", "0x1f"), ("9" * 500, "9" * 500)],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = tree(f"key: {text}")["key"]  # type: ignore[index]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "0.5e31"])
def test_a_number_beyond_any_use_stays_text(text: str) -> None:
    assert plain(text) == text


def test_every_key_and_value_has_its_place() -> None:
    source, _ = read("a:\n  - b: 1\n    c: [x, y]\n", file="p", environ={})
    assert source.place(("a", 0, "c")) == Place(3, 5)
    assert source.values["a", 0, "c", 1] == Place(3, 12)
    assert source.place(("a", 0, "gone", "deeper")) == Place(2, 5)
    assert source.place(()) == Place(1, 1)
    assert dotted(("a", 0, "c", 1)) == "a[0].c[1]"
    assert read("", file="p", environ={})[0].place(("x",)) == Place(1, 1)


def test_variables_are_replaced_in_values_only() -> None:
    text = "${A}:\n- ${A}\n- '${A}'\n- x${B:-y}z\n- ${C:-}\n- $${A}\n- ${D:-7}\n- $5"
    assert tree(text, A="1", B="", D="8") == {"${A}": [1, "1", "xyz", None, "${A}", 8, "$5"]}


def test_a_set_but_empty_variable_without_default_is_empty() -> None:
    assert tree("a: '${A}'", A="") == {"a": ""}


def test_a_variable_that_is_not_set_is_named() -> None:
    assert problem("a: b\nc: ${NOPE}") == (
        "p:2:4: error: c: environment variable NOPE is not set (set it, or give a default: ${NOPE:-default})"
    )


@pytest.mark.parametrize("text", ["a: ${}", "a: ${1x}", "a: ${A", "a: ${A-b}"])
def test_a_malformed_variable_is_refused(text: str) -> None:
    assert "cannot read ${" in problem(text, A="1")


def test_merges_and_anchors() -> None:
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: {<<: [{x: 4}, *b]}\n"
    assert tree(text) == {"base": {"x": 1, "y": 2}, "one": {"y": 3, "x": 1}, "two": {"x": 4, "y": 2}}
    assert "<< merges mappings only" in problem("a: {<<: 3}")


def test_a_key_given_twice_names_the_first() -> None:
    assert problem("a: 1\nb: 2\na: 3") == "p:3:1: error: a: given twice: first on line 1 (keep one of them)"


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "p:1:5: error: not YAML"), ("a: b: c", "p:1:5: error: not YAML"), ("a\tb: \x00", "not YAML"),
     ("? [1]\n: 2", "a key must be plain text"), ("a: !secret x", "the tag !secret means nothing here"),
     ("a: &a [*a]", "repeats itself without end"), ("a: 1\n---\nb: 2", "not YAML")],
)  # fmt: skip
def test_bad_yaml_is_said_with_its_place(text: str, said: str) -> None:
    assert said in problem(text)


def test_a_billion_laughs_stop_early() -> None:
    layers = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too large" in problem("\n".join(layers)).splitlines()[0]


@given(st.text(max_size=60))
def test_any_text_comes_back_as_data_or_problems(text: str) -> None:
    _, problems = read(text, file="p", environ={})
    try:
        yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        assert problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)


def test_suggestions() -> None:
    assert nearest("domian", ["domain", "model"]) == "did you mean domain?"
    assert nearest("Keep-Quality", ["keep_quality"]) == "did you mean keep_quality?"
    assert nearest("zzz", ["domain"]) == ""
    assert hint("zzz", ["a", "b"]) == "expected one of: a, b"
    assert listing(map(str, range(30))).endswith("and 6 more")
    assert listing([]) == "none"
