"""The sums that entries add up to (see `tallying`): per hour and cell, in a packed form that merges.

A cell is an hour × tier × backend × model × domain × key × precision. A request counts in the cell that served it; the
money and tokens of each attempt count in the cell of its own backend, so that every cell says what it really spent
and all cells together say what all entries say. Sums are kept packed wherever they rest (the journal, Redis, on the
wire), in the layouts that `merge` and ``router/state/ship.lua`` know:

- a tally: ``01``, number of counters (u8), counters (i64), number of histograms (u8), their lengths (u16), then each
  histogram's sorted pairs of bucket (u16) and count (u32), number of reals (u8), reals (f64); older ones have fewer;
- a vector: ``02``, numbers (i64), which add up one by one;
- a bitmap: ``03``, bits, of which either holds after merging.

All little-endian. Money is kept as two counters, whole dollars and the nano-dollars beyond them, because Lua's numbers
are exact only up to 2^53.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, starmap
from operator import or_
from typing import NamedTuple, TypeAlias

from policies.money import NANOS_PER_USD
from router.ledger import histogram

COUNTS = (
    "requests", "errors", "cancelled", "unpriced", "estimated", "attempts", "failed_attempts",
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
MONEY = ("cost", "wasted", "baseline", "saving")
LATENCIES = ("ttft", "total", "classify", "overhead")
RARE_TOKENS = (
    "cache_write_1h_tokens", "audio_input_tokens", "audio_output_tokens", "image_input_tokens", "image_output_tokens",
)  # fmt: skip
REALS = ("saving_squared", "saving_baseline", "baseline_squared", "assumed", *RARE_TOKENS)
"""Sums over requests that a saving is known of: squares and products, in dollars², from which intervals are made; and
how many were compared with the baseline as if both counted and wrote alike, because nothing is known of that. Then
tokens of the kinds that few requests have. What is added to the end of these, older tallies lack, and hold none of."""
SPEND_FIELD = "=spend"
"""A vector per hour: for each quarter of it, the dollars and nano-dollars spent."""
SAVING_FIELD = "=saving"
"""A vector per hour: bootstrap replicates of the saving, then of the baseline, in millionths of a dollar."""
REPLICATES = 200
GPU_FIELD = "=gpu"
"""A bitmap per hour, backend and rate: the seconds during which its GPUs were held by some proxy."""
SEEN_FIELD = "=seen"
"""A vector per day, measure, subject, domain and kind (see `router.ledger.lengths`): tokens used, and out of what."""
BUDGET_FIELD = "=budget"
"""A vector per budget, subject and window: the dollars, nano-dollars, tokens and requests spent."""

_COUNTERS = len(COUNTS) + 2 * len(MONEY)
_HEAD = struct.Struct(f"<BB{_COUNTERS}qB{len(LATENCIES)}H")
_PAIR = struct.Struct("<HI")
_REALS = struct.Struct(f"<B{len(REALS)}d")
_TALLY, _VECTOR, _BITMAP = 1, 2, 3

Packed: TypeAlias = Mapping[tuple[int, str], bytes]
"""Packed sums by hour (hours since 1970, UTC) and field: a cell's, or one that begins with ``=``."""


class Cell(NamedTuple):
    """What a tally is of. ``hour`` is hours since 1970, UTC."""

    hour: int
    tier: str
    backend: str
    model: str
    domain: str
    key: str
    precision: str

    @property
    def field(self) -> str:
        """The cell's name within its hour."""
        parts = (part.replace("\x1f", " ") for part in self[1:])
        return "\x1f".join(parts).encode(errors="replace").decode()

    @classmethod
    def of(cls, hour: int, name: str) -> Cell:
        """The cell that `field` named."""
        return cls(hour, *name.split("\x1f"))


@dataclass(slots=True)
class Tally:
    """Counters, nano-dollars and latency histograms (bucket → count) that add up."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    money: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MONEY, 0))
    latencies: dict[str, dict[int, int]] = field(default_factory=lambda: {name: {} for name in LATENCIES})
    reals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REALS, 0.0))

    def observe(self, latency: str, milliseconds: float) -> None:
        """Count one duration."""
        index = histogram.bucket(milliseconds)
        self.latencies[latency][index] = self.latencies[latency].get(index, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for name, nano_dollars in other.money.items():
            self.money[name] += nano_dollars
        for name, pairs in other.latencies.items():
            mine = self.latencies[name]
            for index, count in pairs.items():
                mine[index] = mine.get(index, 0) + count
        for name, real in other.reals.items():
            self.reals[name] += real

    def pack(self) -> bytes:
        """The packed form."""
        money = [part for name in MONEY for part in divmod(self.money[name], NANOS_PER_USD)]
        histograms = [[(bucket, counts[bucket]) for bucket in sorted(counts)] for counts in self.latencies.values()]
        head = _HEAD.pack(
            _TALLY, _COUNTERS, *(self.counts[name] for name in COUNTS), *money, len(LATENCIES), *map(len, histograms)
        )
        reals = _REALS.pack(len(REALS), *self.reals.values())
        return head + b"".join(starmap(_PAIR.pack, chain(*histograms))) + reals

    @classmethod
    def unpack(cls, packed: bytes) -> Tally:
        """The tally that `pack` wrote. Raises `ValueError` for anything else."""
        if len(packed) < _HEAD.size or packed[0] != _TALLY or packed[1] != _COUNTERS:
            raise ValueError("not a packed tally of this version")
        _, _, *counters = _HEAD.unpack_from(packed)
        lengths = counters[_COUNTERS + 1 :]
        parts = counters[len(COUNTS) : _COUNTERS]
        money = {name: parts[2 * i] * NANOS_PER_USD + parts[2 * i + 1] for i, name in enumerate(MONEY)}
        tally = cls(dict(zip(COUNTS, counters, strict=False)), money)
        offset = _HEAD.size
        for name, length in zip(LATENCIES, lengths, strict=True):
            end = offset + length * _PAIR.size
            tally.latencies[name] = dict(_PAIR.iter_unpack(packed[offset:end]))
            offset = end
        if offset < len(packed):
            tally.reals |= zip(REALS, struct.unpack_from(f"<{packed[offset]}d", packed, offset + 1), strict=False)
        return tally


def pack_vector(numbers: Iterable[int]) -> bytes:
    """A packed vector."""
    numbers = tuple(numbers)
    return struct.pack(f"<B{len(numbers)}q", _VECTOR, *numbers)


def unpack_vector(packed: bytes) -> tuple[int, ...]:
    """The numbers that `pack_vector` wrote."""
    return struct.unpack_from(f"<{(len(packed) - 1) // 8}q", packed, 1)


def seconds_held(packed: bytes) -> int:
    """How many seconds of its hour a packed bitmap holds."""
    return _bits(packed).bit_count()


def last_held(hour: int, packed: bytes) -> int:
    """The Unix time at which the last second ends that a packed bitmap of an hour holds."""
    return hour * 3600 + _bits(packed).bit_length()


def held(backend: str, hour_nanos: int, since: float, until: float) -> dict[tuple[int, str], bytes]:
    """The packed bitmaps that say that a backend's GPUs were held, at a rate, from one Unix time to another.

    A second that is held in part is held.
    """
    name = "\x1f".join((GPU_FIELD, backend, str(hour_nanos)))
    packed = {}
    for hour in range(hour_of(since), hour_of(until) + 1):
        first = max(0, int(since) - hour * 3600)
        last = min(3599, int(until) - hour * 3600)
        packed[hour, name] = _bitmap((1 << (last + 1)) - (1 << first))
    return packed


def _bits(packed: bytes) -> int:
    return int.from_bytes(packed[1:], "little")


def _bitmap(bits: int) -> bytes:
    return bytes((_BITMAP,)) + bits.to_bytes(450, "little")


def merge(first: bytes, *more: bytes) -> bytes:
    """Add packed sums. Raises `ValueError` when they are not of one kind."""
    if not more:
        return first
    if any(packed[0] != first[0] for packed in more):
        raise ValueError("packed sums of different kinds do not merge")
    if first[0] == _BITMAP:
        return _bitmap(reduce(or_, map(_bits, more), _bits(first)))
    if first[0] == _VECTOR:
        return pack_vector(map(sum, zip(*map(unpack_vector, (first, *more)), strict=True)))
    tally = Tally.unpack(first)
    for packed in more:
        tally.merge(Tally.unpack(packed))
    return tally.pack()


def merge_all(sums: Iterable[tuple[int, str, bytes]]) -> dict[tuple[int, str], bytes]:
    """Add up packed sums by hour and field."""
    alike: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for hour, name, packed in sums:
        alike[hour, name].append(packed)
    return {key: merge(*some) for key, some in alike.items()}


def merge_packed(*sums: Packed) -> dict[tuple[int, str], bytes]:
    """Add up packed sums that are already by hour and field."""
    return merge_all((hour, name, packed) for some in sums for (hour, name), packed in some.items())


def hour_of(at: float) -> int:
    """Hours since 1970, UTC, of a Unix time."""
    return int(at // 3600)
