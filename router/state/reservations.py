"""Reservations: claims of many requests taken in one step of the store, and what is granted while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from time import time
from typing import Any

from router.ledger.budgets import Claim, Grant
from router.state.script import Script
from router.state.shares import LocalShares
from router.state.turnstile import Turnstile

RESERVE_SECONDS = 1.0
"""The longest that one request waits for its budgets: an answer that comes late is worth more than an overrun."""

ASKED_AGAIN_SECONDS = 5.0
"""The longest until a store that is away has been asked again."""


@dataclass(frozen=True, slots=True)
class _Asked:
    request_id: str
    claims: Sequence[Claim]
    patience: timedelta


class Reservations:
    """Takes claims from budgets in the store."""

    def __init__(self, client: Any, keys_of: Callable[[str], tuple[str, str]], kept: int) -> None:
        """``keys_of`` gives an account's keys: of what is spent and held, and who holds it. ``kept`` is in seconds."""
        self._keys_of = keys_of
        self._kept = kept
        self._script = Script(client, "reserve.lua")
        self._asking = Turnstile(self._ask)
        self._shares = LocalShares()

    async def make(self, request_id: str, claims: Sequence[Claim], patience: timedelta) -> Grant:
        """Take all claims, or none and say which do not fit. Raises what redis-py raises."""
        answers = await self._asking.join(_Asked(request_id, claims, patience))
        for claim, (_, *left) in zip(claims, answers, strict=True):
            nanos, tokens, requests = (None if amount < 0 else amount for amount in left)
            self._shares.know(claim, (nanos, tokens, requests))
        waits = {claim.account.name: wait for claim, (wait, *_) in zip(claims, answers, strict=True) if wait}
        if waits:
            never = any(wait < 0 for wait in waits.values())
            return Grant(tuple(claims), exceeded=tuple(waits), retry_after=None if never else max(waits.values()) / 1e3)
        members = (f"{request_id}:{a.nanos}:{a.tokens}:{a.requests}" for a in (claim.amount for claim in claims))
        return Grant(tuple(claims), tuple(zip((claim.account.field for claim in claims), members, strict=True)))

    def while_away(self, claims: Sequence[Claim], proxies: int) -> Grant:
        """What budgets say for themselves while the store is away."""
        closed = tuple(claim.account.name for claim in claims if claim.budget.store_away == "fail_closed")
        if closed:
            return Grant(tuple(claims), exceeded=closed, retry_after=ASKED_AGAIN_SECONDS)
        shared = [claim for claim in claims if claim.budget.store_away == "local_share"]
        over = self._shares.take(shared, proxies, time())
        waits = [wait for _, wait in over]
        wait = None if None in waits else max((wait for wait in waits if wait is not None), default=0.0)
        return Grant(tuple(claims), exceeded=tuple(name for name, _ in over), retry_after=wait)

    def forget(self, now: float) -> None:
        """Let go of what was known of windows that have ended."""
        self._shares.forget(now)

    async def _ask(self, asked: Sequence[_Asked]) -> list[list[tuple[int, ...]]]:
        keys: list[str] = []
        arguments: list[Any] = []
        now = time()
        for one in asked:
            arguments += (one.request_id, int(one.patience.total_seconds()), len(one.claims))
            for claim in one.claims:
                account = claim.account
                for field in (account.field, *account.earlier):
                    keys += self._keys_of(field)
                kept = 2 * int(account.rolling.total_seconds()) if account.rolling else self._kept
                leaves, apart = account.until.timestamp() - now, account.until.timestamp() - account.since.timestamp()
                arguments += (kept, len(account.earlier), max(0, round(leaves * 1e3)), round(apart * 1e3))
                arguments += (-1 if limit is None else limit for limit in claim.limits)
                arguments += (claim.amount.nanos, claim.amount.tokens, claim.amount.requests)
        async with asyncio.timeout(RESERVE_SECONDS):
            numbers = iter(await self._script.run(keys, arguments))
        return [[tuple(map(int, islice(numbers, 4))) for _ in one.claims] for one in asked]
