from dataclasses import replace

import pytest
from hypothesis import given, settings

from policies.values import Entry
from router.ledger import codec
from tests.router.ledger.entries import entries, entry


@settings(max_examples=40, deadline=None)
@given(entries)
def test_an_entry_survives_its_encoding_whole(made: Entry) -> None:
    assert codec.decode(codec.encode(made)) == made


def test_fields_added_since_take_their_defaults() -> None:
    older = codec.encode(entry()).replace(b',"precision":"int4"', b"")
    assert codec.decode(older).attempts[0].precision == ""


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
