"""Entries laid out field by field, and as blocks of the journal."""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.values import Attempt, Entry, Features, Session, Signals, Usage, View
from router.ledger import blocks, codec, columns
from tests.router.ledger.entries import NOON, entries, entry

_SMALL = 2**64


def _fits(made: Entry) -> bool:
    nanos = [made.cost_nanos, made.baseline_nanos, *(attempt.cost_nanos for attempt in made.attempts)]
    return max(amount or 0 for amount in nanos) < _SMALL


def _told(made: Entry) -> str:
    """All that an entry says, to the last digit, in which values that are equal may differ; sets in order."""
    sets = {"requires": sorted(made.features.requires), "cooling": sorted(made.view.cooling)}
    bare = replace(
        made, features=replace(made.features, requires=frozenset()), view=replace(made.view, cooling=frozenset())
    )
    return f"{sets} {codec.encode(bare).decode()}"


@settings(max_examples=60, deadline=None)
@given(st.lists(entries, min_size=1, max_size=10), st.integers(1, 4))
def test_entries_survive_a_block_whole(made: list[Entry], times: int) -> None:
    made = made * times
    blockwise = [codec.decode(line) for line in blocks.unpack(blocks.of(made))]
    assert list(map(_told, blockwise)) == list(map(_told, made))
    if all(map(_fits, made)):
        assert [codec.decode(line) for line in columns.lines(columns.lay(made))] == blockwise == made


def _tried(*outcomes: str) -> tuple[Attempt, ...]:
    usage = Usage(100, output_tokens=7)
    return tuple(
        Attempt(f"b{place}", "small", "m", outcome, 200, usage=usage if outcome == "ok" else None, cost_nanos=place)  # type: ignore[arg-type]
        for place, outcome in enumerate(outcomes)
    )


def _mixed() -> Sequence[Entry]:
    """A commit's entries as they come: most alike, some with a session, some tried twice, one refused."""
    made = [entry(f"r{i}", at=NOON + i / 7, cost=i, total_ms=i / 3) for i in range(40)]
    for i in range(0, 40, 3):
        made[i] = replace(made[i], view=replace(made[i].view, session=Session("small", "qwen", i / 40)))
    for i in range(0, 40, 5):
        made[i] = replace(made[i], attempts=_tried("error", "ok"), signals=None)
    for i in range(20):
        made[i] = replace(made[i], view=replace(made[i].view, in_flight={"=": i, "~": 2, "?": 0}))
    made[6] = replace(made[6], requested_model="=")
    made[7] = replace(made[7], attempts=(), features=replace(made[7].features, requires=frozenset({"tools"})))
    return made


def test_what_only_some_entries_have_is_theirs_again() -> None:
    made = _mixed()
    layout = columns.lay(made)
    for most in (None, 100, 40, 39, 17, 3, 1):
        assert [codec.decode(line) for line in columns.lines(layout, most)] == made[-(most or 0) :]


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")], ids=str)
def test_moments_are_as_a_line_has_them(zone: tzinfo) -> None:
    made = [entry(f"r{i}") for i in range(30)]
    made = [replace(one, view=View(now=datetime(2026, 11, 22, 10, i, 5, 7 * i, zone))) for i, one in enumerate(made)]
    assert (b'"as":"t"' in columns.lay(made).text) == (str(zone) == "UTC")
    assert [codec.encode(codec.decode(line)) for line in columns.lines(columns.lay(made))] == list(
        map(codec.encode, made)
    )


def test_mappings_with_the_same_keys_stand_by_key() -> None:
    probable = [{"math": i / 7, "=": 1 - i / 7} for i in range(30)]
    made = [replace(entry(f"r{i}"), signals=Signals(domain_probs=one)) for i, one in enumerate(probable)]
    layout = columns.lay(made)
    assert layout.text.count(b'"math"') == 1
    assert [codec.decode(line) for line in columns.lines(layout)] == made


def test_what_is_the_same_for_all_stands_once() -> None:
    alike = [entry(f"r{i}", key="key_of_all", total_ms=i) for i in range(100)]
    layout = columns.lay(alike)
    assert layout.text.count(b"key_of_all") == layout.text.count(b'"because"') == 1
    assert b'"service_tier"' not in layout.text, "a default"
    assert layout.text.count(b"r99") == 1


@pytest.mark.parametrize("odd", [{"requested_model": "gpt\ud800"}, {"cost_nanos": 2**64}], ids=["text", "number"])
def test_one_that_a_layout_cannot_hold_is_kept_as_a_line_like_those_beside_it(odd: dict[str, object]) -> None:
    made = [entry(f"r{i}") for i in range(30)]
    made[9] = replace(made[9], **odd)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError)):
        columns.lay(made)
    kept = [codec.decode(line) for line in blocks.unpack(blocks.of(made))]
    assert [one.id for one in kept] == [one.id for one in made]
    assert kept[9] == codec.decode(codec.encode(made[9]))


def _many() -> list[Entry]:
    """Entries of whose fields each is of another form in the bulk."""
    made = []
    for i in range(40):
        one = entry(
            f"{i * 2**90:032x}", at=NOON + i / 7, cost=i - 3, baseline=i * 2**40, key=f"k{i % 3}", total_ms=i / 3
        )
        features = Features(conversation=f"{i:024X}", input_tokens=300 * i, has_tools=i % 2 == 0, language="en")
        made.append(replace(one, features=features, stream=i % 5 == 0, proxy_nanos=i, status=200 + i % 4))
    return made


def test_columns_stand_in_the_bulk_in_few_bytes_and_come_back_whole() -> None:
    made = _many()
    layout = columns.lay(made)
    assert {form for form in ("16x", "d", "t", "q", "H", "B", "?") if f'"as":"{form}"'.encode() in layout.text} == {
        "16x", "d", "t", "q", "H", "B", "?"
    }  # fmt: skip
    assert b'"000000000000000000000000"' in layout.text, "capital letters are no digits that a layout writes"
    for most in (None, 39, 1):
        assert [codec.decode(line) for line in columns.lines(layout, most)] == made[-(most or 0) :]


@pytest.mark.parametrize("damage", [lambda bulk: bulk[:-1], lambda bulk: b"\1" + bulk[1:]], ids=["cut", "changed"])
def test_a_bulk_that_the_disk_damaged_is_not_read(damage: Callable[[bytes], bytes]) -> None:
    layout = columns.lay(_many())
    block = zlib.compress(layout.text) + damage(layout.bulk)
    with pytest.raises(sqlite3.DatabaseError, match="its bulk is not what its checksum is of"):
        blocks.unpack(block)
    with pytest.raises(sqlite3.DatabaseError, match="its end is missing"):
        blocks.unpack(block[:30])


def test_what_two_records_share_is_written_once() -> None:
    made = [replace(one, usage=Usage(i, output_tokens=3 * i)) for i, one in enumerate(_many())]
    shared = [replace(one, attempts=(replace(one.attempts[0], usage=one.usage),)) for one in made]
    assert len(columns.lay(shared).bulk) == len(columns.lay(made).bulk)
    assert [codec.decode(line) for line in columns.lines(columns.lay(shared))] == shared


def test_a_few_entries_are_lines() -> None:
    few = [entry("a"), entry("b")]
    assert blocks.of(few) == blocks.pack(list(map(codec.encode, few)))
