"""Adding entries up into sums."""

from __future__ import annotations

import struct
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from policies.money import NANOS_PER_USD
from policies.values import Attempt, Entry, Usage
from router.ledger import histogram, lengths
from router.ledger.columns import reader
from router.ledger.replicates import replicates
from router.ledger.sums import (
    COUNTS,
    LATENCIES,
    RARE_TOKENS,
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
_tokens = reader(_TOKENS)
_latencies = reader([f"{name}_ms" for name in LATENCIES])
_paid = reader(["baseline_nanos", "cost_nanos", "proxy_nanos"])

_QUARTER = 900.0
_FEW = 4
"""Fewer entries than these are added more quickly one by one."""

_Key: TypeAlias = tuple[int, str, str, str, str, str, str]
"""A `Cell` as a plain tuple, of which one is made for each attempt."""
_Alike: TypeAlias = tuple[int, str, str, str, str, str, str, str]
"""The same, but of a quarter of an hour, and with the kind of request (`lengths.stratum`)."""


def tallies_of(entry: Entry) -> dict[Cell, Tally]:
    """What one entry adds to each cell. The cells' money adds up to the entry's, to the nano-dollar."""
    tallies: dict[_Key, Tally] = defaultdict(Tally)
    _add(entry, tallies)
    return {Cell(*key): tally for key, tally in tallies.items()}


def _plain(entry: Entry) -> _Alike | None:
    """What an entry has in common with others, if it was answered at the first attempt and all is known; else None."""
    attempts, cost = entry.attempts, entry.cost_nanos
    if len(attempts) != 1 or cost is None or entry.baseline_nanos is None or entry.ttft_ms is None:
        return None
    attempt = attempts[0]
    tier, backend = attempt.tier, attempt.backend
    if attempt.outcome != "ok" or entry.outcome != "ok" or attempt.usage is None:
        return None
    if backend != entry.backend or tier != entry.tier or attempt.cost_nanos != cost:
        return None
    domain, kind = lengths.stratum(entry.features, entry.signals)
    return int(entry.at // _QUARTER), tier, backend, attempt.model, domain, entry.key_id, attempt.precision, kind


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


@dataclass(slots=True)
class _Sums:
    """What some entries add up to. Those that are alike are added column by column, at a third of the cost."""

    tallies: dict[_Key, Tally] = field(default_factory=lambda: defaultdict(Tally))
    spend: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 4))
    savings: dict[int, tuple[array[float], array[float]]] = field(
        default_factory=lambda: defaultdict(lambda: (array("d"), array("d")))
    )
    seen: dict[tuple[int, tuple[str, str, str, str]], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )

    def add(self, entry: Entry) -> None:
        """Add any entry."""
        _add(entry, self.tallies)
        self._spend_and_see(int(entry.at // _QUARTER), spent(entry), (entry,))
        if entry.cost_nanos is not None and entry.baseline_nanos is not None:
            saving = entry.baseline_nanos - entry.cost_nanos - entry.proxy_nanos
            savings, baselines = self.savings[hour_of(entry.at)]
            savings.append(saving)
            baselines.append(entry.baseline_nanos)

    def add_alike(self, common: _Alike, entries: Sequence[Entry]) -> None:
        """Add `_plain` entries that have all this in common."""
        quarter, tier, backend, model, domain, key, precision, _ = common
        tally = self.tallies[quarter // 4, tier, backend, model, domain, key, precision]
        counts, money, reals = tally.counts, tally.money, tally.reals
        counts["requests"] += len(entries)
        counts["attempts"] += len(entries)
        counts["estimated"] += len([entry for entry in entries if not entry.usage.measured])
        used = [entry.attempts[0].usage for entry in entries]
        for name, column in zip(_TOKENS, _tokens(used), strict=True):
            if total := sum(column):
                into: dict[str, Any] = counts if name in counts else reals
                into[name] += total
        for name, found in zip(LATENCIES, histogram.counted(_latencies(entries)), strict=True):
            known = tally.latencies[name]
            if known:
                for bucket, count in found.items():
                    known[bucket] = known.get(bucket, 0) + count
            else:
                known.update(found)
        paid = _paid(entries)
        baseline, cost, proxy = map(sum, paid)
        money["cost"] += cost
        money["baseline"] += baseline
        money["saving"] += baseline - cost - proxy
        baselines, costs, proxies = map(_numbers, paid)
        savings = baselines - costs - proxies
        saved, compared = savings / NANOS_PER_USD, baselines / NANOS_PER_USD
        reals["saving_squared"] += float(saved @ saved)
        reals["saving_baseline"] += float(saved @ compared)
        reals["baseline_squared"] += float(compared @ compared)
        reals["assumed"] += sum([one.assumed for one in [entry.counterfactual for entry in entries] if one is not None])
        for known_before, numbers in zip(self.savings[quarter // 4], (savings, baselines), strict=True):
            known_before.frombytes(numbers.tobytes())
        self._spend_and_see(quarter, cost, entries)

    def _spend_and_see(self, quarter: int, nanos: int, entries: Sequence[Entry]) -> None:
        self.spend[quarter // 4][quarter % 4] += nanos
        for stratum, used, given in lengths.seen_in(entries):
            sums = self.seen[quarter // 96 * 24, stratum]
            sums[0] += used
            sums[1] += given

    def packed(self) -> dict[tuple[int, str], bytes]:
        """All of it, packed."""
        packed = {(key[0], Cell(*key).field): tally.pack() for key, tally in self.tallies.items()}
        for hour, quarters in self.spend.items():
            packed[hour, SPEND_FIELD] = pack_vector(part for nanos in quarters for part in divmod(nanos, NANOS_PER_USD))
        for hour, columns in self.savings.items():
            packed[hour, SAVING_FIELD] = pack_vector(replicates(*columns))
        for (day, stratum), sums in self.seen.items():
            packed[day, "\x1f".join((SEEN_FIELD, *stratum))] = pack_vector(sums)
        return packed


def pack_entries(entries: Sequence[Entry]) -> dict[tuple[int, str], bytes]:
    """The packed sums of some entries."""
    sums = _Sums()
    alike: dict[_Alike, list[Entry]] = defaultdict(list)
    for entry in entries:
        if (common := _plain(entry)) is not None:
            alike[common].append(entry)
        else:
            sums.add(entry)
    for common, some in alike.items():
        if len(some) < _FEW:
            for entry in some:
                sums.add(entry)
        else:
            sums.add_alike(common, some)
    return sums.packed()


def _numbers(column: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Numbers for numpy, in a quarter of the time that it takes to read a list."""
    import numpy as np

    return np.frombuffer(struct.pack(f"{len(column)}d", *column))
