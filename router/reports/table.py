"""A report in the terminal: a table, and bars of what each row cost where it is a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from router.reports.budgets import Standing
from router.reports.comparison import change, pairs
from router.reports.formats import columns, decimals, dollars, remarks
from router.reports.report import Report

if TYPE_CHECKING:
    from rich.console import Console

_BAR_WIDTH = 40


def print_report(console: Console, report: Report) -> None:
    """Print the report; colour and bars only where the console is a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, *rows, total = columns(report)
    table = Table(box=box.SIMPLE_HEAD, title=f"Cost report, {report.window}", title_justify="left", show_footer=True)
    for position, (name, foot) in enumerate(zip(header, total, strict=True)):
        table.add_column(
            Text(name),
            Text(foot),
            justify="left" if position < len(report.by) else "right",
            no_wrap=position >= len(report.by),
        )
    for line in rows:
        table.add_row(*(Text(cell, style="red" if cell.startswith("-$") else "") for cell in line))
    console.print(table)
    if console.is_terminal and len(report.rows) > 1 and report.total.cost_nanos > 0:
        _print_bars(console, report)
    for remark in remarks(report):
        console.print(f"· {remark}", markup=False, highlight=False)


def _print_bars(console: Console, report: Report) -> None:
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    largest = max(row.cost_nanos for row in report.rows)
    places = decimals(report.total.cost_nanos)
    bars = Table.grid(padding=(0, 1))
    for row in report.rows:
        bar = Bar(largest, 0, max(0, row.cost_nanos), width=_BAR_WIDTH, color="green")
        bars.add_row(Text(" ".join(row.group)), bar, dollars(row.cost_nanos, places))
    console.print(bars)


def print_gpus(console: Console, report: Report, full: Mapping[str, int]) -> None:
    """Print what GPUs cost, how much of it nobody used, and, where known, what tokens would cost at full load."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"GPU bills, {report.window}", title_justify="left")
    table.add_column("backend")
    for name in ("hours", "billed", "requests", "idle", "", "per Mtok", "busy", "full"):
        table.add_column(name, justify="right")
    for bill in report.gpus:
        places = decimals(bill.billed_nanos)
        money = (dollars(nanos, places) for nanos in (bill.billed_nanos, bill.paid_nanos, bill.idle_nanos))
        idle = f"{bill.idle_nanos / bill.billed_nanos:.1%}" if bill.billed_nanos else ""
        rates = (bill.nanos_per_mtok(busy=False), bill.nanos_per_mtok(busy=True), full.get(bill.backend))
        shown = ("" if rate is None else dollars(rate, 2) for rate in rates)
        table.add_row(bill.backend, f"{bill.seconds / 3600:,.2f}", *money, idle, *shown)
    console.print(table)


def print_comparison(console: Console, before: Report, now: Report) -> None:
    """Print two windows side by side."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    places = decimals(max(before.total.cost_nanos, now.total.cost_nanos))
    table = Table(box=box.SIMPLE_HEAD, title=f"{before.window}  →  {now.window}", title_justify="left")
    for name in now.by:
        table.add_column(name)
    for name in ("requests", "", "cost", "", "saving", ""):
        table.add_column(name, justify="right")
    for pair in pairs(before, now):
        cells = [*pair.group, *[""] * (len(now.by) - len(pair.group))]
        for figure in ("requests", "cost_nanos", "saving_nanos"):
            then, here = pair.numbers(figure)
            shown = (
                f"{then:,} → {here:,}" if figure == "requests" else f"{dollars(then, places)} → {dollars(here, places)}"
            )
            cells += (shown, change(then, here))
        table.add_row(*map(Text, cells))
    console.print(table)


def print_standings(console: Console, found: Sequence[Standing]) -> None:
    """Print where budgets stand."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title="Budgets", title_justify="left")
    for name in ("budget", "of", "since", "spent", "tokens", "requests", "limit", "used"):
        table.add_column(name, justify="left" if name in ("budget", "of", "since") else "right")
    for standing in found:
        table.add_row(
            Text(standing.budget),
            Text(standing.subject or "all"),
            f"{standing.since:%Y-%m-%d %H:%M}",
            dollars(standing.nanos, decimals(standing.nanos)),
            f"{standing.tokens:,}",
            f"{standing.requests:,}",
            _limit(standing),
            "" if standing.share is None else f"{standing.share:.1%}",
        )
    console.print(table)


def _limit(standing: Standing) -> str:
    limits = standing.limits
    if limits is None:
        return ""
    parts = [f"${limits.usd}" if limits.usd is not None else "", f"{limits.tokens:,} tokens" if limits.tokens else ""]
    parts.append(f"{limits.requests:,} requests" if limits.requests else "")
    return f"{', '.join(part for part in parts if part)} {'in any' if limits.rolling else 'a'} {limits.per}"
