"""A report as one HTML file that needs nothing else: the table, and charts drawn in it as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from policies.money import usd
from router.reports.formats import columns, remarks
from router.reports.report import Report

_MOST_BARS = 60
_LABEL, _WIDTH, _ROW = 220, 900, 34


def as_html(report: Report) -> str:
    """The report as a page."""
    rows = report.rows[:_MOST_BARS]
    names = [" ".join(row.group) for row in rows]
    costs = [(float(usd(row.cost_nanos)), float(usd(row.baseline_nanos))) for row in rows]
    totals = [row.latencies["total"] or (0.0, 0.0, 0.0) for row in rows]
    page = Template(files(__package__).joinpath("page.html").read_text("utf-8"))
    return page.substitute(
        title=escape(f"Cost report, {report.window}"),
        window=escape(str(report.window)),
        table=_table(report),
        remarks="".join(f"<li>{escape(remark)}</li>" for remark in remarks(report)),
        costs=_bars(names, costs, "{:,.4f}"),
        latencies=_bars(names, [(p50, p99) for p50, _, p99 in totals], "{:,.0f}"),
    )


def _table(report: Report) -> str:
    header, *body = columns(report)

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f'<{tag} class="group">{escape(cell)}</{tag}>' if at < len(report.by) else f"<{tag}>{escape(cell)}</{tag}>"
            for at, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(cells, 'td') for cells in body)}</table>"


def _bars(names: Sequence[str], pairs: Sequence[tuple[float, float]], shape: str) -> str:
    """Two bars for each name, the first before the second, both to one scale."""
    largest = max((value for pair in pairs for value in pair), default=0.0) or 1.0
    scale = (_WIDTH - _LABEL - 120) / largest
    parts = []
    for at, (name, (first, second)) in enumerate(zip(names, pairs, strict=True)):
        top = at * _ROW
        label = f"{shape.format(first)} / {shape.format(second)}"
        end = _LABEL + max(first, second, 0) * scale + 8
        parts.append(
            f'<text x="{_LABEL - 10}" y="{top + 20}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="base" x="{_LABEL}" y="{top + 6}" width="{max(0, second) * scale:.1f}" height="20"/>'
            f'<rect class="cost" x="{_LABEL}" y="{top + 10}" width="{max(0, first) * scale:.1f}" height="12"/>'
            f'<text x="{end:.1f}" y="{top + 20}">{label}</text>'
        )
    height = max(1, len(names)) * _ROW
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(parts)}</svg>'
