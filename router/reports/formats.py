"""A report as JSON, CSV or Markdown. Money is exact in nano-dollars and as dollars beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any

import orjson

from policies.money import usd
from router.ledger.sums import RARE_TOKENS
from router.reports.gpus import GpuBill
from router.reports.report import Report, Row
from router.reports.savings import FEWEST, Interval

_MODELLED = (
    "baseline: modelled request by request: tokens in as its tokenizer would count them and tokens out as long as its "
    "tier writes (ratios learned from these entries, 1 where nothing is known yet), a conversation's prefix cached, no "
    "retries or escalations; the saving pays for those and for the proxy's own time"
)
_MONEY = ("cost", "wasted", "baseline", "saving")
_COUNTS = (
    "requests", "errors", "cancelled", "unpriced", "estimated", "attempts", "failed_attempts", "input_tokens",
    "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", *RARE_TOKENS,
)  # fmt: skip


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain values: ``window``, ``by``, ``rows``, ``total``, ``notes``."""
    return {
        "since": report.window.since.isoformat(),
        "until": report.window.until.isoformat(),
        "asked": None if report.window.asked is None else [moment.isoformat() for moment in report.window.asked],
        "by": list(report.by),
        "rows": [dict(zip(report.by, row.group, strict=True)) | _row(report, row) for row in report.rows],
        "total": _row(report, report.total),
        "saving_interval": None if report.total.interval is None else _interval(report.total.interval),
        "gpus": [_gpu(bill, report.window.until.tzinfo) for bill in report.gpus],
        "notes": list(report.notes),
    }


def _row(report: Report, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {name: getattr(row, name) for name in _COUNTS}
    for name in _MONEY:
        nano_dollars = getattr(row, f"{name}_nanos")
        flat[f"{name}_nanos"] = nano_dollars
        flat[f"{name}_usd"] = float(usd(nano_dollars))
    flat["cost_share"] = report.cost_share(row)
    flat["saving_share"] = row.saving_share
    bounds = {} if row.interval is None else _interval(row.interval)
    flat |= {f"saving_{bound}": bounds.get(bound) for bound in ("low_usd", "high_usd", "low_share", "high_share")}
    flat["assumed"] = row.assumed
    for latency, values in row.latencies.items():
        for percentile, milliseconds in zip(("p50", "p95", "p99"), values or (None,) * 3, strict=True):
            flat[f"{latency}_ms_{percentile}"] = None if milliseconds is None else round(milliseconds, 3)
    return flat


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "low_usd": float(usd(interval.low_nanos)),
        "high_usd": float(usd(interval.high_nanos)),
        "low_share": interval.low_share,
        "high_share": interval.high_share,
    }


def _gpu(bill: GpuBill, zone: tzinfo | None) -> dict[str, Any]:
    flat: dict[str, Any] = {"backend": bill.backend, "hours": bill.seconds / 3600, "output_tokens": bill.output_tokens}
    flat["billed_to"] = datetime.fromtimestamp(bill.billed_to, zone).isoformat()
    for name in ("billed", "paid", "idle"):
        nano_dollars = getattr(bill, f"{name}_nanos")
        flat |= {f"{name}_nanos": nano_dollars, f"{name}_usd": float(usd(nano_dollars))}
    for name, busy in (("usd_per_mtok", False), ("usd_per_mtok_busy", True)):
        nano_dollars = bill.nanos_per_mtok(busy=busy)
        flat[name] = None if nano_dollars is None else float(usd(nano_dollars))
    return flat


def as_json(report: Report) -> str:
    """The report as indented JSON."""
    return orjson.dumps(as_dict(report), option=orjson.OPT_INDENT_2).decode() + "\n"


def as_csv(report: Report) -> str:
    """The rows as CSV, one line per group; the total is left to the reader, so that a column adds up to it."""
    plain = as_dict(report)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*report.by, *plain["total"]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain["rows"])
    return out.getvalue()


def as_markdown(report: Report) -> str:
    """The report as a Markdown table with its notes."""
    lines = columns(report)
    header, *body = lines
    rule = ["---" if position < len(report.by) else "---:" for position in range(len(header))]
    table = "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in [header, rule, *body])
    notes = "".join(f"\n- {note}" for note in remarks(report))
    return f"**Cost report**, {report.window}\n\n{table}\n{notes}\n"


def remarks(report: Report) -> list[str]:
    """What stands under the table: how sure the saving is, GPU bills, and what the sums do not say."""
    lines = []
    places = decimals(abs(report.total.baseline_nanos))
    sure = report.total.interval
    if sure is not None and report.total.saving_share is not None:
        low, high = sure.low_nanos, sure.high_nanos
        lines.append(
            f"saving {dollars(report.total.saving_nanos, places)} ({report.total.saving_share:+.1%} of the baseline), "
            f"95% interval {dollars(low, places)} to {dollars(high, places)} "
            f"({sure.low_share:+.1%} to {sure.high_share:+.1%})"
        )
    if any(row.baseline_nanos and row.interval is None for row in (*report.rows, report.total)):
        lines.append(f"–: too few requests for an interval ({FEWEST}, each weighed by its baseline; 3 for the total)")
    if report.total.baseline_nanos:
        lines.append(_MODELLED)
    if report.total.wasted_nanos:
        wasted = dollars(report.total.wasted_nanos, decimals(report.total.cost_nanos))
        lines.append(f"{wasted} of the cost went into attempts that did not answer")
    zone, ends = report.window.until.tzinfo, report.window.until.timestamp()
    for bill in report.gpus:
        digits = decimals(bill.billed_nanos)
        per_mtok, busy = bill.nanos_per_mtok(busy=False), bill.nanos_per_mtok(busy=True)
        to = f" up to {datetime.fromtimestamp(bill.billed_to, zone):%Y-%m-%d %H:%M:%S}" if bill.billed_to < ends else ""
        rate = "" if per_mtok is None else f"; {dollars(per_mtok, 2)} per million tokens, {dollars(busy or 0, 2)} busy"
        lines.append(
            f"GPUs of {bill.backend}{to}: {bill.seconds / 3600:,.2f} h, {dollars(bill.billed_nanos, digits)} billed = "
            f"{dollars(bill.paid_nanos, digits)} requests + {dollars(bill.idle_nanos, digits)} idle{rate}"
        )
    return [*lines, *report.notes]


def columns(report: Report) -> list[list[str]]:
    """The report as people read it: a header, a line per row, the total."""
    places = decimals(max(abs(report.total.cost_nanos), abs(report.total.baseline_nanos)))
    header = [
        *report.by, "requests", "errors", "tokens in", "tokens out", "cost", "share", "baseline", "saving", "", "95%",
        "TTFT p50/p95/p99 ms", "total p50/p95/p99 ms",
    ]  # fmt: skip
    rows = [[*row.group, *_cells(report, row, places)] for row in report.rows]
    total = [*["total", *[""] * len(report.by)][: len(report.by)], *_cells(report, report.total, places)]
    return [header, *rows, total]


def _cells(report: Report, row: Row, places: int) -> list[str]:
    return [
        f"{row.requests:,}",
        f"{row.errors:,}",
        f"{row.input_tokens:,}",
        f"{row.output_tokens:,}",
        "unpriced"
        if row.requests and row.unpriced == row.requests and not row.cost_nanos
        else dollars(row.cost_nanos, places),
        f"{report.cost_share(row):.1%}",
        dollars(row.baseline_nanos, places),
        dollars(row.saving_nanos, places),
        "" if row.saving_share is None else f"{row.saving_share:+.1%}",
        "" if row.saving_share is None else _bounds(row.interval),
        *(_percentiles(row.latencies, latency) for latency in ("ttft", "total")),
    ]


def _bounds(sure: Interval | None) -> str:
    return "–" if sure is None else f"{sure.low_share:+.1%} to {sure.high_share:+.1%}"


def _percentiles(latencies: Mapping[str, Sequence[float] | None], latency: str) -> str:
    values = latencies[latency]
    return "–" if values is None else "/".join(f"{value:.3g}" if value < 10 else f"{value:,.0f}" for value in values)


def decimals(largest_nanos: int) -> int:
    """How many decimals show a column of dollars whose largest is this."""
    return 2 if largest_nanos >= 1_000 * 10**9 else 4 if largest_nanos >= 10**9 else 6


def dollars(nano_dollars: int, places: int) -> str:
    """Nano-dollars as people read them; what is negative shows it."""
    amount = usd(nano_dollars)
    sign = "-" if amount < 0 else ""
    return f"{sign}${abs(amount).quantize(Decimal(1).scaleb(-places)):,}"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
