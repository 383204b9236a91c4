"""The cost report: what the ledger's sums say of a window of time, by any of their dimensions."""

from router.reports.report import DIMENSIONS, Report, Row, report
from router.reports.window import Window, window

__all__ = ["DIMENSIONS", "Report", "Row", "Window", "report", "window"]
