from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings

from policies.values import (
    Attempt,
    Counterfactual,
    Decision,
    EngineView,
    Entry,
    Estimate,
    Features,
    Session,
    Signals,
    Step,
    Success,
    Usage,
    View,
)
from router.ledger import codec
from tests.router.ledger.entries import entries, entry


@settings(max_examples=40, deadline=None)
@given(entries)
def test_an_entry_survives_its_encoding_whole(made: Entry) -> None:
    assert codec.decode(codec.encode(made)) == made


def test_fields_added_since_take_their_defaults() -> None:
    older = codec.encode(entry()).replace(b',"precision":"int4"', b"")
    assert codec.decode(older).attempts[0].precision == ""


OLD = b"""{"id": "1", "at": 1.5, "key_id": "k", "requested_model": "auto", "served_model": "m", "tier": "small",
"backend": "b", "status": 200, "outcome": "ok", "stream": false,
"decision": {"steps": [{"tier": "small", "backend": "b"}], "reasons": ["why"], "policy_hash": "h",
"estimates": [{"tier": "small", "success": {"probability": 0.5, "standard_error": 0.1}, "cost_usd": "0.1"}]},
"features": {}, "signals": {}, "view": {"now": "2026-11-22T10:00:00Z", "session": {"tier": "small", "backend": "b"},
"engines": {"b": {}}}, "attempts": [{"backend": "b", "tier": "small", "model": "m", "outcome": "ok", "usage": {}}],
"usage": {}, "cost_nanos": 1, "baseline_nanos": 2, "classify_ms": 0.0, "overhead_ms": 1.0, "ttft_ms": null,
"total_ms": 3.0, "counterfactual": {"backend": "big"}}"""

MEANT = Entry(
    "1", 1.5, "k", "auto", "m", "small", "b", 200, "ok", False,
    Decision(
        (Step("small", "b"),), ("why",), "h", 1.0,
        (Estimate("small", Success(0.5, 0.1, "trained"), Decimal("0.1"), None, ()),), (), "", None,
    ),
    Features(
        model="auto", text="", last_text="", last_characters=0, system_text="", turns=1, input_tokens=0,
        max_output_tokens=None, choices=1, stream=False, language="und", has_code=False, has_tools=False,
        has_images=False, requires=frozenset(), conversation="", key_id="anonymous", headers={}, allowed=None,
    ),
    Signals(domain="other", domain_probs={}, complexity=None, success={}, ood=False, look="lexical", artifact="",
            missing=()),
    View(
        now=datetime(2026, 11, 22, 10, tzinfo=UTC), cooling=frozenset(), in_flight={}, exceeded=(),
        session=Session("small", "b", 0.0, 0), spent_today=Decimal(0), draw=1.0, engines={"b": EngineView()}, warm={},
    ),
    (Attempt("b", "small", "m", "ok", None, "", "done", Usage(), None, None, 0.0, ""),),
    Usage(0, 0, 0, 0, 0, True, 0, 0, 0, "", 0), 1, 2, 0.0, 1.0, None, 3.0, Counterfactual("big", 1.0, 1.0, 0), 0,
)  # fmt: skip


def test_a_default_means_for_ever_what_it_meant_when_it_was_left_out() -> None:
    """Entries leave defaults out, so a default that changed would change what has been written: add a field instead."""
    assert codec.decode(OLD) == MEANT


def test_defaults_are_left_out() -> None:
    made = entry()
    assert b'"text"' not in codec.encode(replace(made, features=Features()))
    assert len(codec.encode(replace(made, features=Features()))) < len(codec.encode(made))


def test_what_is_not_unicode_does_not_cost_the_entry() -> None:
    odd = replace(entry(), requested_model="gpt\ud800", decision=replace(entry().decision, reasons=("\udfff",)))
    kept = codec.decode(codec.encode(odd))
    assert kept == replace(odd, requested_model="gpt?", decision=replace(odd.decision, reasons=("?",)))


def test_damage_is_told_apart() -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.decode(codec.encode(entry())[:-5])


@settings(max_examples=40, deadline=None)
@given(entries)
def test_without_content_nothing_that_users_wrote_remains(made: Entry) -> None:
    bare = codec.without_content(made)
    assert (bare.features.text, bare.features.last_text, bare.features.system_text) == ("", "", "")
    assert not {"authorization", "cookie"} & {name.lower() for name in bare.features.headers}
    assert replace(bare, features=made.features) == made
