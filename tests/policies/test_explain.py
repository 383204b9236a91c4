"""Explanations: everything that a decision was made from, and changes that really flip it."""

import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings

from policies.decide import decide
from policies.document import Loaded
from policies.explain import Explanation, explain, lines, sections
from policies.schema import Objective
from policies.values import Features, Signals, View
from tests.policies.examples import a_policy, a_view, features, policies, signals, some_signals, views

ASKED = Features(input_tokens=100, language="en")
RULES = [
    {"name": "code", "when": {"domain": "code"}, "prefer": "code"},
    {"name": "hard", "when": {"complexity": {"at_least": 0.7}}, "tier": "large"},
    {"name": "small talk", "when": {"input_tokens": {"less_than": 50}, "turns": {"at_most": 9}}, "tier": "small"},
    {"name": "no int4", "when": {"domain": "math"}, "exclude": {"precision": ["int4", "fp4"], "tier": "code"}},
]


def explained(known: Signals | None = None, **policy: object) -> Explanation:
    return explain(a_policy(rules=RULES, **policy), ASKED, known or some_signals(), a_view())


@settings(max_examples=60, deadline=None)
@given(policies, features, signals, views)
def test_it_is_total_and_never_disagrees_with_the_decision(
    loaded: Loaded, asked: Features, known: Signals | None, view: View
) -> None:
    explanation = explain(loaded, asked, known, view)
    assert explanation.decision == decide(loaded, asked, known, view)
    assert all(flip.tier != explanation.decision.tier for flip in explanation.flips)
    assert len(lines(explanation)) > len(sections(explanation))


def test_every_section_is_laid_out() -> None:
    told = sections(explained())
    assert told["request"] == (
        "model auto, about 100 tokens in, turn 1",
        "language en, no code, tools or images",
    )
    assert told["signals"] == ("domain chat, chat 100%", "complexity 0.20 (simple)", "lexical look")
    assert told["tiers"][0] == "small: success 0.92 ± 0.02 (trained), ± 0.01 beside large, $0.000029, utility +0.009"
    assert told["rules"] == (
        "code → prefer code: did not match, domain is chat, not code",
        "hard → tier large: did not match, complexity 0.2 is not at least 0.7",
        "small talk → tier small: did not match, input of about 100 is not less than 50",
        "no int4 → exclude tier code, precision int4/fp4: did not match, domain is chat, not math",
    )
    assert told["choice"][0] == "small-1 (small), then small-2 (small), then large-1 (large)"
    assert lines(explained())[:2] == ["request", "  model auto, about 100 tokens in, turn 1"]


def test_what_is_absent_is_said() -> None:
    asked = replace(ASKED, has_code=True, has_tools=True, requires=frozenset({"tools"}), max_output_tokens=9)
    told = sections(explain(a_policy(rules=RULES[:1]), asked, None, a_view()))
    assert told["request"] == (
        "model auto, about 100 tokens in, at most 9 out, turn 1",
        "language en, code and tools, requires tools",
    )
    assert told["signals"] == ("none were needed or none came",)
    assert told["tiers"][0].startswith("small: success unknown, $")
    assert told["rules"] == ("code → prefer code: cannot tell, domain is not known (no signals)",)
    assert told["what would change it"] == ("no single change of price or threshold",)
    blind = Signals(missing=("no classifier",), ood=True)
    told = sections(explain(a_policy(), ASKED, blind, a_view()))
    assert told["signals"] == ("lexical look, unlike anything trained on", "missing: no classifier")
    assert told["rules"] == ("none",)


def test_a_refusal_is_explained() -> None:
    told = sections(explain(a_policy(), replace(ASKED, model="gpt-9"), None, a_view()))
    assert told["choice"][0] == "refused"
    assert told["tiers"] == ("none was looked at",)
    assert told["what would change it"] == ("no single change of price or threshold",)


def test_what_a_request_names_itself_cannot_be_flipped() -> None:
    for model in ("tier/large", "code-1"):
        assert explain(a_policy(rules=RULES), replace(ASKED, model=model), None, a_view()).flips == ()


def test_a_resting_tier_and_odds_are_shown() -> None:
    loaded = a_policy(exploration=0.2)
    told = sections(explain(loaded, ASKED, some_signals(), a_view(cooling=frozenset({"code-1"}))))
    assert told["tiers"][1].endswith("; code-1 rests after failures")
    assert told["choice"][-1] == "chosen with probability 0.900"


def test_unpriced_tiers_have_no_price_to_change() -> None:
    loaded = a_policy()
    large = loaded.policy.tiers["large"]
    unpriced = large.model_copy(update={"backends": (large.backends[0].model_copy(update={"cost": None}),)})
    policy = loaded.policy.model_copy(update={"tiers": {**loaded.policy.tiers, "large": unpriced}})
    explanation = explain(replace(loaded, policy=policy), ASKED, some_signals(), a_view())
    assert sections(explanation)["tiers"][2].startswith("large: success 0.93 ± 0.02 (trained), unpriced")
    assert not any(flip.setting.startswith("large") for flip in explanation.flips)


def test_a_tier_is_repriced_even_if_a_backend_out_of_reach_has_no_price() -> None:
    loaded = a_policy()
    small = loaded.policy.tiers["small"]
    backends = (small.backends[0].model_copy(update={"cost": None}), small.backends[1])
    mixed = small.model_copy(update={"backends": backends})
    policy = loaded.policy.model_copy(update={"tiers": {**loaded.policy.tiers, "small": mixed}})
    rules = a_policy(rules=[{"name": "no int4", "exclude": {"precision": "int4"}}]).policy.rules
    known = some_signals(small=0.93, code=0.93, large=0.93, error=0.0)
    explanation = explain(replace(loaded, policy=policy.model_copy(update={"rules": rules})), ASKED, known, a_view())
    assert "small above" in {flip.setting for flip in explanation.flips}


def objective_at(loaded: Loaded, **settings_: float) -> Loaded:
    changed = Objective.model_validate({name: Decimal(repr(value)) for name, value in settings_.items()})
    return replace(loaded, policy=loaded.policy.model_copy(update={"objective": changed}))


@pytest.mark.parametrize(
    ("name", "now"), [("keep_quality", 0.95), ("tradeoff", 0.2), ("large_share", 0.3), ("usd_per_day", 10)]
)
@pytest.mark.parametrize("gain", [0.01, 0.05, 0.2])
def test_moving_the_threshold_past_what_is_told_flips_the_choice(name: str, now: float, gain: float) -> None:
    loaded, known = a_policy(objective={name: now}), some_signals(small=0.9 - gain, code=0.1, large=0.9, error=0.001)
    explanation = explain(loaded, ASKED, known, a_view(spent_today=Decimal(4)))
    told = [flip for flip in explanation.flips if flip.setting.startswith(name)]
    for flip in told:
        further, nearer = (1.002, 0.99) if "above" in flip.setting else (0.998, 1.01)
        value = float(flip.change)
        for factor, tier in ((further, flip.tier), (nearer, explanation.decision.tier)):
            view = a_view(spent_today=Decimal(4))
            moved = min(value * factor, 1.0) if name != "usd_per_day" else value * factor
            assert decide(objective_at(loaded, **{name: moved}), ASKED, known, view).tier == tier
    assert told or name in ("usd_per_day", "large_share", "tradeoff")


def test_moving_a_price_past_what_is_told_flips_the_choice() -> None:
    loaded, known = a_policy(), some_signals(small=0.93, code=0.93, large=0.93, error=0.0)
    explanation = explain(loaded, ASKED, known, a_view())
    told = {flip.setting: flip for flip in explanation.flips}
    assert told["small above"].tier == "code"
    factor = Decimal(re.search(r"\((\S+) times", told["small above"].change)[1])
    backends = [
        backend.model_copy(
            update={
                "cost": backend.cost.model_copy(
                    update={
                        "input_usd_per_mtok": backend.cost.input_usd_per_mtok * factor * 2,
                        "output_usd_per_mtok": backend.cost.output_usd_per_mtok * factor * 2,
                    }
                )
            }
        )
        for backend in loaded.policy.tiers["small"].backends
    ]
    small = loaded.policy.tiers["small"].model_copy(update={"backends": tuple(backends)})
    dearer = replace(loaded, policy=loaded.policy.model_copy(update={"tiers": {**loaded.policy.tiers, "small": small}}))
    assert decide(dearer, ASKED, known, a_view()).tier == "code"


def test_a_rules_bounds_are_moved_just_past_the_request() -> None:
    told = {str(flip) for flip in explained().flips}
    assert "rule 'hard' with complexity at_least 0.2: large" in told
    assert not any("small talk" in flip for flip in told)
    hard = {str(flip) for flip in explained(some_signals("law", 0.9, small=0.9, code=0.5, large=0.9)).flips}
    assert "rule 'hard' with complexity at_least 0.901: small" in hard
    assert "rule 'small talk' with input_tokens less_than 101: small" not in hard


@pytest.mark.parametrize("bound", ["at_least", "more_than", "at_most", "less_than"])
@pytest.mark.parametrize("limit", [50, 100, 150])
def test_each_bound_told_flips_when_it_is_set_so(bound: str, limit: int) -> None:
    rule = {"name": "r", "when": {"input_tokens": {bound: limit}}, "tier": "large"}
    explanation = explain(a_policy(rules=[rule]), ASKED, some_signals(), a_view())
    (flip,) = (flip for flip in explanation.flips if flip.setting.startswith("rule"))
    moved = int(float(flip.change.split()[1]))
    rule["when"] = {"input_tokens": {bound: moved}}
    assert decide(a_policy(rules=[rule]), ASKED, some_signals(), a_view()).tier == flip.tier
