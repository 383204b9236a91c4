"""From packed sums to a `Report`: rows that add up to the total, to the token and the nano-dollar."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Any, Final

from policies.money import NANOS_PER_USD
from router.ledger import histogram
from router.ledger.sums import COUNTS, GPU_FIELD, LATENCIES, MONEY, RARE_TOKENS, REALS, SAVING_FIELD, Cell, merge_all
from router.reports.gpus import GpuBill, gpu_bills
from router.reports.savings import Interval, bootstrapped, of_squares
from router.reports.window import Window

DIMENSIONS: Final = ("tier", "model", "backend", "domain", "key", "precision", "hour", "day")
PERCENTILES: Final = (0.50, 0.95, 0.99)
_COUNTERS = len(COUNTS) + 2 * len(MONEY)
_COUNTERS_AT, _LENGTHS_AT = 2, 3 + 8 * _COUNTERS
_PAIRS_AT = _LENGTHS_AT + 2 * len(LATENCIES)
_LENGTHS = struct.Struct(f"<{len(LATENCIES)}H")
_PAIR_BYTES = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One group's sums. Money is in nano-dollars; ``latencies`` holds p50, p95 and p99 in milliseconds.

    ``cost_nanos`` is what the group's attempts cost, ``wasted_nanos`` the part that went into attempts that did not
    answer. ``baseline_nanos`` and ``saving_nanos`` are over requests whose cost and baseline are both known;
    ``assumed`` counts those of them that were compared at ratio 1 because nothing was known (see `router.baseline`),
    and ``interval`` says how sure the saving is, None where too few requests tell.
    """

    group: tuple[str, ...]
    requests: int
    errors: int
    cancelled: int
    unpriced: int
    estimated: int
    attempts: int
    failed_attempts: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nanos: int
    wasted_nanos: int
    baseline_nanos: int
    saving_nanos: int
    latencies: Mapping[str, tuple[float, float, float] | None]
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    assumed: int = 0
    interval: Interval | None = None

    @property
    def saving_share(self) -> float | None:
        """The saving as a share of the baseline; None where there is no baseline."""
        return self.saving_nanos / self.baseline_nanos if self.baseline_nanos else None


@dataclass(frozen=True, slots=True)
class Report:
    """What the ledger says of a window. ``rows`` are by ``by``, in time's order or the dearest first.

    ``gpus`` has the bills of backends priced by time.
    """

    window: Window
    by: tuple[str, ...]
    rows: tuple[Row, ...]
    total: Row
    gpus: tuple[GpuBill, ...] = ()
    notes: tuple[str, ...] = ()

    def cost_share(self, row: Row) -> float:
        """A row's share of the total cost, 0 where nothing was spent."""
        return row.cost_nanos / self.total.cost_nanos if self.total.cost_nanos else 0.0


def report(
    sums: Iterable[tuple[int, str, bytes]], window: Window, by: Sequence[str] = ("tier",), notes: Sequence[str] = ()
) -> Report:
    """Add up packed sums (hour, field, packed) into rows by some of `DIMENSIONS`.

    Raises `ValueError` for a dimension that there is not.
    """
    for dimension in by:
        if dimension not in DIMENSIONS:
            raise ValueError(f"cannot report by {dimension!r}; expected one of {', '.join(DIMENSIONS)}")
    zone, hours = window.since.tzinfo, window.hours
    groups: dict[tuple[str, ...], list[bytes]] = defaultdict(list)
    backends: dict[str, list[bytes]] = defaultdict(list)
    apart: list[tuple[int, str, bytes]] = []
    for hour, name, packed in sums:
        if hour not in hours:
            continue
        if name.startswith("="):
            if name.startswith((SAVING_FIELD, GPU_FIELD)):
                apart.append((hour, name, packed))
            continue
        cell = Cell.of(hour, name)
        groups[_group(cell, by, zone)].append(packed)
        backends[cell.backend].append(packed)
    rows = [_row(group, tallies) for group, tallies in groups.items()]
    in_time = bool(by) and by[0] in ("hour", "day")
    rows.sort(key=lambda row: row.group if in_time else (-row.cost_nanos, *row.group))
    total = _row((), [packed for tallies in groups.values() for packed in tallies])
    merged = [(hour, name, packed) for (hour, name), packed in merge_all(apart).items()]
    total = replace(total, interval=bootstrapped(packed for _, name, packed in merged if name == SAVING_FIELD))
    held = {name.split("\x1f")[1] for _, name, _ in merged if name.startswith(GPU_FIELD)}
    used = {name: _row((), backends[name]) for name in held & backends.keys()}
    gpus = gpu_bills(merged, {name: (row.cost_nanos, row.output_tokens) for name, row in used.items()})
    return Report(window, tuple(by), tuple(rows), total, gpus, (*window.remarks(by), *_caveats(total), *notes))


def _group(cell: Cell, by: Sequence[str], zone: tzinfo | None) -> tuple[str, ...]:
    group = []
    for dimension in by:
        if dimension in ("hour", "day"):
            moment = datetime.fromtimestamp(cell.hour * 3600, tz=zone)
            group.append(f"{moment:%Y-%m-%d %H:%M}" if dimension == "hour" else f"{moment:%Y-%m-%d}")
        else:
            group.append(getattr(cell, dimension) or "(none)")
    return tuple(group)


def _row(group: tuple[str, ...], tallies: Sequence[bytes]) -> Row:
    """Add up packed tallies. numpy sums them as they lie, so that a million entries report in well under 2 s."""
    import numpy as np

    joined = b"".join(packed[_COUNTERS_AT : _COUNTERS_AT + 8 * _COUNTERS] for packed in tallies)
    counters = np.frombuffer(joined, "<i8").reshape(-1, _COUNTERS).sum(axis=0).tolist()
    parts = counters[len(COUNTS) :]
    money = {f"{name}_nanos": parts[2 * i] * NANOS_PER_USD + parts[2 * i + 1] for i, name in enumerate(MONEY)}
    counts: dict[str, Any] = dict(zip(COUNTS, counters, strict=False))
    latencies, reals = _rest(tallies)
    sure = of_squares(money["saving_nanos"], money["baseline_nanos"], *reals[:3])
    rare: dict[str, Any] = {
        name: round(tokens) for name, tokens in zip(REALS, reals, strict=True) if name in RARE_TOKENS
    }
    return Row(group, **counts, **money, **rare, latencies=latencies, assumed=round(reals[3]), interval=sure)


def _rest(tallies: Sequence[bytes]) -> tuple[dict[str, tuple[float, float, float] | None], list[float]]:
    """What follows the counters of packed tallies: percentiles of latencies, and the sums of `REALS`."""
    import numpy as np

    reals: list[bytes] = []
    pairs: dict[str, list[bytes]] = {name: [] for name in LATENCIES}
    for packed in tallies:
        at = _PAIRS_AT
        for name, length in zip(LATENCIES, _LENGTHS.unpack_from(packed, _LENGTHS_AT), strict=True):
            end = at + length * _PAIR_BYTES
            pairs[name].append(packed[at:end])
            at = end
        reals.append(packed[at + 1 :].ljust(8 * len(REALS), b"\0"))
    shown: dict[str, tuple[float, float, float] | None] = {}
    for name, parts in pairs.items():
        observed = np.frombuffer(b"".join(parts), [("bucket", "<u2"), ("count", "<u4")])
        counts = np.bincount(observed["bucket"], weights=observed["count"], minlength=histogram.BUCKETS)
        ranks = {index: int(counts[index]) for index in np.flatnonzero(counts).tolist()}
        p50, p95, p99 = (histogram.percentile(ranks, share) for share in PERCENTILES)
        shown[name] = None if p50 is None or p95 is None or p99 is None else (p50, p95, p99)
    return shown, np.frombuffer(b"".join(reals), "<f8").reshape(-1, len(REALS)).sum(axis=0).tolist()


def _caveats(total: Row) -> list[str]:
    caveats = []
    if total.unpriced:
        share = total.unpriced / total.requests if total.requests else 1
        caveats.append(
            f"{total.unpriced} requests ({share:.1%}) are unpriced: their cost is unknown, not in these sums"
        )
    if total.estimated:
        share = total.estimated / total.requests if total.requests else 1
        caveats.append(f"{total.estimated} requests ({share:.1%}) are billed on estimated, not measured, tokens")
    if total.assumed:
        share = total.assumed / total.requests
        caveats.append(
            f"{total.assumed} requests ({share:.1%}) are compared at ratio 1, as if the baseline counted and wrote as "
            "they did: nothing was known of that yet"
        )
    return caveats
