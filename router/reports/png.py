"""A report as a picture: cost against baseline per group, and latency beside it. Needs matplotlib."""

from __future__ import annotations

import io

from policies.money import usd
from router.reports.report import Report

_MOST_BARS = 40


class NoPictures(Exception):
    """matplotlib is not installed; the text says how to have it."""


def as_png(report: Report) -> bytes:
    """The report as a PNG. Raises `NoPictures`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPictures("a PNG needs matplotlib: pip install matplotlib (or tierwise[torch])") from error
    rows = report.rows[:_MOST_BARS]
    names = [" ".join(row.group) for row in rows]
    places = range(len(rows))
    figure = Figure(figsize=(11, 1.6 + 0.45 * max(1, len(rows))), layout="constrained")
    money, latency = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    money.barh(places, [float(usd(row.baseline_nanos)) for row in rows], height=0.8, color="#c3ccd8", label="baseline")
    money.barh(places, [float(usd(row.cost_nanos)) for row in rows], height=0.45, color="#2f7d5b", label="cost")
    money.set_yticks(places, names)
    money.invert_yaxis()
    money.set_xlabel("US dollars")
    if rows:
        money.legend(frameon=False)
    for mark, at, label in (("o", 0, "p50"), ("|", 1, "p95"), (">", 2, "p99")):
        points = [
            (values[at], place) for place, row in zip(places, rows, strict=True) if (values := row.latencies["total"])
        ]
        latency.plot([x for x, _ in points], [y for _, y in points], mark, color="#344054", label=label)
    latency.set_xlabel("ms to the last byte")
    if rows:
        latency.legend(frameon=False)
    figure.suptitle(f"Cost report, {report.window}")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144)
    return out.getvalue()
