"""Hold two runs of one benchmark against each other: ``python -m tests.benchmarks.compare BEFORE.json AFTER.json``.

Each figure is first divided by the floor's in the same run, where there is one, so that runs on a machine that was
slower that day can be compared. Ends with 1 when a figure is worse by more than ``--allow``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import shown

_MORE_IS_BETTER = ("requests/s", "chunks/s", "requests per CPU second")


def relative(run: dict[str, Any], subject: str, measure: str) -> float | None:
    """A figure over the floor's, or as it is where the floor has none."""
    value = run["median"].get(subject, {}).get(measure)
    floor = run["median"].get("floor", {}).get(measure)
    return value / floor if value is not None and floor and subject != "floor" else value


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("before", type=Path)
    options.add_argument("after", type=Path)
    options.add_argument("--allow", type=float, default=0.1, help="share by which a figure may be worse (default: 0.1)")
    args = options.parse_args(arguments)
    before, after = (json.loads(file.read_text()) for file in (args.before, args.after))
    if before["benchmark"] != after["benchmark"]:
        print(f"{args.before} is of {before['benchmark']}, {args.after} of {after['benchmark']}", file=sys.stderr)
        return 2
    worse = 0
    for subject, measures in after["median"].items():
        for measure in measures:
            old, new = relative(before, subject, measure), relative(after, subject, measure)
            if old is None or new is None or not old:
                continue
            change = new / old - 1
            loss = -change if measure.startswith(_MORE_IS_BETTER) else change
            flag = "worse" if loss > args.allow else "better" if loss < -args.allow else ""
            worse += loss > args.allow and subject.startswith("tierwise")
            print(f"{subject:24} {measure:24} {shown(old):>10} → {shown(new):>10}  {change:+7.1%}  {flag}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
