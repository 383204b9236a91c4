"""Print the fault table: ``python -m tests.faults.table``. Exit code 1 where anything differs from what it must be."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.faults.faults import FAULTS
from tests.faults.harness import Result, run


async def rows() -> list[tuple[str, str, Result, str]]:
    """Every fault in both modes: name, mode, what came of it, and what should have."""
    found = []
    for fault in FAULTS:
        for mode, expected in (("stream", fault.stream), ("whole", fault.whole)):
            result = await run(fault, mode == "stream")
            seen = (result.client, result.attempts, result.billed)
            want = (expected.client, expected.attempts, expected.billed)
            found.append((fault.name, mode, result, "" if seen == want and not result.leaked else f"wanted {want}"))
    return found


def main() -> int:
    """Print the table and a verdict."""
    found = asyncio.run(rows())
    table = Table("fault", "mode", "client sees", "attempts", "billed", "leaked", "", title="Faults")
    for name, mode, result, wrong in found:
        leaked = ", ".join(result.leaked) or "–"
        table.add_row(name, mode, result.client, result.attempts, result.billed, leaked, wrong or "✓")
    wrong = Counter(bool(wrong) for *_, wrong in found)
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table)
    console.print(f"{len(found)} cases, {wrong[True]} not as they must be")
    return 1 if wrong[True] else 0


if __name__ == "__main__":
    sys.exit(main())
