"""``tierwise keys``: make, list and revoke the keys that clients send."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING

from router.cli import add_data_dir, data_dir

if TYPE_CHECKING:
    from router.keys import Key
    from router.state.store import RedisStore

_ALLOWED = re.compile(r"(?:tier/)?[A-Za-z0-9][A-Za-z0-9._-]*")


class Refused(Exception):
    """What was asked cannot be done; the text says why."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and show it, this once")
    create.add_argument(
        "id", nargs="?", metavar="ID", help="what policies, books and reports call it (default: random)"
    )
    create.add_argument(
        "--allow",
        action="append",
        metavar="NAME",
        help="a backend, or tier/NAME, that it may use; may be given again (default: everything)",
    )
    create.add_argument("--expires", metavar="TIME", help="a duration from now, as 90d, or an ISO date or time")
    create.add_argument("--admin", action="store_true", help="let it read /report, /dashboard and /metrics")
    create.add_argument("--note", default="", metavar="TEXT", help="whatever should be remembered of it")
    revoke = actions.add_parser("revoke", help="revoke a key: it is refused everywhere within a second")
    revoke.add_argument("id", metavar="ID")
    shown = actions.add_parser("list", help="list all keys, without their secrets")
    for action in (create, revoke, shown):
        where = action.add_argument_group("where keys are").add_mutually_exclusive_group()
        where.add_argument("--policy", metavar="POLICY", help="the store that this policy names")
        where.add_argument("--redis", metavar="URL", help="the store at this URL (default: the data folder's own)")
        add_data_dir(action)
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Act; 1 when there is no such key, the id is taken, or the store is away; 2 when an option makes no sense."""
    from policies.document import PolicyErrors
    from router.state.embedded import StoreNotStarted
    from router.state.values import StoreAway

    act: dict[str, Callable[[argparse.Namespace, RedisStore], Awaitable[None]]] = {
        "create": _create,
        "list": _list,
        "revoke": _revoke,
    }
    try:
        asyncio.run(_with_store(args, act[args.action]))
    except ValueError as error:
        print(f"tierwise keys: {error}", file=sys.stderr)
        return 2
    except StoreAway as error:
        print(f"tierwise keys: the store is away: {error}", file=sys.stderr)
        return 1
    except (Refused, PolicyErrors, StoreNotStarted, OSError) as error:
        print(f"tierwise keys: {error}", file=sys.stderr)
        return 1
    return 0


async def _with_store(
    args: argparse.Namespace, act: Callable[[argparse.Namespace, RedisStore], Awaitable[None]]
) -> None:
    from router.settings import load_policy, policy_file
    from router.state import open_store

    url = args.redis or ""
    if args.policy:
        url = load_policy(policy_file(args.policy, data_dir(args))).policy.redis
    async with open_store(url, data_dir(args)) as store:
        await act(args, store)


async def _create(args: argparse.Namespace, store: RedisStore) -> None:
    from router.keys import made, make, read_on

    allowed = None if args.allow is None else tuple(dict.fromkeys(args.allow))
    for name in allowed or ():
        if not _ALLOWED.fullmatch(name):
            raise ValueError(f"--allow {name!r}: expected a backend's name, or tier/ and a tier's")
    expires = _moment(args.expires) if args.expires else None
    known: dict[str, Key] = {}
    at = await read_on(store, known)
    id = args.id or secrets.token_hex(5)
    if id in known:
        raise Refused(f"there is a key {id!r} already ({known[id].state(time())}); an id is given once")
    key, text = make(id, expires=expires, allowed=allowed, admin=args.admin, note=args.note)
    await store.tell_key(made(key))
    await read_on(store, known, at)
    if known[id].digest != key.digest:
        raise Refused(f"somebody else has just made a key {id!r}")
    if args.json:
        print(json.dumps({**_row(key), "key": text}))
    else:
        print(text)
        print("This is the only time that it is shown.", file=sys.stderr)


async def _revoke(args: argparse.Namespace, store: RedisStore) -> None:
    from router.keys import read_on, revoked

    known: dict[str, Key] = {}
    await read_on(store, known)
    if args.id not in known:
        raise Refused(f"there is no key {args.id!r}")
    now = time()
    if known[args.id].revoked is None:
        await store.tell_key(revoked(args.id, now))
    print(json.dumps({"id": args.id, "revoked": True}) if args.json else f"{args.id} is revoked")


async def _list(args: argparse.Namespace, store: RedisStore) -> None:
    from router.keys import read_on

    known: dict[str, Key] = {}
    await read_on(store, known)
    rows = [_row(key) for key in sorted(known.values(), key=lambda key: key.created)]
    if args.json:
        print(json.dumps({"keys": rows}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "state", "made", "expires", "may use", "admin", "note")
    for row in rows:
        may = ", ".join(row["allowed"]) if isinstance(row["allowed"], list) else "everything"
        cells = (row["id"], row["state"], row["created"], row["expires"] or "never", may, "yes" if row["admin"] else "")
        table.add_row(*(Text(str(cell)) for cell in (*cells, row["note"])))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def _row(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "state": key.state(time()),
        "created": _shown(key.created),
        "expires": None if key.expires is None else _shown(key.expires),
        "revoked": None if key.revoked is None else _shown(key.revoked),
        "allowed": None if key.allowed is None else list(key.allowed),
        "admin": key.admin,
        "note": key.note,
    }


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _moment(text: str) -> float:
    """A Unix time in the future, from a duration or an ISO date or time (local, where it names no zone)."""
    from policies import durations

    try:
        moment = time() + durations.parse(text).total_seconds()
    except ValueError:
        try:
            moment = datetime.fromisoformat(text).timestamp()
        except ValueError:
            message = f"--expires {text!r}: expected a duration (90d) or an ISO date or time (2027-01-31)"
            raise ValueError(message) from None
    if moment <= time():
        raise ValueError(f"--expires {text!r} is over already")
    return moment
