"""Adding entries up into sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from math import exp, factorial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from policies.money import NANOS_PER_USD
from policies.values import Attempt, Entry, Usage
from router.ledger import histogram, lengths
from router.ledger.sums import (
    COUNTS,
    LATENCIES,
    RARE_TOKENS,
    REPLICATES,
    SAVING_FIELD,
    SEEN_FIELD,
    SPEND_FIELD,
    Cell,
    Tally,
    hour_of,
    pack_vector,
)

if TYPE_CHECKING:
    import numpy as np

_TOKENS = (*COUNTS[COUNTS.index("input_tokens") :], *RARE_TOKENS)
_tokens = attrgetter(*_TOKENS)
_latencies = attrgetter(*(f"{name}_ms" for name in LATENCIES))
_paid = attrgetter("baseline_nanos", "cost_nanos", "proxy_nanos")

_Key: TypeAlias = tuple[int, str, str, str, str, str, str]
"""A `Cell` as a plain tuple, of which one is made for each attempt."""


def tallies_of(entry: Entry) -> dict[Cell, Tally]:
    """What one entry adds to each cell. The cells' money adds up to the entry's, to the nano-dollar."""
    tallies: dict[_Key, Tally] = defaultdict(Tally)
    _add(entry, tallies)
    return {Cell(*key): tally for key, tally in tallies.items()}


def _plain(entry: Entry, hour: int) -> _Key | None:
    """The one cell of an entry that was answered at the first attempt, with nothing unknown; None for any other."""
    if len(entry.attempts) != 1 or entry.baseline_nanos is None or entry.cost_nanos is None or entry.ttft_ms is None:
        return None
    attempt = entry.attempts[0]
    if attempt.outcome != "ok" or entry.outcome != "ok" or attempt.backend != entry.backend:
        return None
    if attempt.usage is None or attempt.cost_nanos != entry.cost_nanos:
        return None
    return (hour, attempt.tier, attempt.backend, attempt.model, _domain(entry), entry.key_id, attempt.precision)


def _add_alike(entries: Sequence[Entry], tally: Tally) -> None:
    """Add `_plain` entries of one cell, all at once: column by column costs a third of entry by entry."""
    counts, money = tally.counts, tally.money
    used = [entry.attempts[0].usage for entry in entries]
    counts["requests"] += len(entries)
    counts["attempts"] += len(entries)
    counts["estimated"] += sum(not entry.usage.measured for entry in entries)
    for name, column in zip(_TOKENS, zip(*map(_tokens, used), strict=True), strict=True):
        if total := sum(column):
            into: dict[str, Any] = counts if name in counts else tally.reals
            into[name] += total
    for name, column in zip(LATENCIES, zip(*map(_latencies, entries), strict=True), strict=True):
        buckets = tally.latencies[name]
        for index in map(histogram.bucket, column):
            buckets[index] = buckets.get(index, 0) + 1
    for baseline, cost, proxy in map(_paid, entries):
        saving = baseline - cost - proxy
        money["cost"] += cost
        money["baseline"] += baseline
        money["saving"] += saving
        _add_squares(tally, saving / NANOS_PER_USD, baseline / NANOS_PER_USD)
    tally.reals["assumed"] += sum(e.counterfactual is not None and e.counterfactual.assumed for e in entries)


def _add(entry: Entry, tallies: Mapping[_Key, Tally]) -> None:
    hour, domain = hour_of(entry.at), _domain(entry)
    keys = [(hour, a.tier, a.backend, a.model, domain, entry.key_id, a.precision) for a in entry.attempts]
    unserved = (hour, entry.tier, entry.backend, entry.served_model, domain, entry.key_id, "")
    served = tallies[next((key for key in reversed(keys) if key[2] == entry.backend), unserved)]
    counts, money = served.counts, served.money
    counts["requests"] += 1
    if entry.outcome == "cancelled":
        counts["cancelled"] += 1
    elif entry.outcome != "ok":
        counts["errors"] += 1
    counts["estimated"] += not entry.usage.measured
    served.observe("total", entry.total_ms)
    served.observe("classify", entry.classify_ms)
    served.observe("overhead", entry.overhead_ms)
    if entry.ttft_ms is not None:
        served.observe("ttft", entry.ttft_ms)
    paid, used = 0, False
    for key, attempt in zip(keys, entry.attempts, strict=True):
        paid += attempt.cost_nanos or 0
        used = used or attempt.usage is not None
        _add_attempt(attempt, tallies[key], answered=attempt.outcome == "ok" and attempt is entry.attempts[-1])
    if not used:
        _add_usage(served, entry.usage)
    if entry.cost_nanos is None:
        counts["unpriced"] += 1
        return
    money["cost"] += entry.cost_nanos - paid
    if entry.baseline_nanos is not None:
        money["baseline"] += entry.baseline_nanos
        saving = entry.baseline_nanos - entry.cost_nanos - entry.proxy_nanos
        money["saving"] += saving
        _add_squares(served, saving / NANOS_PER_USD, entry.baseline_nanos / NANOS_PER_USD)
        served.reals["assumed"] += entry.counterfactual is not None and entry.counterfactual.assumed


def _add_squares(tally: Tally, saving: float, baseline: float) -> None:
    tally.reals["saving_squared"] += saving * saving
    tally.reals["saving_baseline"] += saving * baseline
    tally.reals["baseline_squared"] += baseline * baseline


def _add_attempt(attempt: Attempt, tally: Tally, *, answered: bool) -> None:
    counts, cost = tally.counts, attempt.cost_nanos or 0
    counts["attempts"] += 1
    counts["failed_attempts"] += attempt.outcome != "ok"
    tally.money["cost"] += cost
    tally.money["wasted"] += 0 if answered else cost
    if attempt.usage is not None:
        _add_usage(tally, attempt.usage)


def _add_usage(tally: Tally, usage: Usage) -> None:
    counts = tally.counts
    counts["input_tokens"] += usage.input_tokens
    counts["output_tokens"] += usage.output_tokens
    counts["cached_input_tokens"] += usage.cached_input_tokens
    counts["cache_write_tokens"] += usage.cache_write_tokens
    counts["reasoning_tokens"] += usage.reasoning_tokens
    for name in RARE_TOKENS:
        if tokens := getattr(usage, name):
            tally.reals[name] += tokens


def spent(entry: Entry) -> int:
    """Nano-dollars known to be spent on a request: its cost, or its attempts' priced part when it is `unpriced`."""
    return entry.cost_nanos if entry.cost_nanos is not None else sum(a.cost_nanos or 0 for a in entry.attempts)


def _domain(entry: Entry) -> str:
    return entry.signals.domain if entry.signals is not None and entry.signals.knows_domain else ""


def pack_entries(entries: Sequence[Entry]) -> dict[tuple[int, str], bytes]:
    """The packed sums of some entries."""
    tallies: dict[_Key, Tally] = defaultdict(Tally)
    spend: dict[int, list[int]] = defaultdict(lambda: [0] * 4)
    savings: dict[int, list[tuple[int, int]]] = defaultdict(list)
    seen: dict[tuple[int, tuple[str, str, str, str]], list[int]] = defaultdict(lambda: [0, 0])
    plain: dict[_Key, list[Entry]] = defaultdict(list)
    for entry in entries:
        hour = hour_of(entry.at)
        if (key := _plain(entry, hour)) is not None:
            plain[key].append(entry)
        else:
            _add(entry, tallies)
        spend[hour][int(entry.at % 3600 // 900)] += spent(entry)
        if entry.cost_nanos is not None and entry.baseline_nanos is not None:
            saving = entry.baseline_nanos - entry.cost_nanos - entry.proxy_nanos
            savings[hour].append((saving, entry.baseline_nanos))
        for stratum, used, given in lengths.seen_in(entry):
            sums = seen[hour // 24 * 24, stratum]
            sums[0] += used
            sums[1] += given
    for key, alike in plain.items():
        _add_alike(alike, tallies[key])
    packed = {(key[0], Cell(*key).field): tally.pack() for key, tally in tallies.items()}
    for hour, quarters in spend.items():
        packed[hour, SPEND_FIELD] = pack_vector(part for nanos in quarters for part in divmod(nanos, NANOS_PER_USD))
    for hour, pairs in savings.items():
        packed[hour, SAVING_FIELD] = pack_vector(_replicates(pairs))
    for (day, stratum), sums in seen.items():
        packed[day, "\x1f".join((SEEN_FIELD, *stratum))] = pack_vector(sums)
    return packed


def _replicates(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Sums of (saving, baseline) over `REPLICATES` resamples.

    The Poisson bootstrap (Hanley and MacGibbon 2006): each request counts Poisson(1) times in each replicate, drawn
    once, when it is written down; so replicates of hours and proxies simply add up.
    """
    import numpy as np

    ends, bits = _poisson()
    drawn = bits.random_raw(REPLICATES * len(pairs) // 4).view(np.uint16).reshape(REPLICATES, -1)
    times, beyond = np.zeros(drawn.shape, np.uint8), np.empty(drawn.shape, np.bool_)
    for end in ends:
        times += np.greater_equal(drawn, end, out=beyond)
    micros = (times.astype(np.float64) @ (np.array(pairs, dtype=np.float64) / 1_000)).T
    rounded: list[int] = np.rint(micros).astype(np.int64).ravel().tolist()
    return rounded


@cache
def _poisson() -> tuple[Sequence[np.uint16], np.random.BitGenerator]:
    """Where 16 even bits are cut into Poisson(1) numbers, and what draws the bits: cheaper than drawing the numbers."""
    import numpy as np

    shares = np.array([exp(-1) / factorial(times) for times in range(9)])
    ends = np.rint(np.cumsum(shares) * 65_536)
    return tuple(ends[ends < 65_536].astype(np.uint16)), np.random.SFC64()
