"""The choice of a backend within its tier: load first, warm prefixes second, sessions kept for what moving loses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import placement
from policies.decide import decide
from policies.document import Loaded
from policies.money import price_of
from policies.placement import PRESSED, STAY_MS
from policies.schema import Backend, GpuPrice, TokenPrice
from policies.values import EngineView, Features, Session, Signals, View
from tests.policies.examples import MANY, a_document, a_policy, a_view, engines, features, signals, some_signals
from tests.policies.examples import views as worlds

NAMES = ("a", "b", "c")
PROMPT = Features(input_tokens=8_000, turns=3, last_characters=360)
LIMIT = 8


def backend(name: str, **more: object) -> Backend:
    stated = {"name": name, "kind": "vllm", "model": "m", "max_in_flight": LIMIT, **more}
    return Backend.model_validate(stated)


def standpoints(
    backends: list[Backend], asked: Features, view: View, session: Session | None = None
) -> list[placement.Standpoint]:
    prices = {backend.name: price_of(backend) for backend in backends}
    return placement.standpoints(backends, prices, asked, view, session)


def first(view: View, asked: Features = PROMPT, session: Session | None = None, **costs: object) -> str:
    backends = [backend(name, cost=costs.get(name)) for name in NAMES]
    return placement.order(standpoints(backends, asked, view, session), session)[0].backend


@pytest.mark.parametrize(
    ("view", "chosen"),
    [
        ({}, "a"),
        ({"in_flight": {"a": 1}}, "b"),
        ({"in_flight": {"a": 3, "b": 2, "c": 1}}, "c"),
        ({"in_flight": {"a": LIMIT, "b": LIMIT - 1, "c": LIMIT}}, "b"),
        ({"engines": {"a": EngineView(waiting=4), "b": EngineView(waiting=1), "c": EngineView(waiting=2)}}, "b"),
        ({"engines": {"a": EngineView(elsewhere=9), "b": EngineView(elsewhere=0), "c": EngineView(elsewhere=2)}}, "b"),
        ({"engines": {"a": EngineView(kv_use=0.99), "b": EngineView(kv_use=0.93), "c": EngineView(kv_use=0.95)}}, "b"),
        ({"engines": {"a": EngineView(kv_use=PRESSED), "b": EngineView(kv_use=0.1), "c": EngineView(kv_use=0)}}, "a"),
        ({"warm": {"b": 6_000}}, "b"),
        ({"warm": {"b": 6_000}, "in_flight": {"b": 7}}, "b"),
        ({"warm": {"b": 6_000}, "engines": {name: EngineView(waiting=8 * (name == "b")) for name in NAMES}}, "a"),
        ({"warm": {"b": 6_000, "c": 7_900}}, "c"),
    ],
)
def test_load_first_then_warm_prefixes(view: dict[str, object], chosen: str) -> None:
    assert first(a_view(**view)) == chosen


def test_a_slow_engines_queue_is_longer() -> None:
    quick, slow = EngineView(waiting=3, tokens_per_second=3000), EngineView(waiting=1, tokens_per_second=100)
    assert first(a_view(engines={"a": slow, "b": quick, "c": slow})) == "b"


def test_an_engine_that_says_nothing_is_taken_to_be_like_its_peers() -> None:
    """Not idle: peers that are loaded must not all send to the one whose metrics are broken."""
    told = {"a": EngineView(waiting=0, elsewhere=0), "b": EngineView(waiting=10, elsewhere=10)}
    assert first(a_view(engines=told)) == "a"
    assert first(a_view(engines=told, in_flight={"a": 1})) == "a"
    loaded = {name: EngineView(waiting=5, elsewhere=5) for name in ("a", "b")}
    assert first(a_view(engines=loaded)) == "a"
    assert first(a_view(engines=loaded, in_flight={"a": 1, "b": 1})) == "c"


def test_a_queue_is_moved_by_what_was_sent_and_came_back_since() -> None:
    told = {
        "a": EngineView(waiting=4, running=6, elsewhere=0),
        "b": EngineView(waiting=1, running=6, elsewhere=0),
        "c": EngineView(waiting=4, running=6, elsewhere=0),
    }
    then = {"a": 7, "b": 7, "c": 7}
    assert first(a_view(engines=told, in_flight={"a": 10, "b": 7, "c": 10})) == "b"
    assert first(a_view(engines=told, in_flight=then | {"a": 6, "b": 7})) == "a"


def test_computing_anew_also_holds_up_those_who_wait_there() -> None:
    told = {"a": EngineView(waiting=4), "b": EngineView(waiting=9), "c": EngineView(waiting=9)}
    assert first(a_view(engines=told, warm={"b": 1_000})) == "a"
    assert first(a_view(engines=told, warm={"b": 2_000})) == "b"


OWN = Session("small", "b")


def test_a_session_stays_unless_the_gain_beats_what_it_loses() -> None:
    def stays(waiting: float) -> bool:
        told = {name: EngineView(waiting=waiting * (name == "b")) for name in NAMES}
        return first(a_view(engines=told), session=OWN) == "b"

    prefix_ms = 1e3 * (8_000 - 90) / placement.PREFILL_TOKENS_PER_SECOND
    turns = (prefix_ms + STAY_MS) / placement.WAITING_MS
    assert stays(turns - 0.01)
    assert not stays(turns + 0.01)


def test_where_all_queues_are_long_a_session_is_not_moved_by_chance() -> None:
    """Twelve waiting against eight may be luck; against none, or thirty against eight, it is not."""

    def stays(own: float, others: float) -> bool:
        told = {name: EngineView(waiting=own if name == "b" else others) for name in NAMES}
        return first(a_view(engines=told), replace(PROMPT, turns=1), session=OWN) == "b"

    assert stays(12, 8)
    assert not stays(12, 0)
    assert not stays(30, 8)


def test_a_turn_lasts_as_long_as_passes_between_two_that_begin() -> None:
    """Two a second make eight waiting four seconds, whatever the engine generates."""
    told = {"a": EngineView(waiting=8, requests_per_second=2, tokens_per_second=5_000), "b": EngineView(waiting=0)}
    found = standpoints([backend("a"), backend("b")], PROMPT, a_view(engines=told), None)
    assert found[0].wait_ms == pytest.approx(4_000)
    assert found[0].error_ms == pytest.approx(500 * 8**0.5)
    slow = EngineView(waiting=1, requests_per_second=0.001)
    assert (
        standpoints([backend("a"), backend("b")], PROMPT, a_view(engines={"a": slow, "b": slow}), None)[0].wait_ms
        == placement.LONGEST_TURN_MS
    )


def test_a_lost_prefix_costs_what_it_throws_out_too() -> None:
    def lost(hit_rate: float | None) -> tuple[float, float]:
        told = {name: EngineView(prefix_hit_rate=hit_rate) for name in ("a", "b")}
        dear = TokenPrice(input_usd_per_mtok=10, output_usd_per_mtok=10, cached_input_usd_per_mtok=0)
        some = [backend(name, cost=dear) for name in ("a", "b")]
        cold = standpoints(some, replace(PROMPT, input_tokens=5_090), a_view(engines=told), OWN)[0]
        return cold.lost_ms, cold.lost_usd

    assert lost(None) == (pytest.approx(1_000), pytest.approx(0.05))
    assert lost(0.8) == (pytest.approx(1_800), pytest.approx(0.09))


def test_the_lost_prefix_is_priced_in_dollars() -> None:
    dear = TokenPrice(input_usd_per_mtok=10, output_usd_per_mtok=10, cached_input_usd_per_mtok=1)
    busy = a_view(engines={name: EngineView(waiting=9.0 * (name == "b")) for name in NAMES})
    assert first(busy, session=OWN) == "a"
    assert first(busy, session=OWN, a=dear, c=dear) == "b"


def test_a_gpus_lost_prefix_is_its_time() -> None:
    hour = GpuPrice(gpu_hour_usd=3600, capacity=1)
    found = standpoints([backend("a", cost=hour), backend("b", cost=hour)], PROMPT, a_view(warm={"b": 5_000}), None)
    assert found[0].lost_usd == pytest.approx(1.0)
    assert found[0].lost_ms == pytest.approx(1_000)
    known = a_view(warm={"b": 5_000}, engines={"a": EngineView(prefill_tokens_per_second=50_000)})
    assert standpoints([backend("a"), backend("b")], PROMPT, known, None)[0].lost_ms == pytest.approx(100)


def test_a_first_turn_has_nothing_to_lose() -> None:
    opening = replace(PROMPT, turns=1)
    assert first(a_view(in_flight={"b": 7}), opening, session=OWN) == "b"
    told = {name: EngineView(waiting=1.0 * (name == "b")) for name in NAMES}
    assert first(a_view(engines=told), opening, session=OWN) == "a"


def test_reasons_name_what_a_person_would_ask_about() -> None:
    def reasons(**view: object) -> str:
        asked = Features(input_tokens=4_000, turns=3, last_characters=400)
        return "; ".join(decide(a_policy(), asked, some_signals(), a_view(**view)).reasons)

    held = Session("small", "small-2")
    assert "warm" not in reasons()
    assert "small-2 has about 3,900 tokens of it warm" in reasons(session=held)
    assert "small-2 has about 3,000 tokens of it warm" in reasons(warm={"small-2": 3_000})
    assert "the session moves from small-2, which is full, to small-1" in reasons(
        session=held, in_flight={"small-2": 4}
    )
    queued = {"small-1": EngineView(waiting=0), "small-2": EngineView(waiting=20)}
    assert "the session moves from small-2 to small-1: 5,000 ms less to wait against 780 ms and $0" in reasons(
        session=held, engines=queued
    )


views = st.builds(
    a_view,
    in_flight=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2 * LIMIT)),
    engines=st.dictionaries(st.sampled_from(NAMES), engines),
    warm=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10_000)),
    session=st.none() | st.builds(Session, tier=st.just("t"), backend=st.sampled_from(NAMES)),
)


@MANY
@given(features, views)
def test_whatever_engines_say_every_backend_is_placed_once_and_full_ones_last(asked: Features, view: View) -> None:
    backends = [backend(name) for name in NAMES]
    ordered = placement.order(standpoints(backends, asked, view, view.session), view.session)
    assert sorted(at.backend for at in ordered) == list(NAMES)
    assert [at.full for at in ordered] == sorted(at.full for at in ordered)
    assert all(0 <= at.total_ms < float("inf") for at in ordered)
    assert isinstance(placement.why(ordered, view.session), str)


@MANY
@given(features, views, st.sampled_from(NAMES), st.sampled_from(("waiting", "elsewhere", "kv_use")), st.floats(0, 50))
def test_more_load_never_makes_a_backend_more_attractive(
    asked: Features, view: View, name: str, what: str, more: float
) -> None:
    def place(view: View) -> int:
        backends = [backend(each) for each in NAMES]
        ordered = placement.order(standpoints(backends, asked, view, view.session), view.session)
        return [at.backend for at in ordered].index(name)

    quiet = dict.fromkeys(NAMES, EngineView(waiting=0, elsewhere=0, kv_use=0))
    before = replace(view, engines=quiet)
    after = replace(view, engines=quiet | {name: replace(quiet[name], **{what: more})})
    assert place(after) >= place(before)


@MANY
@given(features, views, st.sampled_from(NAMES), st.integers(0, 10_000))
def test_a_warmer_prefix_never_makes_a_backend_less_attractive(
    asked: Features, view: View, name: str, more: int
) -> None:
    def place(view: View) -> int:
        backends = [backend(each) for each in NAMES]
        ordered = placement.order(standpoints(backends, asked, view, view.session), view.session)
        return [at.backend for at in ordered].index(name)

    same = replace(view, engines={})
    assert place(replace(same, warm={**view.warm, name: view.warm.get(name, 0) + more})) <= place(same)


def _each_alone() -> Loaded:
    """The example policy, its small tier's second backend left out."""
    tiers = a_document()["tiers"]
    assert isinstance(tiers, dict)
    return a_policy(tiers={**tiers, "small": {"backends": tiers["small"]["backends"][:1]}})


EACH_ALONE = _each_alone()


@MANY
@given(features, st.none() | signals, worlds)
def test_load_matters_to_no_tier_of_one_backend(asked: Features, known: Signals | None, view: View) -> None:
    """So it is not read where all are such."""
    assert decide(EACH_ALONE, asked, known, view) == decide(EACH_ALONE, asked, known, replace(view, in_flight={}))
