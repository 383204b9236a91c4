"""Reservations: claims of many requests taken in one step of the store, and what is granted while the store is away.

While a budget is far from its limit, the store puts spare reservations aside for a proxy that asks often; the requests
that come next take those and ask nobody. They are held like any other, so a budget is overrun by nobody, and what is
left of them is given back after some seconds, or when a request of this proxy would be refused for them, whosever they
were to be.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from math import inf
from time import monotonic, time
from typing import Any, TypeAlias

from router.ledger.budgets import Claim, Grant
from router.state.script import Script
from router.state.shares import LocalShares
from router.state.spares import LASTS, Amounts, Spares, Stock
from router.state.turnstile import Turnstile

RESERVE_SECONDS = 1.0
"""The longest that one request waits for its budgets: an answer that comes late is worth more than an overrun."""

_GIVEN_BACK_AT_ONCE = 200
ASKED_AGAIN_SECONDS = 5.0
"""The longest until a store that is away has been asked again."""


_Limited: TypeAlias = "tuple[tuple[str, ...], tuple[object, ...]]"
"""Accounts with what limits them: a new limit is asked about anew."""


@dataclass(frozen=True, slots=True)
class _Asked:
    request_id: str
    claims: Sequence[Claim]
    patience: timedelta
    stock: Stock
    spare: Amounts
    wanted: int = 0


class Reservations:
    """Takes claims from budgets in the store."""

    def __init__(self, client: Any, keys_of: Callable[[str], tuple[str, str]], kept: int) -> None:
        """``keys_of`` gives an account's keys: of what is spent and held, and who holds it. ``kept`` is in seconds."""
        self._keys_of = keys_of
        self._kept = kept
        self._script = Script(client, "release.lua", "reserve.lua")
        self._give_back = Script(client, "release.lua", "give_back.lua")
        self._stocks: dict[_Limited, Stock] = {}
        self._holding: defaultdict[str, set[Stock]] = defaultdict(set)  # by account, those that may have some left
        self._asking = Turnstile(self._ask)
        self._shares = LocalShares()

    async def make(self, request_id: str, claims: Sequence[Claim], patience: timedelta) -> Grant:
        """Take all claims, or none and say which do not fit. Raises what redis-py raises."""
        accounts = tuple(claim.account.field for claim in claims)
        amounts = tuple((claim.amount.nanos, claim.amount.tokens, claim.amount.requests) for claim in claims)
        limited = accounts, tuple((claim.budget.usd, claim.budget.tokens, claim.budget.requests) for claim in claims)
        stock = self._stocks.get(limited)
        if stock is None:
            stock = self._stocks[limited] = Stock(accounts, monotonic())
        members = stock.take(amounts, patience, monotonic())
        if members is not None:
            return Grant(tuple(claims), tuple(zip(accounts, members, strict=True)))
        asked = _Asked(request_id, claims, patience, stock, stock.most, stock.wanted(monotonic()))
        answers = await self._asking.join(asked)
        if any(wait for wait, *_ in answers):
            full = [account for account, (wait, *_) in zip(accounts, answers, strict=True) if wait]
            if await self._return(set().union(*(self._holding.pop(account, ()) for account in full)), inf):
                answers = await self._asking.join(asked)
        for claim, (_, *left) in zip(claims, answers, strict=True):
            nanos, tokens, requests = (None if amount < 0 else amount for amount in left)
            self._shares.know(claim, (nanos, tokens, requests))
        waits = {claim.account.name: wait for claim, (wait, *_) in zip(claims, answers, strict=True) if wait}
        if waits:
            never = any(wait < 0 for wait in waits.values())
            return Grant(tuple(claims), exceeded=tuple(waits), retry_after=None if never else max(waits.values()) / 1e3)
        made = (f"{request_id}:{nanos}:{tokens}:{requests}" for nanos, tokens, requests in amounts)
        return Grant(tuple(claims), tuple(zip(accounts, made, strict=True)))

    async def give_back(self) -> None:
        """Give back spare reservations that nobody needed in time. Raises what redis-py raises."""
        now = monotonic()
        stale = {limited: stock for limited, stock in self._stocks.items() if stock.stale(now)}
        await self._return(stale.values(), now)
        for limited, stock in stale.items():
            if stock.empty:
                self._forget(stock)
            if stock.idle(now):
                del self._stocks[limited]

    async def _return(self, stocks: Iterable[Stock], by: float) -> bool:
        """Give back what is not taken any more by a time; whether there was any."""
        left_over = [(stock.accounts, spares) for stock in stocks for spares in stock.left_over(by)]
        for start in range(0, len(left_over), _GIVEN_BACK_AT_ONCE):
            some = left_over[start : start + _GIVEN_BACK_AT_ONCE]
            keys = [key for accounts, _ in some for account in accounts for key in self._keys_of(account)]
            told = [(spares.id, spares.left, len(accounts), *spares.held) for accounts, spares in some]
            await self._give_back.run(keys, [*chain.from_iterable(told)])
        return bool(left_over)

    def _forget(self, stock: Stock) -> None:
        for account in stock.accounts:
            self._holding[account].discard(stock)
            if not self._holding[account]:
                del self._holding[account]

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

    async def close(self) -> None:
        """Give back all that is spare. Raises what redis-py raises."""
        await self._return(self._stocks.values(), inf)

    def forget(self, now: float) -> None:
        """Let go of what was known of windows that have ended."""
        self._shares.forget(now)

    async def _ask(self, asked: Sequence[_Asked]) -> list[list[tuple[int, ...]]]:
        keys: list[str] = []
        arguments: list[Any] = []
        now = time()
        began = monotonic()
        for one in asked:
            patience = int(one.patience.total_seconds())
            arguments += (one.request_id, patience, one.wanted, patience + LASTS + 1, len(one.claims))
            for claim, spare in zip(one.claims, one.spare, strict=True):
                account = claim.account
                for field in (account.field, *account.earlier):
                    keys += self._keys_of(field)
                kept = 2 * int(account.rolling.total_seconds()) if account.rolling else self._kept
                leaves, apart = account.until.timestamp() - now, account.until.timestamp() - account.since.timestamp()
                arguments += (kept, len(account.earlier), max(0, round(leaves * 1e3)), round(apart * 1e3))
                arguments += (-1 if limit is None else limit for limit in claim.limits)
                arguments += (claim.amount.nanos, claim.amount.tokens, claim.amount.requests, *spare)
        async with asyncio.timeout(RESERVE_SECONDS):
            numbers = iter(await self._script.run(keys, arguments))
        answers = []
        for one in asked:
            if left := int(next(numbers)):
                one.stock.put(Spares(one.request_id, one.spare, left, one.patience, began + LASTS))
                for field in one.stock.accounts:
                    self._holding[field].add(one.stock)
            answers.append([tuple(map(int, islice(numbers, 4))) for _ in one.claims])
        return answers
