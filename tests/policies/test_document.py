"""Policy documents: every error at once and where it stands, secrets never shown, the hash."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.document import Loaded, PolicyErrors, json_schema, load, resolved, show
from policies.schema import GpuPrice, TokenPrice
from tests.policies.examples import a_policy, policies

SMALLEST = """\
version: 1
tiers:
  small: {backends: [{name: s, kind: openai, model: m, context_window: 8000, cost: {gpu_hour_usd: 0.5}}]}
  large: {backends: [{name: l, kind: hosted, model: openai/gpt-4o, api_key: "${KEY:-}"}]}
"""


def errors(text: str, **environ: str) -> list[str]:
    with pytest.raises(PolicyErrors) as raised:
        load(text, file="policy.yaml", environ=environ)
    assert str(raised.value).splitlines() == [str(problem) for problem in raised.value.problems]
    return [str(problem) for problem in raised.value.problems]


def test_the_smallest_policy_loads_with_its_defaults() -> None:
    loaded = load(SMALLEST, file="policy.yaml", environ={})
    assert loaded.policy.baseline == "large"
    assert loaded.policy.objective.keep_quality == 0.97
    assert loaded.policy.tiers["small"].backends[0].cost == GpuPrice(gpu_hour_usd=Decimal("0.5"))


PLANTED = """\
version: 1
tiers:
  small:
    backends:
      - name: qwen
        kind: vlm
        model: Qwen/Qwen2.5-7B-Instruct-AWQ
        cost: {input_usd_per_mtok: 0.05, output_usd_per_mtok: ten}
  large:
    backends: [{name: gpt-4o, kind: hosted, model: openai/gpt-4o, api_key: "${OPENAI_KEY}"}]
baseline: lrage
rules:
  - name: code
    when: {domian: code}
    prefer: small
"""


def test_five_planted_errors_are_all_named_with_their_lines() -> None:
    found = errors(PLANTED)
    assert [line.split(": error: ")[0] for line in found] == [
        "policy.yaml:6:15", "policy.yaml:8:63", "policy.yaml:10:76", "policy.yaml:11:11", "policy.yaml:14:12",
    ]  # fmt: skip
    for line, said in zip(
        found,
        ("mean vllm?", "'ten'", "environment variable OPENAI_KEY is not set", "mean large?", "mean domain?"),
        strict=True,
    ):
        assert said in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("version: 1", "version: 2"), "1:10: error: version: '2' is not known here (expected one of: 1)"),
        (("version: 1\n", ""), "1:1: error: version is missing"),
        (("kind: openai, ", ""), "3:22: error: tiers.small.backends[0]: kind is missing"),
        (("name: s,", "name: a b,"), "3:29: error: tiers.small.backends[0].name: expected text that matches"),
        (("name: s,", "name: 3.5,"), "expected a string, found '3.5'"),
        (("context_window: 8000", "context_window: many"), "expected a whole number, unable to parse"),
        (("context_window: 8000", "context_window: 1.5"), "a whole number, got a number with a fractional part"),
        (("context_window: 8000", "context_window: 0"), "expected greater than or equal to 1, found '0'"),
        (("context_window: 8000", "context_windows: 8"), "did you mean context_window?"),
        (("gpu_hour_usd: 0.5", "gpu_hour_usd: -1"), "expected greater than or equal to 0"),
        (("gpu_hour_usd: 0.5", "gpu_hour_usd: true"), "cost.gpu_hour_usd"),
        (("gpu_hour_usd: 0.5", "gpu_hour_usd: 1, input_usd_per_mtok: 2"), "cost.input_usd_per_mtok: unknown key"),
        (("{gpu_hour_usd: 0.5}", "[1]"), "expected a mapping: TokenPrice, found a list"),
        (("backends: [{name: s", "backends: {name: s"), "not YAML"),
        (("small: {backends: [", "small: {backends: []} #"), "expected at least 1 item, found a list"),
        (("small: ", "a/b: "), "3:3: error: tiers.a/b: expected text that matches"),
        (("small: ", "1: "), None),
    ],
)
def test_errors_of_shape(change: tuple[str, str], expected: str | None) -> None:
    text = SMALLEST.replace(*change)
    assert text != SMALLEST
    if expected is None:
        assert load(text, file="policy.yaml", environ={}).policy.tiers
    else:
        assert any(expected in line for line in errors(text)), errors(text)


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("objective: {keep_quality: 0.9, tradeoff: 0.1}", "5:12: error: objective: state exactly one of keep_quality"),
        ("objective: {}", "(found none)"),
        ("rules: [{name: x, tier: small, prefer: large}]", "rules[0]: state exactly one action"),
        ("rules: [{name: x, tier: smal}]", "5:25: error: rules[0].tier: there is no tier 'smal'"),
        ("rules: [{name: x, exclude: {tier: huge, backend: [s, t]}}]", "exclude.backend[1]: there is no backend 't'"),
        ("rules: {name: x}", "rules: expected a list, found a mapping"),
        ("rules: [3]", "rules[0]: expected a mapping"),
        ("rules: [{name: x, tier: small, when: {complexity: {at_least: low}}}]", "complexity.at_least"),
        ("rules: [{name: x, tier: small, when: {time: {from: 9:00}}}]", "rules[0].when.time.from"),
        ("fallback: {smal: [large]}", "5:12: error: fallback.smal: there is no tier 'smal'"),
        ("fallback: {small: [s]}", "5:20: error: fallback.small[0]: there is no tier 's'"),
        ("fallback: {small: lrage}", "5:19: error: fallback.small: there is no tier 'lrage'"),
        ("aliases: {gpt: nothing}", "aliases.gpt: there is no model 'nothing'"),
        ("aliases: {a: b, b: c, c: a}", "aliases.a: goes round in a circle: a → b → c → a"),
        ("aliases: {auto: s}", "aliases.auto: this name already means something"),
        ("aliases: {tier/x: s}", "aliases.tier/x: this name already means something"),
        ("aliases: {x: 'auto:cheap'}", "there is no model 'auto:cheap'"),
        ("budgets: [{name: b, per: day}]", "state at least one limit"),
        ("budgets: [{name: b, per: day, usd: 1}, {name: b, per: hour, usd: 1}]", "there are two budgets named 'b'"),
        ("timeouts: {connect: 5}", "timeouts.connect: expected a duration"),
        ("tiers: {}", "5:1: error: tiers: given twice: first on line 2"),
        ("logging: {content: perhaps}", "logging.content: expected a boolean"),
        ("redis: ${REDIS_URL}", "environment variable REDIS_URL is not set"),
    ],
)
def test_errors_of_meaning(addition: str, expected: str) -> None:
    found = errors(SMALLEST + addition)
    assert any(expected in line for line in found), found


def test_one_problem_per_key_and_one_circle_once() -> None:
    assert len(errors(SMALLEST + "aliases: {a: b, b: a, c: a}\nredis: ${NOPE}")) == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "null"])
def test_an_empty_document(text: str) -> None:
    assert len(errors(text)) == 1


@pytest.mark.parametrize("text", ["3", "[1]", "text"])
def test_a_document_that_is_no_mapping(text: str) -> None:
    assert "expected a mapping" in errors(text)[0]


def test_backends_are_unique_over_tiers() -> None:
    assert "there are two backends named 's': first on line 3" in errors(SMALLEST.replace("name: l", "name: s"))[0]


def test_a_timezone_must_exist() -> None:
    with pytest.raises(PolicyErrors, match=r"5:11: error: timezone: there is no timezone 'Mars/Base'"):
        load(SMALLEST + "timezone: Mars/Base", file="p", environ={}, is_timezone=lambda name: name == "UTC")


SECRET = "sk-do-not-show"


def test_secrets_are_never_shown() -> None:
    text = SMALLEST.replace("context_window: 8000,", "api_key: '${KEY}', headers: {x: '${KEY}'},")
    text += "redis: redis://user:${KEY}@host/0\nclassifier: {encoder_key: '${KEY}'}"
    loaded = load(text, file="p", environ={"KEY": SECRET})
    assert loaded.policy.tiers["small"].backends[0].api_key.get_secret_value() == SECRET  # type: ignore[union-attr]
    for shown in (repr(loaded), str(loaded), show(loaded.policy), str(resolved(loaded.policy))):
        assert SECRET not in shown
    assert load(text, file="p", environ={"KEY": "another"}).hash == loaded.hash


@pytest.mark.parametrize(
    "broken",
    ["redis: [${KEY}]", "classifier: {encoder_key: [${KEY}]}", "classifier: {deadline: '${KEY}'}", "baseline: ${KEY}",
     "rules: [{name: '${KEY}', tier: small, prefer: large}]", "objective: {keep_quality: '${KEY}'}", "x: ${KEY}",
     "aliases: {a: '${KEY}'}", "rules: [{name: r, tier: '${KEY}'}]", "fallback: {small: ['${KEY}']}",
     "budgets: [{name: '${KEY}', per: day, usd: 1}, {name: '${KEY}', per: day, usd: 1}]",
     "session: '${KEY}'", "exploration: ${KEY}", "budgets: [{name: b, per: '${KEY}', usd: 1}]"],
)  # fmt: skip
def test_no_error_says_what_was_in_the_environment(broken: str) -> None:
    assert all(SECRET not in line for line in errors(SMALLEST + broken, KEY=SECRET))


def test_a_secret_written_into_the_file_is_not_repeated() -> None:
    text = SMALLEST.replace('"${KEY:-}"', "12345678.5")
    assert all("12345678" not in line for line in errors(text))


def test_the_hash_names_the_content() -> None:
    first = load(SMALLEST, file="a", environ={})
    assert load("# a comment\n" + SMALLEST, file="b", environ={"KEY": ""}).hash == first.hash
    stated = SMALLEST + "objective: {keep_quality: 0.97}\nbaseline: large\n"
    assert load(stated, file="a", environ={}).hash == first.hash
    assert load(SMALLEST + "objective: {keep_quality: 0.96}", file="a", environ={}).hash != first.hash
    swapped = SMALLEST.splitlines()
    swapped[2:4] = reversed(swapped[2:4])
    assert load("\n".join(swapped) + "\nbaseline: large", file="a", environ={}).hash != first.hash
    assert load(SMALLEST.replace("0.5", "0.50"), file="a", environ={}).hash == first.hash
    assert len(first.hash) == 16


@settings(max_examples=30, deadline=None)
@given(policies)
def test_what_is_shown_loads_again_as_the_same_policy(loaded: Loaded) -> None:
    once = load(show(loaded.policy), file="once", environ={})
    again = load(show(once.policy), file="again", environ={})
    assert once.policy == again.policy == loaded.policy
    assert once.hash == again.hash


def test_money_stays_exact() -> None:
    text = SMALLEST.replace("gpu_hour_usd: 0.5", "input_usd_per_mtok: 0.1, output_usd_per_mtok: 1e-3, request_usd: 2")
    loaded = load(text, file="p", environ={})
    price = loaded.policy.tiers["small"].backends[0].cost
    assert isinstance(price, TokenPrice)
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok) == (Decimal("0.1"), Decimal("0.001"))
    assert load(show(loaded.policy), file="p", environ={}).policy == loaded.policy


def test_a_policy_cannot_be_changed() -> None:
    loaded = a_policy()
    with pytest.raises(Exception, match="frozen"):
        loaded.policy.baseline = "small"


def test_the_json_schema_is_made_from_the_models() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["version", "tiers"]
    assert schema["additionalProperties"] is False
    domain = schema["$defs"]["When"]["properties"]["domain"]
    assert domain["anyOf"][0]["anyOf"] == [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]


words = st.sampled_from(
    ("version", "tiers", "rules", "small", "1", "backends", "name", "when", "[", "]", "{", "}", ":", ",", "- ",
     "\n", "  ",
     "auto", "aliases", "fallback", "budgets", "x", "0.5", "cost", "exclude", "tier", "${A}", "&a", "*a", "<<")
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(words, max_size=25).map(" ".join))
def test_any_document_loads_or_says_what_is_wrong(text: str) -> None:
    try:
        load(text, file="p", environ={"A": "x"})
    except PolicyErrors as errors:
        problems = errors.problems
    else:
        return
    assert problems
    assert all(problem.severity == "error" and problem.line >= 1 for problem in problems)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(("small", "x", "auto", "1s", "code")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("name", "tier", "prefer", "exclude", "when", "and", "or", "not", "backends", "small", "usd")
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(("tiers", "rules", "aliases", "fallback", "budgets", "session", "baseline")), json_values)
def test_any_value_anywhere_loads_or_says_what_is_wrong(key: str, value: object) -> None:
    backend = {"name": "s", "kind": "openai", "model": "m"}
    text = json.dumps({"version": 1, "tiers": {"small": {"backends": [backend]}}, key: value})
    try:
        load(text, file="p", environ={})
    except PolicyErrors as errors:
        problems = errors.problems
    else:
        return
    assert problems


def test_an_empty_store_url_means_the_embedded_one() -> None:
    text = "version: 1\nredis: ${REDIS_URL:-}\ntiers: {a: {backends: [{name: b, kind: vllm, model: m}]}}"
    assert load(text, file="policy.yaml", environ={}).policy.redis == ""
    assert load(text, file="policy.yaml", environ={"REDIS_URL": "redis://store"}).policy.redis == "redis://store"
    with pytest.raises(PolicyErrors) as raised:
        load(text, file="policy.yaml", environ={"REDIS_URL": "http://:secret@store"})
    assert "redis+cluster" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("auth", "trusted"),
    [
        ("{}", True),
        ("{required: true}", False),
        ("{required: true, trust: ann}", True),
        ("{required: true, trust: '*'}", True),
    ],
)
def test_whose_headers_count(auth: str, trusted: bool) -> None:
    text = f"version: 1\nauth: {auth}\ntiers: {{a: {{backends: [{{name: b, kind: vllm, model: m}}]}}}}"
    assert load(text, file="policy.yaml", environ={}).policy.auth.trusts("ann") is trusted
