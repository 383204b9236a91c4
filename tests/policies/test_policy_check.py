"""Warnings: each suspicious thing is found, at its place, and nothing else is."""

import pytest

from policies.catalogue import ModelFacts
from policies.document import complete, load
from policies.schema import TokenPrice

CLEAN = """\
version: 1
tiers:
  small: {backends: [{name: s, kind: vllm, model: m, context_window: 8000, cost: {gpu_hour_usd: 0.5}}]}
  large: {backends: [{name: l, kind: vllm, model: n, context_window: 64000, cost: {gpu_hour_usd: 5}}]}
"""


RULES = "rules: [{name: a, when: {"


def warned(text: str) -> list[str]:
    loaded = load(text, file="p", environ={})
    assert all(problem.severity == "warning" for problem in loaded.warnings)
    return [str(problem) for problem in loaded.warnings]


def of_two(lower: str, tier: str = "") -> str:
    """A policy of one tier with two backends, the first of which states ``lower`` of itself."""
    rest = "kind: vllm, model: m, context_window: 8000, cost: {gpu_hour_usd: 1}"
    backends = f"{{name: a, {rest}, {lower}}}, {{name: b, {rest}}}"
    return f"version: 1\ntiers:\n  small: {{backends: [{backends}]{tier}}}\n"


def test_what_a_backend_states_of_itself_must_be_comparable() -> None:
    [scores] = warned(of_two("quality: {mmlu: 0.7}"))
    assert "no quality that a's own could be compared with" in scores
    assert warned(of_two("quality: {mmlu: 0.7}", ", quality: {mmlu: 0.75}")) == []
    assert warned(of_two("trained_as: m-int4")) == []
    for stated in ("trained_as: m-int4", "quality: {mmlu: 0.7}"):
        [alone] = warned(CLEAN.replace("model: m,", f"model: m, {stated},"))
        assert "has no effect on the only backend of a tier" in alone


def test_nothing_is_said_of_a_clean_policy() -> None:
    assert warned(CLEAN) == []


@pytest.mark.parametrize(
    ("addition", "place", "said"),
    [
        ("rules: [{name: r, when: {turns: {at_least: 5, less_than: 5}}, tier: large}]", "5:26", "at least 5 and"),
        ("rules: [{name: r, when: {turns: {less_than: 1}}, tier: large}]", "5:26", "no request can match"),
        ("rules: [{name: r, when: {complexity: {more_than: 1}}, tier: large}]", "5:26", "from 0 to 1 is possible"),
        (RULES + "or: [{input_tokens: {less_than: 0}}]}, tier: large}]", "5:32", "no request can match"),
        ("rules: [{name: r, when: {and: [{not: {domain: cod}}]}, tier: large}]", "5:39", "did you mean code?"),
        ("rules: [{name: r, when: {domain: zzz}, tier: large}]", "5:26", "add it under classifier.domains"),
        ("rules: [{name: r, when: {and: [{}]}, tier: large}]", "5:32", "always holds"),
        ("budgets: [{name: b, per: day, usd: 1, when: {domain: zzz}}]", "5:46", "there is no domain 'zzz'"),
        ("rules: [{name: r, prefer: large}, {name: r, exclude: {tier: small}}]", "5:36", "is named 'r' too"),
        (RULES + "has_code: true}, tier: large}, {name: b, when: {has_code: true, language: en}, tier: small}]", "5:57",
          "never decides: rule 'a' above matches whenever this one does"),
        (RULES + "domain: [law, math]}, prefer: large}, {name: b, when: {domain: law}, prefer: small}]", "5:64",
          "never decides"),
        (RULES + "turns: {at_least: 2}}, tier: large}, {name: b, when: {turns: {at_least: 3}}, prefer: small}]", "5:63",
          "never decides"),
        (RULES + "input_tokens: {more_than: 9000}}, tier: small}]", "5:9", "sends at least 9,001 tokens to small"),
        (RULES + "input_tokens: {at_most: 7900}}, tier: small}]", "5:9", "sends up to 7,900 tokens to small"),
        ("fallback: {small: [small]}", "5:12", "a fallback loop: small falls back on itself"),
        ("fallback: {small: [large, large]}", "5:12", "names a tier twice"),
        ("rules: [{name: all, tier: small}]", "4:3", "tiers.large: nobody reaches this tier"),
        ("baseline: small", "4:3", "tiers.large: nobody reaches this tier"),
        ("rules: [{name: r, exclude: {precision: int4}}]", "5:19", "excludes nothing"),
        ("rules: [{name: r, when: {turns: {at_least: 3}}, exclude: {kind: vllm}}]", "5:49", "excludes every backend"),
        (RULES + "header: {x-plan: best}}, tier: large}]\nauth: {required: true}", "5:26", "and none is trusted"),
        (RULES + "turns: {at_least: 3}}, prefer: large}, {name: b, when: {header: {x-plan: best}}, tier: large}]\n"
         "auth: {required: true}", "5:82", "and none is trusted"),
        ("timeouts: {total: 1h}", "5:1", "the deadline over all attempts, 15m, is shorter than total"),
    ],
)  # fmt: skip
def test_each_suspicion_is_said_at_its_place(addition: str, place: str, said: str) -> None:
    (found,) = warned(CLEAN + addition)
    assert found.startswith(f"p:{place}: warning: ")
    assert said in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((", cost: {gpu_hour_usd: 5}", ""), "l is unpriced"),
        ((", context_window: 64000", ""), "the context window of l is not known"),
        (("model: n", "simulate: {seed: 3}, model: n"), "has no effect on a backend of kind vllm"),
        (("gpu_hour_usd: 5", "gpu_hour_usd: 0.1"), "the baseline is large, the last tier, but small is dearer"),
    ],
)
def test_suspicions_of_backends(change: tuple[str, str], said: str) -> None:
    assert said in "\n".join(warned(CLEAN.replace(*change)))


@pytest.mark.parametrize(
    "addition",
    [
        "rules: [{name: a, when: {domain: law}, prefer: large}, {name: b, when: {domain: [law, math]}, prefer: small}]",
        RULES + "turns: {at_least: 3}}, tier: large}, {name: b, when: {turns: {at_least: 2}}, tier: small}]",
        "rules: [{name: a, when: {has_code: true}, prefer: large}, {name: b, when: {has_code: true}, tier: small}]",
        "rules: [{name: a, when: {domain: mine}, tier: large}]\nclassifier: {domains: {mine: [an example]}}",
        "rules: [{name: all, tier: small}]\nfallback: {small: [large]}",
        "rules: [{name: all, tier: small}]\naliases: {big: tier/large}",
        "rules: [{name: all, tier: small}]\naliases: {big: l, any: auto}",
        "baseline: small\nexploration: 0.01",
        "baseline: small\nobjectives: {best: {tradeoff: 0}}",
        "baseline: small\nrules: [{name: hard, when: {complexity: complex}, tier: large}]",
        "objective: {large_share: 0.2}",
        "rules: [{name: r, when: {input_tokens: {at_most: 7000}}, tier: small}]",
        "fallback: {small: [large], large: [small]}",
        "rules: [{name: r, prefer: small}]\nfallback: {small: [large], large: [small]}",
    ],
)
def test_what_makes_sense_is_left_alone(addition: str) -> None:
    assert warned(CLEAN + addition) == []


def test_a_middle_tier_that_a_share_never_takes() -> None:
    lines = CLEAN.splitlines(keepends=True)
    middle = lines[3].replace("large", "middle").replace("name: l", "name: x").replace("usd: 5", "usd: 1")
    text = "".join([*lines[:3], middle, lines[3]]) + "objective: {large_share: 0.2}"
    (found,) = warned(text)
    assert "tiers.middle: nobody reaches this tier" in found


HOSTED = CLEAN + "  cloud: {backends: [{name: c, kind: hosted, model: openai/gpt-4o}]}\n"
FACTS = ModelFacts(TokenPrice(input_usd_per_mtok=2, output_usd_per_mtok=8), 128_000, 16_000, ("tools",))


def test_the_catalogue_completes_hosted_backends_only() -> None:
    loaded = load(HOSTED, file="p", environ={})
    assert "c is unpriced" in str(loaded.warnings[0])
    full = complete(loaded, {"openai/gpt-4o": FACTS, "m": FACTS})
    backend = full.policy.tiers["cloud"].backends[0]
    assert (backend.cost, backend.context_window, backend.max_output_tokens) == (FACTS.cost, 128_000, 16_000)
    assert backend.supports == ("tools", "logprobs")
    assert full.policy.tiers["small"] == loaded.policy.tiers["small"]
    assert full.warnings == ()
    assert full.hash != loaded.hash


def test_what_the_policy_states_is_kept() -> None:
    text = HOSTED.replace("model: openai/gpt-4o", "model: openai/gpt-4o, context_window: 5, supports: vision")
    backend = complete(load(text, file="p", environ={}), {"openai/gpt-4o": FACTS}).policy.tiers["cloud"].backends[0]
    assert (backend.context_window, backend.supports, backend.cost) == (5, ("vision",), FACTS.cost)
    unknown = load(HOSTED, file="p", environ={})
    assert complete(unknown, {"openai/gpt-4o": ModelFacts()}).policy == unknown.policy


@pytest.mark.parametrize(
    ("address", "filled"),
    [("", True), (", base_url: https://api.openai.com/v1", True), (", base_url: http://10.0.0.1/v1", False)],
)
def test_openais_own_address_has_openais_prices(address: str, filled: bool) -> None:
    text = CLEAN + f"  cloud: {{backends: [{{name: c, kind: openai, model: gpt-4o{address}}}]}}\n"
    backend = complete(load(text, file="p", environ={}), {"gpt-4o": FACTS}).policy.tiers["cloud"].backends[0]
    assert (backend.cost is not None) is filled
