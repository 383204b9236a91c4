"""A report in the terminal: a table, and bars of what each row cost where it is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.reports.formats import columns, decimals, dollars
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
    for note in report.notes:
        console.print(f"· {note}", markup=False, highlight=False)


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
