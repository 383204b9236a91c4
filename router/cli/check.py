"""``tierwise check``: say everything that is wrong with a policy, or print it as it resolved."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.document import Loaded, Problem


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("policy", metavar="POLICY", nargs="?", help="policy file, or the name of a preset")
    what.add_argument("--schema", action="store_true", help="print the JSON schema for editors instead")
    parser.add_argument("--json", action="store_true", help="print problems and the resolved policy as JSON")
    parser.add_argument("--strict", action="store_true", help="fail on warnings too")


def run(args: argparse.Namespace) -> int:
    """Check a policy; 1 when it has errors (or warnings, with ``--strict``), 2 when it cannot be read."""
    from policies.document import PolicyErrors, json_schema
    from router.settings import load_policy

    if args.schema:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    try:
        loaded = load_policy(args.policy)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        print(f"cannot read {args.policy}: {reason}", file=sys.stderr)
        return 2
    except PolicyErrors as errors:
        _report(args, errors.problems, None)
        return 1
    _report(args, loaded.warnings, loaded)
    return 1 if args.strict and loaded.warnings else 0


def _report(args: argparse.Namespace, problems: Sequence[Problem], loaded: Loaded | None) -> None:
    """Print the resolved policy to standard output and problems to standard error, or all of it as JSON."""
    from policies.document import resolved, show

    if args.json:
        report = {
            "file": args.policy,
            "ok": loaded is not None,
            "hash": loaded.hash if loaded else None,
            "problems": [asdict(problem) for problem in problems],
            "policy": resolved(loaded.policy) if loaded else None,
        }
        print(json.dumps(report, indent=2, ensure_ascii=False, default=str))
        return
    if loaded is not None:
        print(show(loaded.policy), end="")
        sys.stdout.flush()
    for problem in problems:
        print(problem, file=sys.stderr)
    counts = [(sum(p.severity == kind for p in problems), kind) for kind in ("error", "warning")]
    counted = " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts if count)
    verdict = f"ok (policy {loaded.hash})" if loaded else "not usable"
    print(f"{args.policy}: {verdict}{f', {counted}' if counted else ''}", file=sys.stderr)
