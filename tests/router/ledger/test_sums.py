from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.values import Attempt, Entry, Features, Usage
from router.ledger.replicates import TIMES, replicates
from router.ledger.sums import (
    COUNTS,
    MONEY,
    SAVING_FIELD,
    SPEND_FIELD,
    Cell,
    Packed,
    Tally,
    held,
    hour_of,
    merge,
    merge_packed,
    pack_vector,
    seconds_held,
    unpack_vector,
)
from router.ledger.tallying import pack_entries, spent, tallies_of
from tests.router.ledger.entries import NOON, entries, entry


def _without_draws(packed: Packed) -> dict[tuple[int, str], object]:
    """What does not depend on chance; dollars and the rest of them, which are added up apart, as one."""
    said: dict[tuple[int, str], object] = {key: sums for key, sums in packed.items() if key[1] != SAVING_FIELD}
    for key in said:
        if key[1] == SPEND_FIELD:
            numbers = unpack_vector(packed[key])
            said[key] = [10**9 * usd + rest for usd, rest in zip(numbers[::2], numbers[1::2], strict=True)]
    return said


def _total(packed: Packed) -> Tally:
    total = Tally()
    for (_, name), sums in packed.items():
        if not name.startswith("="):
            total.merge(Tally.unpack(sums))
    return total


@settings(max_examples=25, deadline=None)
@given(st.lists(entries, max_size=3), st.lists(entries, max_size=3))
def test_sums_of_parts_merge_into_the_sums_of_the_whole(first: list[Entry], second: list[Entry]) -> None:
    merged = merge_packed(pack_entries(first), pack_entries(second))
    assert _without_draws(merged) == _without_draws(pack_entries(first + second))


@settings(max_examples=40, deadline=None)
@given(st.lists(entries, max_size=4))
def test_cells_conserve_every_nano_dollar_token_and_request(made: Sequence[Entry]) -> None:
    total = _total(pack_entries(made))
    assert total.counts["requests"] == len(made)
    assert total.counts["attempts"] == sum(len(e.attempts) for e in made)
    assert total.counts["unpriced"] == sum(e.cost_nanos is None for e in made)
    assert total.money["cost"] == sum(map(spent, made))
    used = [usage for e in made for usage in ([a.usage for a in e.attempts if a.usage] or [e.usage])]
    assert total.counts["input_tokens"] == sum(usage.input_tokens for usage in used)
    known = [e for e in made if e.cost_nanos is not None and e.baseline_nanos is not None]
    assert total.money["saving"] == sum((e.baseline_nanos or 0) - (e.cost_nanos or 0) - e.proxy_nanos for e in known)
    assert sum(total.latencies["total"].values()) == len(made)


@settings(max_examples=40, deadline=None)
@given(entries)
def test_a_tally_survives_packing(made: Entry) -> None:
    for tally in tallies_of(made).values():
        assert Tally.unpack(tally.pack()) == tally


def test_money_beyond_a_double_is_exact() -> None:
    huge = entry(cost=9_007_199_254_740_993, baseline=None)
    total = _total(merge_packed(pack_entries([huge]), pack_entries([huge])))
    assert total.money["cost"] == 2 * 9_007_199_254_740_993


def test_each_attempt_is_billed_to_its_own_backend_and_waste_is_shown_apart() -> None:
    usage = Usage(10, output_tokens=2)
    failed = Attempt("qwen", "small", "qwen-7b", "error", 500, "server_error", usage=usage, cost_nanos=30)
    answered = Attempt("gpt", "large", "gpt-4o", "ok", 200, usage=usage, cost_nanos=700)
    cells = tallies_of(entry(tier="large", backend="gpt", attempts=(failed, answered), cost=730, baseline=700))
    small = next(tally for cell, tally in cells.items() if cell.backend == "qwen")
    large = next(tally for cell, tally in cells.items() if cell.backend == "gpt")
    assert (small.counts["requests"], small.money["cost"], small.money["wasted"]) == (0, 30, 30)
    assert (large.counts["requests"], large.money["cost"], large.money["wasted"]) == (1, 700, 0)
    assert large.money["saving"] + small.money["saving"] == -30


def test_entries_that_are_alike_add_up_as_they_do_one_by_one() -> None:
    """Two kinds of requests, of two keys, over the end of an hour, and enough of each."""
    made = [
        entry(
            f"r{i}", at=NOON + 3600 - 40 + i / 2, cost=1_000 + i, baseline=5_000 + 7 * i, key=f"k{i % 2}",
            usage=Usage(100 + i, output_tokens=i % 5, audio_input_tokens=i % 3), total_ms=1.1**i,
            features=Features(input_tokens=90, has_tools=i % 4 == 0, max_output_tokens=3 if i % 10 == 0 else None),
        )
        for i in range(160)
    ]  # fmt: skip
    together, apart = pack_entries(made), merge_packed(*(pack_entries([one]) for one in made))
    assert together.keys() == apart.keys()
    slowly: dict[tuple[int, str], Tally] = defaultdict(Tally)
    for one in made:
        for cell, tally in tallies_of(one).items():
            slowly[cell.hour, cell.field].merge(tally)
    for (hour, name), packed in together.items():
        if name[0] != "=":
            mine = Tally.unpack(packed)
            for theirs in (Tally.unpack(apart[hour, name]), slowly[hour, name]):
                assert (mine.counts, mine.money, mine.latencies) == (theirs.counts, theirs.money, theirs.latencies)
                assert mine.reals == pytest.approx(theirs.reals, rel=1e-12)
        elif name != SAVING_FIELD:
            assert packed == apart[hour, name]


def test_the_bootstrap_s_weights_have_poisson_s_mean_and_nearly_its_variance() -> None:
    draws = sum(TIMES)
    mean = sum(times * count for times, count in enumerate(TIMES)) / draws
    variance = sum((times - mean) ** 2 * count for times, count in enumerate(TIMES)) / draws
    assert (draws, mean) == (256, 1)
    assert abs(variance - 1) < 0.01


def test_draws_are_poisson_s_and_independent_of_each_other() -> None:
    """Of 12 requests together, told apart by their decimal place; so many draws that an odd one in a million shows."""
    worth = [1_000 * 10**place for place in range(12)]
    sums = np.array([replicates(worth, worth)[200:] for _ in range(100)])
    drawn = sums[..., None] // 10 ** np.arange(12) % 10
    expected = np.array(TIMES) / 256 * drawn.size
    assert np.all(abs(np.bincount(drawn.ravel(), minlength=len(TIMES)) - expected) < 5 * np.sqrt(expected))
    centred = drawn - 1
    for apart in (1, 8, 11):
        for one, other in (
            (centred[..., apart:], centred[..., :-apart]),
            (centred[:, apart:], centred[:, :-apart]),
            (centred[apart:], centred[:-apart]),
        ):
            assert abs((one * other).mean()) < 5 / np.sqrt(one.size)


def test_an_unpriced_request_adds_nothing_to_cost_or_saving_and_is_counted() -> None:
    (tally,) = tallies_of(entry(cost=None, baseline=9_000)).values()
    assert (tally.counts["unpriced"], tally.money) == (1, dict.fromkeys(MONEY, 0))


def test_a_free_request_is_not_unpriced() -> None:
    (tally,) = tallies_of(entry(cost=0, baseline=0)).values()
    assert tally.counts["unpriced"] == 0


def test_a_domain_that_was_not_read_is_not_made_up() -> None:
    made = replace(entry(), signals=None)
    assert {cell.domain for cell in tallies_of(made)} == {""}


def test_spend_is_by_quarter_of_an_hour() -> None:
    packed = pack_entries([entry("a", at=NOON, cost=5), entry("b", at=NOON + 3599, cost=2 * 10**9 + 7)])
    assert unpack_vector(packed[hour_of(NOON), SPEND_FIELD]) == (0, 5, 0, 0, 0, 0, 2, 7)


def test_replicates_centre_on_the_saving() -> None:
    packed = pack_entries([entry(str(i), cost=1_000, baseline=5_000) for i in range(400)])
    vector = unpack_vector(packed[hour_of(NOON), SAVING_FIELD])
    savings, baselines = vector[:200], vector[200:]
    assert abs(sum(savings) / 200 - 400 * 4) < 0.02 * 400 * 4
    assert all(saving * 5 == baseline * 4 for saving, baseline in zip(savings, baselines, strict=True))


@given(st.lists(st.tuples(st.floats(0, 7200), st.floats(0, 1200)), min_size=1, max_size=6))
def test_held_seconds_are_a_union(spans: list[tuple[float, float]]) -> None:
    packed = merge_packed(*(held("gpu", 10**9, NOON + start, NOON + start + length) for start, length in spans))
    seconds = {s for start, length in spans for s in range(int(NOON + start), int(NOON + start + length) + 1)}
    assert sum(map(seconds_held, packed.values())) == len(seconds)


@given(st.lists(st.integers(-(2**53), 2**53), min_size=3, max_size=3))
def test_vectors_add_up(numbers: list[int]) -> None:
    doubled = merge(pack_vector(numbers), pack_vector(numbers))
    assert unpack_vector(doubled) == tuple(2 * number for number in numbers)


def test_different_kinds_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different kinds"):
        merge(pack_vector([1]), Tally().pack())
    with pytest.raises(ValueError, match="not a packed tally"):
        Tally.unpack(pack_vector([1] * 100))


def test_a_cell_is_found_again_by_its_field() -> None:
    cell = Cell(3, "small", "b", "m", "", "k", "int4")
    assert Cell.of(3, cell.field) == cell
    assert set(COUNTS).isdisjoint(MONEY)
