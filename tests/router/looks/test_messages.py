"""What is sent is what comes, bit for bit, however the bytes are cut on their way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.targets import Target
from policies.values import Features, Signals, Success
from router.looks import messages
from router.looks.messages import Terms, Unpacker, pack

texts = st.text(st.characters(exclude_categories=[]), max_size=200)
numbers = st.floats(allow_nan=False)
successes = st.builds(
    Success, numbers, numbers, st.sampled_from(("trained", "size")), numbers, st.lists(numbers, max_size=5).map(tuple)
)
signals = st.builds(
    Signals,
    domain=texts,
    domain_probs=st.dictionaries(texts, numbers, max_size=3),
    complexity=st.none() | numbers,
    success=st.dictionaries(texts, successes, max_size=3),
    ood=st.booleans(),
    look=st.sampled_from(("lexical", "static", "full")),
    artifact=texts,
    missing=st.lists(texts, max_size=2).map(tuple),
    aside=st.integers(0, 10**6),
)
about_requests = st.builds(
    Features,
    text=texts,
    last_text=texts,
    system_text=texts,
    turns=st.integers(1, 99),
    max_output_tokens=st.none() | st.integers(0, 10**9),
    language=texts,
    has_code=st.booleans(),
    requires=st.frozensets(st.sampled_from(("tools", "vision"))),
)


def sent(*message: object, cut: int = 1 << 20) -> list[tuple[object, ...]]:
    data, unpacker = pack(*message) + pack("next"), Unpacker()
    parts = [data[at : at + cut] for at in range(0, len(data), cut)]
    *found, last = [message for part in parts for message in unpacker.feed(part)]
    assert last == ("next",)
    return found


@given(signals, st.integers(1, 50))
def test_signals_come_as_they_went(found: Signals, cut: int) -> None:
    ((_, came),) = sent(0, messages.plain(found), cut=cut)
    assert messages.signals(came) == found  # type: ignore[arg-type]


@given(about_requests, st.integers(1, 50))
def test_what_classifiers_read_comes_as_it_went(features: Features, cut: int) -> None:
    ((_, came),) = sent(0, messages.read(features), cut=cut)
    assert messages.features(came) == features  # type: ignore[arg-type]


def test_who_asks_is_not_told() -> None:
    asked = Features(text="Hello", key_id="secret", conversation="theirs", headers={"x-user": "them"}, allowed=("a",))
    assert messages.features(messages.read(asked)) == Features(text="Hello")


def test_terms_are_the_same_bytes_again() -> None:
    target = Target("small", "a-model", {"mmlu": 0.61}, 7.0, {"mmlu": 0.62})
    terms = Terms("/folder", "id", (target, Target("large")), {"refunds": ("give it back",)}, "large")
    assert Terms.unpacked(terms.packed()) == terms
    assert Terms.unpacked(terms.packed()).packed() == terms.packed()
    assert replace(terms, artifact="other").packed() != terms.packed()


@pytest.mark.parametrize("junk", [b"\x04\0\0\0junk", b"\0\0\0\0", b"\x01\0\0\0["])
def test_what_is_no_message_is_said_to_be_none(junk: bytes) -> None:
    with pytest.raises((ValueError, EOFError, TypeError)):
        list(Unpacker().feed(junk))
