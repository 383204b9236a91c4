"""The decision: total, deterministic, never an ineligible step; and each stop in its order."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from policies.addressing import Target
from policies.case import budgets_for, case_of, estimate
from policies.decide import decide, decide_afresh, weigh
from policies.document import Loaded
from policies.doubts import could_flip, needs_signals
from policies.values import Features, Session, Signals, Step, View
from tests.policies.examples import (
    MANY,
    PLAIN,
    a_policy,
    a_view,
    features,
    policies,
    signals,
    some_signals,
    views,
)


@MANY
@given(policies, features, signals, views)
def test_it_is_total_and_deterministic(loaded: Loaded, asked: Features, known: Signals | None, view: View) -> None:
    decision = decide(loaded, asked, known, view)
    assert decision == decide(loaded, asked, known, view)
    assert bool(decision.steps) == (decision.refusal is None)
    assert decision.reasons
    assert decision.policy_hash == loaded.hash
    assert 0 < decision.propensity <= 1
    assert len(set(decision.steps)) == len(decision.steps)
    assert needs_signals(loaded, asked) in (True, False)
    assert known is None or could_flip(weigh(loaded, asked, known, view)) in (True, False)


@MANY
@given(policies, features, signals, views)
def test_a_plan_decides_what_would_be_decided_afresh(
    loaded: Loaded, asked: Features, known: Signals | None, view: View
) -> None:
    """Requests are also made such that nothing stands in their way, as it mostly is."""
    clear = replace(asked, input_tokens=min(asked.input_tokens, 500), max_output_tokens=None, requires=frozenset())
    for request in (asked, clear, replace(clear, allowed=None, headers={})):
        for seen in (view, replace(view, cooling=frozenset(), exceeded=())):
            assert decide(loaded, request, None, seen) == decide_afresh(loaded, request, None, seen)
        assert decide(loaded, request, known, view) == decide_afresh(loaded, request, known, view)


@MANY
@given(policies, features, signals)
def test_what_is_remembered_of_a_size_is_what_is_estimated(
    loaded: Loaded, asked: Features, known: Signals | None
) -> None:
    clear = replace(asked, input_tokens=min(asked.input_tokens, 500), max_output_tokens=None, requires=frozenset())
    request = replace(clear, allowed=None, headers={})
    case = case_of(loaded, Target("auto"), request, known, a_view())
    assume(not case.narrowed and not any(standing.obstacles for standing in case.standings))
    for order, (tier, settled) in enumerate(loaded.policy.tiers.items()):
        assert case.options[tier] == estimate(loaded.prices, tier, order, settled.backends, request, known)


def test_there_is_a_plan_for_what_has_one_way_only() -> None:
    loaded = a_policy(aliases={"best": "tier/large"})
    for model in ("tier/large", "tier/code", "tier/small", "small-1", "best", "auto", "gpt-9"):
        decide(loaded, replace(PLAIN, model=model), None, a_view())
    planned = {model: plan.steps for model, plan in loaded.plans.items() if plan is not None}
    assert planned == {
        "tier/large": (Step("large", "large-1"),),
        "tier/code": (Step("code", "code-1"), Step("large", "large-1")),
        "small-1": (Step("small", "small-1"),),
        "best": (Step("large", "large-1"),),
    }
    assert "gpt-9" not in loaded.plans


@MANY
@given(policies, features, signals, views)
def test_no_step_is_ineligible(loaded: Loaded, asked: Features, known: Signals | None, view: View) -> None:
    decision = decide(loaded, asked, known, view)
    backends = {backend.name: (tier, backend) for tier, s in loaded.policy.tiers.items() for backend in s.backends}
    matched = [rule for rule in loaded.policy.rules if rule.name in decision.rules and rule.exclude]
    for step in decision.steps:
        tier, backend = backends[step.backend]
        assert tier == step.tier
        assert asked.allowed is None or {step.backend, f"tier/{tier}"} & {*asked.allowed}
        assert asked.requires <= set(backend.supports)
        assert asked.input_tokens + (asked.max_output_tokens or 256) <= backend.context_window
        assert (asked.max_output_tokens or 0) <= (backend.max_output_tokens or 10**9)
        for rule in matched:
            assert backend.precision not in rule.exclude.precision
            assert backend.kind not in rule.exclude.kind
            assert tier not in rule.exclude.tier
    resting = [step.backend in view.cooling for step in decision.steps]
    assert all(resting) or not any(resting)


@MANY
@given(policies, features, signals, views)
def test_a_refusal_says_what_to_do(loaded: Loaded, asked: Features, known: Signals | None, view: View) -> None:
    refusal = decide(loaded, asked, known, view).refusal
    assume(refusal is not None)
    assert refusal.status in (400, 403, 404, 429)
    assert refusal.message
    assert refusal.code


def test_a_key_chooses_among_what_it_may_use() -> None:
    held = replace(PLAIN, allowed=("tier/small", "code-1"))
    decision = decide(a_policy(), held, None, a_view())
    assert decision.tier == "code"
    assert decision.reasons[0] == "the key may use tier/small, code-1"
    (large,) = [estimate for estimate in decision.estimates if estimate.tier == "large"]
    assert large.excluded == ("large-1 is not allowed to this key",)
    assert decide(a_policy(), replace(held, model="tier/small"), None, a_view()).steps[-1].tier == "small"


@pytest.mark.parametrize("model", ["tier/large", "large-1", "the-best"])
def test_a_key_is_told_what_it_may_not_use(model: str) -> None:
    loaded = a_policy(aliases={"the-best": "tier/large"}, fallback={"large": ["small"]})
    held = replace(PLAIN, model=model, allowed=("small-1",))
    refusal = decide(loaded, held, None, a_view()).refusal
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (403, "model_not_allowed", "model")
    assert refusal.message == f"This key may not use {model!r}; it may use small-1."
    unknown = decide(loaded, replace(held, model="gpt-9"), None, a_view()).refusal
    assert unknown is not None
    assert "large" not in unknown.message


def test_a_key_hears_of_what_it_may_use_alone() -> None:
    held = replace(PLAIN, input_tokens=90_000, allowed=("tier/small",))
    refusal = decide(a_policy(), held, None, a_view()).refusal
    assert refusal is not None
    assert refusal.code == "context_length_exceeded"
    assert "large-1" not in refusal.message


def test_the_cheapest_that_keeps_quality_is_chosen() -> None:
    decision = decide(a_policy(), PLAIN, some_signals(small=0.92, code=0.90, large=0.93), a_view())
    assert decision.steps == (Step("small", "small-1"), Step("small", "small-2"), Step("large", "large-1"))
    assert decision.reasons == (
        "domain chat, complexity 0.20 (simple)",
        "small is the cheapest that keeps 97% of large: predicted 0.92 against 0.93 at 2% of its cost",
    )
    assert decision.wanted == "small"
    assert [estimate.tier for estimate in decision.estimates] == ["small", "code", "large"]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (None, "success is not predicted: staying on the baseline, large"),
        (Signals(missing=("no classifier",)), "signals are incomplete (no classifier): leaning to large"),
        (replace(some_signals(), ood=True), "unlike anything trained on: leaning to large"),
        (replace(some_signals(), missing=("late",)), "signals are incomplete (late): leaning to large"),
    ],
)
def test_missing_late_and_foreign_signals_route_up(known: Signals | None, said: str) -> None:
    decision = decide(a_policy(), PLAIN, known, a_view())
    assert decision.tier == "large"
    assert said in decision.reasons


def test_what_was_set_aside_is_said_and_changes_nothing_else() -> None:
    plain, aside = (decide(a_policy(), PLAIN, replace(some_signals(), aside=n), a_view()) for n in (0, 40))
    assert set(aside.reasons) - set(plain.reasons) == {
        "40 characters set aside: they share no word with the rest, which is easier without them"
    }
    assert aside.steps == plain.steps


@pytest.mark.parametrize(
    ("model", "tier", "backends"),
    [("tier/small", "small", ["small-1", "small-2", "large-1"]), ("code-1", "code", ["code-1"]),
     ("cheap", "small", ["small-1", "small-2", "large-1"]), ("chain", "small", ["small-2"]),
     ("auto:best", "large", ["large-1"]), ("", "large", ["large-1"])],
)  # fmt: skip
def test_a_model_name_is_resolved(model: str, tier: str, backends: list[str]) -> None:
    aliases = {"cheap": "tier/small", "chain": "chained", "chained": "small-2"}
    loaded = a_policy(aliases=aliases, objectives={"best": {"tradeoff": 0}})
    decision = decide(loaded, replace(PLAIN, model=model), None, a_view())
    assert decision.tier == tier
    assert [step.backend for step in decision.steps] == backends


def test_an_unknown_model_is_a_404_that_lists_what_exists() -> None:
    loaded = a_policy(aliases={"gpt": "auto"}, objectives={"best": {"tradeoff": 0}})
    refusal = decide(loaded, replace(PLAIN, model="tier/smal"), None, a_view()).refusal
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")
    assert refusal.message == (
        "The model 'tier/smal' does not exist. did you mean tier/small? There are: "
        "auto, auto:best, tier/small, tier/code, tier/large, small-1, small-2, code-1, large-1, gpt."
    )


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"input_tokens": 200_000}, 400, "context_length_exceeded"),
        ({"input_tokens": 99_900}, 400, "context_length_exceeded"),
        ({"model": "small-1", "max_output_tokens": 3_000}, 400, "max_tokens_exceeded"),
        ({"model": "tier/code", "input_tokens": 120_000}, 400, "context_length_exceeded"),
        ({"model": "small-1", "requires": frozenset({"vision"})}, 400, "unsupported_capability"),
        ({"language": "xx"}, 403, "excluded_by_policy"),
    ],
)
def test_what_nothing_can_serve_is_refused_with_the_reason(asked: dict, status: int, code: str) -> None:
    rules = [{"name": "closed", "when": {"language": "xx"}, "exclude": {"kind": "openai"}}]
    decision = decide(a_policy(rules=rules), replace(PLAIN, **asked), None, a_view())
    assert (decision.refusal.status, decision.refusal.code) == (status, code)
    assert decision.steps == ()
    assert decision.reasons[-1] == decision.refusal.message


def test_eligibility_comes_before_the_objective() -> None:
    known = some_signals(small=0.95, code=0.95, large=0.95)
    assert decide(a_policy(), PLAIN, known, a_view()).tier == "small"
    assert decide(a_policy(), replace(PLAIN, input_tokens=9_000), known, a_view()).tier == "code"
    assert decide(a_policy(), replace(PLAIN, requires=frozenset({"json_schema"})), known, a_view()).tier == "small"
    assert decide(a_policy(), replace(PLAIN, requires=frozenset({"vision"})), known, a_view()).tier == "large"
    resting = a_view(cooling=frozenset({"small-1", "small-2"}))
    decision = decide(a_policy(), PLAIN, known, resting)
    assert decision.tier == "code"
    assert decision.estimates[0].excluded == ("small-1 rests after failures", "small-2 rests after failures")


def test_when_everything_rests_the_least_bad_is_tried() -> None:
    resting = a_view(cooling=frozenset({"small-1", "small-2", "code-1", "large-1"}), in_flight={"small-1": 3})
    decision = decide(a_policy(), PLAIN, some_signals(), resting)
    assert [step.backend for step in decision.steps] == ["small-2", "small-1", "large-1"]
    assert "everything that could serve rests after failures: trying the least bad" in decision.reasons


def test_within_a_tier_the_least_loaded_comes_first_and_a_full_one_last() -> None:
    def order(**in_flight: int) -> list[str]:
        busy = {name.replace("_", "-"): count for name, count in in_flight.items()}
        decision = decide(a_policy(), PLAIN, some_signals(), a_view(in_flight=busy))
        return [step.backend for step in decision.steps]

    assert order() == ["small-1", "small-2", "large-1"]
    assert order(small_1=1) == ["small-2", "small-1", "large-1"]
    assert order(small_1=200, small_2=4) == ["small-1", "small-2", "large-1"]


CODE = {"name": "code", "when": {"domain": "code"}, "prefer": "code"}


def test_a_preference_is_taken_if_it_keeps_the_floor() -> None:
    loaded = a_policy(rules=[CODE])
    good = some_signals("code", small=0.5, code=0.8, large=0.82)
    poor = some_signals("code", small=0.5, code=0.6, large=0.82)
    decision = decide(loaded, PLAIN, good, a_view())
    assert (decision.tier, decision.rules) == ("code", ("code",))
    decision = decide(loaded, PLAIN, poor, a_view())
    assert decision.tier == "large"
    assert "rule 'code' prefers code, but its predicted 0.60 is below the floor of 0.80" in decision.reasons
    decision = decide(loaded, replace(PLAIN, input_tokens=20_000), good, a_view())
    assert decision.tier == "large"
    assert "rule 'code' prefers code, which cannot serve it" in decision.reasons


def test_a_preference_without_a_prediction_is_trusted() -> None:
    known = some_signals("code", small=0.5, large=0.9)
    assert decide(a_policy(rules=[CODE]), PLAIN, known, a_view()).tier == "code"
    free = a_policy(rules=[CODE], objective={"tradeoff": 0})
    assert decide(free, PLAIN, some_signals("code", small=0.1, code=0.2, large=0.9), a_view()).tier == "code"


def test_the_first_matching_tier_rule_settles_it() -> None:
    rules = [
        CODE,
        {"name": "hard", "when": {"complexity": "complex"}, "tier": "large"},
        {"name": "all", "tier": "small"},
    ]
    loaded = a_policy(rules=rules)
    held = a_view(session=Session("large", "large-1"))
    assert decide(loaded, PLAIN, some_signals("code", 0.9), a_view()).tier == "large"
    assert decide(loaded, PLAIN, some_signals("code", 0.1), held).tier == "small"
    assert decide(loaded, PLAIN, None, a_view()).reasons == ("rule 'all' sends it to small",)


def test_a_tier_rule_falls_back_and_else_leaves_it_to_the_objective() -> None:
    long = replace(PLAIN, input_tokens=20_000)
    rules = [{"name": "all", "tier": "small"}]
    assert decide(a_policy(rules=rules), long, None, a_view()).steps == (Step("large", "large-1"),)
    decision = decide(a_policy(rules=rules, fallback={}), long, None, a_view())
    assert decision.tier == "large"
    assert "rule 'all' would send it to small, which cannot serve it" in decision.reasons


def test_excludes_add_up_and_bind_named_models_too() -> None:
    rules = [
        {"name": "no int4", "when": {"domain": "math"}, "exclude": {"precision": "int4"}},
        {"name": "no code", "when": {"domain": "math"}, "exclude": {"tier": "code"}},
    ]
    known = some_signals("math", small=0.9, code=0.9, large=0.9)
    decision = decide(a_policy(rules=rules), PLAIN, known, a_view())
    assert decision.steps == (Step("small", "small-2"), Step("large", "large-1"))
    assert decision.estimates[1].excluded == ("code-1 is excluded by rule 'no code' (tier code)",)
    assert decide(a_policy(rules=rules), replace(PLAIN, model="small-1"), known, a_view()).refusal.status == 403


@pytest.mark.parametrize(
    ("budget", "exceeded", "tier", "code"),
    [
        ({"on_exceeded": "reject"}, ("b",), "", "budget_exceeded"),
        ({"on_exceeded": "downgrade"}, ("b",), "small", None),
        ({"on_exceeded": "downgrade"}, ("other",), "large", None),
        ({"when": {"language": "de"}}, ("b",), "large", None),
        ({"scope": "tier"}, ("b/large",), "code", None),
        ({"scope": "model"}, ("b/m-large-1",), "code", None),
        ({"scope": "tier"}, ("b/large", "b/code", "b/small"), "", "budget_exceeded"),
    ],
)
def test_a_spent_budget_downgrades_or_refuses(budget: dict, exceeded: tuple, tier: str, code: str | None) -> None:
    loaded = a_policy(budgets=[{"name": "b", "per": "day", "usd": 1, **budget}])
    decision = decide(loaded, PLAIN, some_signals(small=0.2, code=0.85, large=0.9), a_view(exceeded=exceeded))
    assert decision.tier == tier
    assert (decision.refusal and decision.refusal.code) == code
    assert decision.refusal is None or decision.refusal.status == 429


def test_a_downgrade_also_binds_requests_that_name_a_model() -> None:
    loaded = a_policy(budgets=[{"name": "b", "per": "day", "usd": 1, "on_exceeded": "downgrade"}])
    spent = a_view(exceeded=("b",), session=Session("large", "large-1"))
    decision = decide(loaded, replace(PLAIN, model="tier/large"), None, spent)
    assert decision.tier == "small"
    assert "the budget 'b' is spent: small is the cheapest left" in decision.reasons
    assert decide(loaded, replace(PLAIN, model="large-1"), None, spent).refusal.status == 429


def test_which_budgets_count() -> None:
    budgets = [
        {"name": "all", "per": "day", "usd": 1},
        {"name": "code", "per": "day", "usd": 1, "when": {"domain": "code"}},
    ]
    loaded = a_policy(budgets=budgets)
    assert [b.name for b in budgets_for(loaded, PLAIN, some_signals("law"), a_view())] == ["all"]
    assert [b.name for b in budgets_for(loaded, PLAIN, None, a_view())] == ["all", "code"]


def test_a_session_goes_up_at_once_and_keeps_its_backend() -> None:
    easy, hard = some_signals(), some_signals(complexity=0.9, small=0.3, code=0.3, large=0.8)
    assert decide(a_policy(), PLAIN, hard, a_view(session=Session("small", "small-2"))).tier == "large"
    decision = decide(a_policy(), PLAIN, easy, a_view(session=Session("small", "small-2"), in_flight={"small-2": 2}))
    assert [step.backend for step in decision.steps][:2] == ["small-2", "small-1"]
    full = a_view(session=Session("small", "small-2"), in_flight={"small-2": 4})
    assert decide(a_policy(), PLAIN, easy, full).steps[0].backend == "small-1"


def test_a_session_goes_down_only_after_some_easier_turns() -> None:
    def tier(easier: int, **changes: object) -> str:
        session = Session("large", "large-1", easier_turns=easier)
        return decide(a_policy(), replace(PLAIN, **changes), some_signals(), a_view(session=session)).tier

    assert [tier(easier) for easier in range(4)] == ["large", "large", "small", "small"]
    assert tier(9, turns=4, last_characters=9) == "large"
    assert tier(9, turns=1, last_characters=9) == "small"
    assert tier(9, turns=4, last_characters=60) == "small"


def test_a_session_is_let_go_where_it_cannot_stay() -> None:
    def tier(loaded: Loaded, **view: object) -> str:
        return decide(loaded, PLAIN, some_signals(), a_view(session=Session("large", "large-1"), **view)).tier

    assert tier(a_policy()) == "large"
    assert tier(a_policy(session={"sticky": False})) == "small"
    assert tier(a_policy(), cooling=frozenset({"large-1"})) == "small"
    assert decide(a_policy(), PLAIN, some_signals(), a_view(session=Session("gone", "x"))).tier == "small"


def test_exploration_takes_every_tier_at_its_odds() -> None:
    loaded = a_policy(exploration=0.3)
    tried = {draw: decide(loaded, PLAIN, some_signals(), a_view(draw=draw)) for draw in (0.05, 0.15, 0.25, 0.3, 0.99)}
    assert [decision.tier for decision in tried.values()] == ["small", "code", "large", "small", "small"]
    assert [round(decision.propensity, 6) for decision in tried.values()] == [0.8, 0.1, 0.1, 0.8, 0.8]
    assert tried[0.15].reasons[-1] == "exploring: code by chance"
    assert tried[0.15].wanted == "small"
    held = decide(loaded, PLAIN, some_signals(), a_view(draw=0.15, session=Session("small", "small-1")))
    assert (held.tier, held.propensity) == ("small", 1.0)


@settings(max_examples=60, deadline=None)
@given(policies, features, signals, views)
def test_propensities_are_the_share_of_draws(
    loaded: Loaded, asked: Features, known: Signals | None, view: View
) -> None:
    decisions = [decide(loaded, asked, known, replace(view, draw=(n + 0.5) / 60)) for n in range(60)]
    for decision in decisions:
        share = sum(other.tier == decision.tier and other.steps == decision.steps for other in decisions) / 60
        assert decision.refusal or share == pytest.approx(decision.propensity, abs=0.04)
