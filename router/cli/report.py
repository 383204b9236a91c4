"""``tierwise report``: cost, saving and latency from the ledger."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from router.cli import add_data_dir, data_dir

if TYPE_CHECKING:
    from rich.console import Console

    from policies.schema import Policy
    from router.reports import Report, Window
    from router.reports.sources import Source, Sums

_WIDE = 200
FORMATS = ("table", "json", "csv", "markdown", "html", "png")
_TIMES = "an ISO date or time, 24h, 7d, today, yesterday or month"


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_argument_group("what is reported")
    what.add_argument("--since", default="24h", metavar="TIME", help=f"{_TIMES} (default: %(default)s)")
    what.add_argument("--until", metavar="TIME", help="the same; the window ends before it (default: now)")
    what.add_argument(
        "--by",
        action="append",
        metavar="DIM",
        help="tier, model, backend, domain, key, precision, hour or day; several with commas (default: tier)",
    )
    what.add_argument("--timezone", metavar="ZONE", help="IANA time zone of dates and days (default: this machine's)")
    what.add_argument("--compare", metavar="TIME", help="beside a window of the same length that begins then")
    what.add_argument("--reprice", metavar="POLICY", help="what it would have cost at this policy's prices")
    what.add_argument("--idle", action="store_true", help="only GPU bills: what requests paid and what was idle")
    what.add_argument("--budget", action="store_true", help="where budgets stand")
    what.add_argument(
        "--policy", metavar="POLICY", help="with --budget: whose limits are shown; with --idle: at full load"
    )
    shape = parser.add_argument_group("how it is shown")
    shape.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    shape.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    shape.add_argument("--output", type=Path, metavar="FILE", help="write there (the format may follow from its name)")
    shape.add_argument("--watch", type=float, nargs="?", const=2.0, metavar="SECONDS", help="show it again and again")
    shape.add_argument("--export", type=Path, metavar="FILE", help="write whole entries to a .jsonl or .parquet file")
    where = parser.add_argument_group("where it is read").add_mutually_exclusive_group()
    where.add_argument("--redis", metavar="URL", help="the store at this URL")
    where.add_argument("--journal", type=Path, metavar="FILE", help="a journal file, offline")
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Report; 1 when there is nothing to read or write with, 2 when an option makes no sense."""
    from router.reports.export import ExportFailed
    from router.reports.png import NoPictures
    from router.reports.sources import NoSource

    try:
        _check(args)
        _act(args)
    except (ValueError, ZoneInfoNotFoundError) as error:
        print(f"tierwise report: {error}", file=sys.stderr)
        return 2
    except (NoSource, ExportFailed, NoPictures, OSError) as error:
        print(f"tierwise report: {error}", file=sys.stderr)
        return 1
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.output and args.format == "table":
        suffixes = {".md": "markdown", **{f".{name}": name for name in FORMATS[1:]}}
        args.format = suffixes.get(args.output.suffix, "table")
    if args.format == "png" and not args.output:
        raise ValueError("a picture needs a file: --output report.png")
    if args.watch is not None and (args.format != "table" or args.output):
        raise ValueError("--watch shows the table on the terminal; it goes with no other format and no --output")
    if (args.compare or args.idle or args.budget) and args.format not in ("table", "json"):
        raise ValueError("--compare, --idle and --budget come as a table or as JSON")


def _act(args: argparse.Namespace) -> None:
    source = _source(args)
    if args.export:
        from router.reports.export import export

        asked = _window(args)
        count = export(source.bodies(asked.since.timestamp(), asked.until.timestamp()), args.export)
        print(f"{count} entries written to {args.export}")
    elif args.budget:
        _show_budgets(args, source)
    elif args.watch is not None:
        while True:
            made = _report(args, source, _window(args))
            print("\x1b[2J\x1b[H" if sys.stdout.isatty() else "", end="")
            _show(args, made)
            sys.stdout.flush()
            sleep(args.watch)
    elif args.compare:
        _show_comparison(args, source)
    else:
        _show(args, _report(args, source, _window(args)))


def _source(args: argparse.Namespace) -> Source:
    from router.reports import sources

    if args.journal:
        return sources.JournalSource(args.journal)
    if args.redis:
        return sources.StoreSource(args.redis)
    return sources.data_dir_source(data_dir(args))


def _now(args: argparse.Namespace) -> datetime:
    return datetime.now(ZoneInfo(args.timezone)) if args.timezone else datetime.now().astimezone()


def _window(args: argparse.Namespace) -> Window:
    from router.reports import window

    return window(args.since, args.until, _now(args))


def _report(args: argparse.Namespace, source: Source, asked: Window) -> Report:
    from router.reports import report

    by = tuple(part.strip() for text in args.by or ["tier"] for part in text.split(",") if part.strip())
    if not args.reprice:
        asked = asked.over_days(source.whole_days_before())
        return report(source.sums(asked.hours), asked, by)
    policy = _policy(args, args.reprice)
    return report(_repriced(source, asked, policy), asked, by, [f"at the prices of {args.reprice}, not as billed"])


def _repriced(source: Source, asked: Window, policy: Policy) -> Sums:
    from router.reports.reprice import repriced_sums

    return repriced_sums(source.bodies(asked.since.timestamp(), asked.until.timestamp()), policy)


def _policy(args: argparse.Namespace, name: str) -> Policy:
    from policies.document import PolicyErrors
    from router.reports.sources import NoSource
    from router.settings import load_policy, policy_file

    try:
        return load_policy(policy_file(name, data_dir(args))).policy
    except PolicyErrors as error:
        raise NoSource(str(error)) from error


def _show(args: argparse.Namespace, made: Report) -> None:
    from router.reports import formats, table
    from router.reports.gpus import full_load
    from router.reports.html import as_html

    if args.idle:
        full = full_load(_policy(args, args.policy)) if args.policy else {}
        bills = formats.as_dict(made)["gpus"]
        for bill in bills:
            bill["usd_per_mtok_full"] = full[bill["backend"]] / 1e9 if bill["backend"] in full else None
        _show_either(args, {"gpus": bills}, lambda console: table.print_gpus(console, made, full))
    elif args.format == "table":
        _on_console(args, lambda console: table.print_report(console, made))
    elif args.format == "png":
        from router.reports.png import as_png

        args.output.write_bytes(as_png(made))
    else:
        texts = {"json": formats.as_json, "csv": formats.as_csv, "markdown": formats.as_markdown, "html": as_html}
        _write(args, texts[args.format](made))


def _show_comparison(args: argparse.Namespace, source: Source) -> None:
    from router.reports import table
    from router.reports.comparison import compared
    from router.reports.window import shifted, window

    asked = _window(args)
    earlier = shifted(asked, window(args.compare, None, _now(args)).since)
    before, now = _report(args, source, earlier), _report(args, source, asked)
    _show_either(args, compared(before, now), lambda console: table.print_comparison(console, before, now))


def _show_budgets(args: argparse.Namespace, source: Source) -> None:
    from router.reports import table
    from router.reports.budgets import as_rows, standings

    now = _now(args)
    policy = _policy(args, args.policy) if args.policy else None
    if policy is not None:
        now = now.astimezone(ZoneInfo(policy.timezone))
    found = standings(source.accounts(), now.tzinfo, policy.budgets if policy else (), now if policy else None)
    _show_either(args, {"budgets": as_rows(found)}, lambda console: table.print_standings(console, found))


def _show_either(args: argparse.Namespace, plain: object, shown: Callable[[Console], None]) -> None:
    if args.format == "json":
        import orjson

        _write(args, orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _on_console(args, shown)


def _on_console(args: argparse.Namespace, shown: Callable[[Console], None]) -> None:
    """Show it on the terminal as wide as that is, and anywhere else as wide as it needs."""
    from rich.console import Console

    console = Console()
    if args.output:
        with args.output.open("w", encoding="utf-8") as out:
            shown(Console(file=out, width=_WIDE))
    else:
        shown(console if console.is_terminal else Console(width=_WIDE))


def _write(args: argparse.Namespace, text: str) -> None:
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
