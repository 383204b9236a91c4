"""Tiers of so many backends that a request looks at a few of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.crowds import LOOKED_AT, crowds, share
from policies.decide import decide, decide_afresh
from policies.document import Loaded
from policies.money import tariffs
from policies.schema import Tier
from policies.values import Features, Session
from tests.policies.examples import a_document, a_policy, a_view, features, some_signals

MANY = 3 * LOOKED_AT


def a_crowd(number: int = MANY, **settings: object) -> Loaded:
    """The example policy whose small tier has this many backends, a third of them in fp16 and dearer."""
    document = a_document(**settings)
    tiers = document["tiers"]
    assert isinstance(tiers, dict)
    int4, fp16 = tiers["small"]["backends"]
    fp16 = {
        **fp16,
        "model": int4["model"],
        "max_in_flight": 256,
        "cost": {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1},
    }
    tiers["small"]["backends"] = [
        {**(int4, int4, fp16)[place % 3], "name": f"small-{place}", "base_url": f"http://gpu-{place}:8000/v1"}
        for place in range(number)
    ]
    return a_policy(tiers=tiers, **settings)


def test_a_tier_that_is_looked_at_whole_is_no_crowd() -> None:
    assert not crowds(a_crowd(LOOKED_AT).policy)
    assert set(crowds(a_crowd(LOOKED_AT + 1).policy)) == {"small"}


def test_backends_are_alike_that_differ_in_their_address_alone() -> None:
    groups = crowds(a_crowd().policy)["small"]
    assert sorted(map(len, groups)) == [LOOKED_AT, 2 * LOOKED_AT]
    assert sorted(name for group in groups for name in group) == sorted(f"small-{place}" for place in range(MANY))


def test_a_backend_that_a_rule_names_is_like_no_other() -> None:
    rules = [
        {"name": "not there", "when": {"turns": {"at_least": 2}}, "exclude": {"backend": "small-5"}},
        {"name": "up", "when": {"turns": {"at_least": 9}}, "tier": "large"},
    ]
    assert ("small-5",) in crowds(a_crowd(rules=rules).policy)["small"]


def test_each_group_is_given_its_share_and_never_less_than_a_choice() -> None:
    assert share((("a",),)) == LOOKED_AT
    assert share((("a",), ("b",))) == LOOKED_AT // 2
    assert share(tuple((str(place),) for place in range(MANY))) == 2


def test_the_least_loaded_of_those_looked_at_is_tried_first_and_no_other() -> None:
    loaded, seen = a_crowd(), ("small-9", "small-4", "small-30")
    view = a_view(looked_at={"small": seen}, in_flight={"small-9": 4, "small-4": 1, "small-30": 9})
    decision = decide(loaded, Features(model="tier/small"), None, view)
    assert [step.backend for step in decision.steps] == ["small-4", "small-9", "small-30", "large-1"]


def test_a_view_of_backends_that_are_gone_is_a_view_of_all() -> None:
    decision = decide(a_crowd(), Features(model="tier/small"), None, a_view(looked_at={"small": ("gone",)}))
    assert len(decision.steps) == MANY + 1


def test_who_rests_of_those_looked_at_is_passed_by() -> None:
    view = a_view(looked_at={"small": ("small-3", "small-6")}, cooling=frozenset({"small-3"}))
    decision = decide(a_crowd(), Features(model="tier/small"), None, view)
    assert [step.backend for step in decision.steps] == ["small-6", "large-1"]


RULED = a_crowd(rules=[{"name": "none", "when": {"turns": {"at_least": 3}}, "exclude": {"precision": "int4"}}])

names = st.lists(st.sampled_from([f"small-{place}" for place in range(MANY)]), min_size=1, max_size=6, unique=True)


@given(features, names, st.booleans(), st.dictionaries(st.sampled_from(["small-0", "small-1"]), st.integers(0, 9)))
def test_a_decision_is_as_if_the_tier_were_those_looked_at(
    asked: Features, seen: list[str], told: bool, busy: dict[str, int]
) -> None:
    """Costs too, as the tier's dearest backend among those looked at makes them."""
    signals = some_signals() if told else None
    view = a_view(looked_at={"small": tuple(seen)}, in_flight=busy, session=Session("small", seen[0]))
    asked = replace(asked, model=asked.model if asked.model in ("auto", "tier/small", "large-1") else "auto")
    part = _pruned(RULED, seen)
    among_few, alone = decide(RULED, asked, signals, view), decide(part, asked, signals, replace(view, looked_at={}))
    assert (among_few.steps, among_few.reasons, among_few.refusal) == (alone.steps, alone.reasons, alone.refusal)


def _pruned(loaded: Loaded, names: list[str]) -> Loaded:
    """The policy with these backends alone in its small tier."""
    policy, small = loaded.policy, loaded.policy.tiers["small"]
    by_name = {backend.name: backend for backend in small.backends}
    tier: Tier = small.model_copy(update={"backends": tuple(by_name[name] for name in names)})
    return replace(loaded, policy=policy.model_copy(update={"tiers": {**policy.tiers, "small": tier}}))


def test_all_backends_of_a_price_are_estimated_by_one_of_them() -> None:
    loaded, asked = a_crowd(), Features(model="large-1", input_tokens=500)
    small = loaded.policy.tiers["small"].backends
    assert tariffs(small, loaded.prices) == tariffs(small[1:3], loaded.prices)
    planned = decide(loaded, asked, None, a_view())
    assert planned.estimates == decide_afresh(loaded, asked, None, a_view()).estimates
