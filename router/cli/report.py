"""``tierwise report``: cost, saving and latency from the ledger."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from router.cli import add_data_dir, data_dir

if TYPE_CHECKING:
    from router.reports import Report

NAME = "report"
HELP = "report cost, saving and latency from the ledger"
FORMATS = ("table", "json", "csv", "markdown")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--since",
        default="24h",
        metavar="TIME",
        help="ISO date or time, 24h, 7d, today, yesterday, month (default: %(default)s)",
    )
    parser.add_argument("--until", metavar="TIME", help="the same; the window ends before it (default: now)")
    parser.add_argument(
        "--by",
        action="append",
        metavar="DIM",
        help="tier, model, backend, domain, key, precision, hour or day; several with commas (default: tier)",
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", help="IANA time zone for dates and --by day (default: this machine's)"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--redis", metavar="URL", help="read the store at this URL")
    source.add_argument("--journal", type=Path, metavar="FILE", help="read a journal file, offline")
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when there is nothing to read, 2 when an option makes no sense."""
    from router.reports import report, window
    from router.reports.sources import NoSource

    try:
        now = datetime.now(ZoneInfo(args.timezone)) if args.timezone else datetime.now().astimezone()
        asked = window(args.since, args.until, now)
        by = tuple(part.strip() for text in args.by or ["tier"] for part in text.split(",") if part.strip())
        made = report(_sums(args, asked.hours), asked, by)
    except (ValueError, ZoneInfoNotFoundError) as error:
        print(f"tierwise report: {error}", file=sys.stderr)
        return 2
    except NoSource as error:
        print(f"tierwise report: {error}", file=sys.stderr)
        return 1
    _show(made, args.format)
    return 0


def _sums(args: argparse.Namespace, hours: range) -> list[tuple[int, str, bytes]]:
    from router.reports import sources

    if args.journal:
        return sources.read_journal(args.journal, hours)
    if args.redis:
        return sources.read_url(args.redis, hours)
    return sources.read_data_dir(data_dir(args), hours)


def _show(report: Report, shape: str) -> None:
    if shape == "table":
        from rich.console import Console

        from router.reports.table import print_report

        console = Console()
        print_report(console if console.is_terminal else Console(width=200), report)
        return
    from router.reports import formats

    sys.stdout.write({"json": formats.as_json, "csv": formats.as_csv, "markdown": formats.as_markdown}[shape](report))
