"""The one store, spoken to as Redis: sums, sessions, spend and recent decisions, shared by all proxies.

No request waits for a session longer than `DATA_PATH_SECONDS`, nor for its budgets longer than `RESERVE_SECONDS`; once
the store is found away none waits at all until it has answered a background call again. Every key carries a prefix that
is also its hash tag, so that one script may touch them all on a Redis Cluster.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from time import time
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import orjson
from redis.exceptions import RedisError

from policies.money import usd
from policies.values import Session
from router.ledger.budgets import Claim, Grant
from router.ledger.journal_file import Batch
from router.ledger.sums import BUDGET_FIELD, GPU_FIELD, SEEN_FIELD, hour_of
from router.state.connect import close_client, open_client, without_password
from router.state.embedded import StoreNotStarted
from router.state.reservations import RESERVE_SECONDS, Reservations
from router.state.script import Script
from router.state.sessions import NOT_KNOWN, Sessions
from router.state.snapshot import read_rollups
from router.state.spend import ANSWERS, Spend
from router.state.values import Snapshot, Store, StoreAway

__all__ = ["DATA_PATH_SECONDS", "RESERVE_SECONDS", "RedisStore", "Store", "StoreAway"]

log = logging.getLogger(__name__)

DATA_PATH_SECONDS = 0.05
"""The longest that one request waits for its session."""
_BACKGROUND_SECONDS = 5.0
_MOST_UNSAVED = 20_000
_SESSIONS_AT_ONCE = 200
_SESSION_TRUSTED = 60.0
_SESSION_TRUSTED_AMONG_OTHERS = 1.0
_RECENT_KEPT = 2_000
_WEIGHT_SECONDS = 5.0
_PRESENCE_SECONDS = 60
_T = TypeVar("_T")


class RedisStore:
    """A store at a Redis URL (see `router.state.connect`)."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "tierwise",
        retention: timedelta = timedelta(days=400),
        revive: Callable[[], None] | None = None,
    ) -> None:
        """``retention`` is how long rollups are kept; ``revive`` is called in a thread when the store does not answer.
        What it says with `StoreNotStarted` becomes the store's `problem`.

        Raises `ValueError` for a URL of no known shape.
        """
        self.url = without_password(url)
        self._client: Any = open_client(url)
        self._tag = f"{{{prefix}}}"
        self._retention = int(retention.total_seconds())
        self._asking: set[asyncio.Task[Any]] = set()
        self._sessions = Sessions()
        self._unsaved: dict[str, tuple[Session, int]] = {}
        self._spend = Spend(self._client, self._key)
        self._today: dict[str, Decimal] = {}
        self._applied_at_tick: dict[str, int] = {}
        self._me = uuid.uuid4().hex[:12]
        self._weights: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._rests: dict[str, float] = {}
        self._new_rests: dict[str, float] = {}
        self._remember_script = Script(self._client, "remember.lua")
        self._ship_script = Script(self._client, "merge.lua", "release.lua", "ship.lua")
        self._compact_script = Script(self._client, "merge.lua", "compact.lua")
        self._see_proxies(1)
        self._reservations = Reservations(self._client, self._account, self._retention)
        self._revive = revive
        self._problem = "not connected yet"

    @property
    def ready(self) -> bool:
        """Whether the store answered when last asked."""
        return not self._problem

    @property
    def problem(self) -> str:
        """Why the store is away; empty when it is not."""
        return self._problem

    async def connect(self) -> bool:
        """Ask for the first time, and say whether it answered. A store that is away now may come later."""
        answered = await self.tick()
        if answered:
            await self._see_that_it_keeps()
        return answered

    async def _see_that_it_keeps(self) -> None:
        """Warn of a server that throws keys away when it is full: what it forgot would be sent again, for ever."""
        with suppress(StoreAway):
            memory = await self._ask(self._client.info("memory"), _BACKGROUND_SECONDS)
            nodes = [memory] if "maxmemory_policy" in memory else memory.values()
            policies = {node["maxmemory_policy"] for node in nodes if node.get("maxmemory")}
            if policies - {"noeviction"}:
                log.warning("the store %s evicts keys when full; books need maxmemory-policy noeviction", self.url)

    async def aclose(self) -> None:
        """Save what is remembered, give back what is spare and close the connections."""
        if await self.tick():
            with suppress(StoreAway):
                await self._ask(self._reservations.close(), _BACKGROUND_SECONDS)
        await close_client(self._client)

    # what the data path asks

    async def session(self, conversation: str, turns: int = 2) -> Session | None:
        """What is remembered of a conversation; asks the store only when it is new here and not new to its user."""
        known = self._sessions.find(conversation)
        if known is not NOT_KNOWN:
            return known
        if not conversation or turns < 2 or self._problem:
            return None
        getting = self._client.get(self._key("session", conversation))
        asking = asyncio.create_task(self._ask(getting, _BACKGROUND_SECONDS))
        self._asking.add(asking)
        asking.add_done_callback(self._let_go)
        # Not by a timeout, whose cancelling would wait for the client library to put its connection away.
        answered, _ = await asyncio.wait((asking,), timeout=DATA_PATH_SECONDS)
        if not answered or asking.cancelled() or asking.exception() is not None:
            asking.cancel()
            return None
        text = asking.result()
        session = Session(**orjson.loads(text)) if text else None
        self._sessions.keep(conversation, session, self._trust)
        return session

    def _let_go(self, asking: asyncio.Task[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()

    def remember(self, conversation: str, session: Session, seconds: int) -> None:
        """Remember a session for so long: here at once, and in the store with the next `tick`."""
        if not conversation:
            return
        self._sessions.keep(conversation, session, min(seconds, self._trust))
        self._unsaved[conversation] = (session, seconds)
        if len(self._unsaved) > _MOST_UNSAVED:
            self._unsaved.pop(next(iter(self._unsaved)))

    def spent_today(self, timezone: str = "UTC") -> Decimal:
        """Dollars since midnight in a time zone, as of the last `tick`; never waits."""
        if timezone not in self._today:
            midnight = datetime.now(ZoneInfo(timezone)).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
            self._today[timezone] = usd(self._spend.since(midnight))
        return self._today[timezone]

    async def reserve(self, request_id: str, claims: Sequence[Claim], patience: timedelta) -> Grant:
        """Take a request's worst case from all its budgets, or from none and say which stand in the way.

        What is not given back within ``patience`` expires: nobody will settle it any more. While the store is away each
        budget does as it says.
        """
        if not claims:
            return Grant()
        try:
            if self._problem:
                raise StoreAway(self._problem)
            return await self._ask(self._reservations.make(request_id, claims, patience), RESERVE_SECONDS)
        except StoreAway:
            return self._reservations.while_away(claims, self._proxies)

    def exchange_weights(self, weights: Mapping[str, int]) -> Mapping[str, int]:
        """Say with the next `tick` what this proxy has in flight on each GPU backend; what others had at the last."""
        self._weights = dict(weights)
        return self._others

    def rest(self, backend: str, seconds: float) -> None:
        """Say with the next `tick` that a backend rests after failures."""
        self._new_rests[backend] = time() + seconds

    def rests(self) -> Mapping[str, float]:
        """Until when backends rest, as Unix times, as any proxy had found by the last `tick`."""
        now = time()
        return {backend: until for backend, until in self._rests.items() if until > now}

    # what runs behind the data path

    async def tick(self, chapter: str = "") -> bool:
        """See whether the store takes writes, exchange spend, GPU weights and rests in one round trip, save sessions.

        Reads along how far a chapter of a journal is applied, where one is named. Returns whether the store answered.
        """
        self._applied_at_tick = {}
        self._today = {}
        unsaved, self._unsaved = self._unsaved, {}
        rests, self._new_rests = self._new_rests, {}
        now = time()
        pipe = self._client.pipeline(transaction=False)
        self._spend.ask(pipe, now)
        pipe.hget(self._key("applied"), chapter)
        for backend, weight in self._weights.items():
            pipe.hset(self._key("gpus"), f"{backend}\x1f{self._me}", f"{weight} {now:.3f}")
        for backend, until in rests.items():
            pipe.hset(self._key("rests"), backend, f"{until:.3f}")
        pipe.zadd(self._key("proxies"), {self._me: now})
        pipe.zcount(self._key("proxies"), now - _PRESENCE_SECONDS, "+inf")
        pipe.zremrangebyscore(self._key("proxies"), "-inf", now - _PRESENCE_SECONDS)
        pipe.hgetall(self._key("gpus"))
        pipe.hgetall(self._key("rests"))
        try:
            answers = await self._ask(pipe.execute(), _BACKGROUND_SECONDS)
            await self._ask(self._spend.take(answers[:ANSWERS], now), _BACKGROUND_SECONDS)
            await self._save(unsaved)
            await self._ask(self._reservations.give_back(), _BACKGROUND_SECONDS)
        except StoreAway:
            self._unsaved = unsaved | self._unsaved
            self._new_rests = rests | self._new_rests
            self._spend.forget()
            if self._revive is not None:
                await self._bring_back(self._revive)
            return False
        self._today = {}
        self._applied_at_tick = {chapter: int(answers[ANSWERS] or 0)} if chapter else {}
        self._see_proxies(int(answers[-4]))
        self._reservations.forget(now)
        self._others = self._weights_of_others(answers[-2], now)
        self._rests = {backend.decode(): float(until) for backend, until in answers[-1].items()}
        return True

    def _see_proxies(self, number: int) -> None:
        """So many proxies share the store. A session is not asked for again for as long as no other may change it."""
        self._proxies = number
        self._trust = _SESSION_TRUSTED if number <= 1 else _SESSION_TRUSTED_AMONG_OTHERS

    async def _bring_back(self, revive: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(revive)
        except StoreNotStarted as error:
            self._problem = str(error)
            log.warning("%s", error)

    async def _save(self, sessions: Mapping[str, tuple[Session, int]]) -> None:
        """Save sessions, many in one command, which is cheap, but not so many that requests wait for it."""
        waiting, prefix = iter(sessions.items()), self._key("session", "").encode()
        while some := list(islice(waiting, _SESSIONS_AT_ONCE)):
            keys = [prefix + conversation.encode() for conversation, _ in some]
            told = orjson.dumps([(orjson.dumps(session).decode(), seconds) for _, (session, seconds) in some])
            await self._ask(self._remember_script.run(keys, (told,)), _BACKGROUND_SECONDS)

    def _weights_of_others(self, said: Mapping[bytes, bytes], now: float) -> dict[str, int]:
        others: dict[str, int] = {}
        for name, text in said.items():
            backend, _, proxy = name.decode().partition("\x1f")
            weight, _, at = text.decode().partition(" ")
            if proxy != self._me and now - float(at) < _WEIGHT_SECONDS:
                others[backend] = others.get(backend, 0) + int(weight)
        return others

    @property
    def applied_at_tick(self) -> Mapping[str, int]:
        """The number up to which the chapter that the last `tick` named was applied then; empty without an answer."""
        return self._applied_at_tick

    async def tell_key(self, event: bytes) -> None:
        """Add an event to the log of clients' keys. Raises `StoreAway`."""
        await self._ask(self._client.xadd(self._key("keys"), {"event": event}), _BACKGROUND_SECONDS)

    async def key_events(self, after: str, count: int) -> list[tuple[str, bytes]]:
        """Events of clients' keys after a position (empty: all), oldest first, with their own. Raises `StoreAway`."""
        found = self._client.xrange(self._key("keys"), min=f"({after}" if after else "-", count=count)
        return [(at.decode(), told[b"event"]) for at, told in await self._ask(found, _BACKGROUND_SECONDS)]

    async def applied(self, chapters: Sequence[str]) -> list[int]:
        """The numbers up to which chapters of journals have been applied. Raises `StoreAway`."""
        found = await self._ask(self._client.hmget(self._key("applied"), list(chapters)), _BACKGROUND_SECONDS)
        return [int(number or 0) for number in found]

    async def ship(self, batch: Batch) -> int:
        """Apply a batch once and whole; returns the number up to which its chapter is applied now. Raises `StoreAway`.

        A number other than ``batch.last`` says where the store really stands: nothing was applied.
        """
        keys = [self._key("applied"), self._key("recent"), self._key("touched")]
        arguments: list[Any] = [batch.chapter, batch.first, batch.last, self._retention, _RECENT_KEPT]
        arguments += (len(batch.sums), len(batch.releases))
        for hour, name, packed in batch.sums:
            if name.startswith(BUDGET_FIELD):
                keys.append(self._account(name)[0])
                arguments += ("spent", packed, "")
            elif name.startswith(SEEN_FIELD):
                keys.append(self._seen(hour))
                arguments += (name, packed, "")
            else:
                keys.append(self._rollup(hour))
                arguments += (name, packed, hour)
        for account, member in batch.releases:
            keys += self._account(account)
            arguments.append(member)
        return int(await self._ask(self._ship_script.run(keys, [*arguments, *batch.recent]), _BACKGROUND_SECONDS))

    async def compact(self, before: float) -> int:
        """Merge the hours of each UTC day that ended before a Unix time into its first hour. Raises `StoreAway`.

        Returns how many sums moved. What a compacted day says by hour is said of its first, see `whole_days_before`.
        """
        boundary = int(before // 86_400) * 24
        if boundary > await self.whole_days_before():
            await self._ask(self._client.set(self._key("whole-days"), boundary), _BACKGROUND_SECONDS)
        hours = [hour for hour in await self._ask(self._hours(), 10 * _BACKGROUND_SECONDS) if hour % 24]
        ended = {hour // 24 for hour in hours if hour < boundary}
        moved = 0
        for day in sorted(ended):
            keys = [self._key("touched"), *map(self._rollup, range(24 * day, 24 * day + 24))]
            script = self._compact_script.run(keys, [self._retention, GPU_FIELD, 24 * day])
            moved += int(await self._ask(script, _BACKGROUND_SECONDS))
        return moved

    async def _hours(self) -> list[int]:
        prefix = self._rollup(0).removesuffix("0")
        return [
            int(key.decode().removeprefix(prefix)) async for key in self._client.scan_iter(f"{prefix}*", count=1000)
        ]

    async def rollups(self, since_hour: int, until_hour: int) -> Snapshot:
        """All sums of a half-open range of hours, as they stood at one moment. Raises `StoreAway`."""
        reading = read_rollups(self._client, self._key, range(since_hour, until_hour))
        return await self._ask(reading, 20 * _BACKGROUND_SECONDS)

    async def whole_days_before(self) -> int:
        """The hour since 1970, UTC, before which sums are kept by UTC day; 0 where none are. Raises `StoreAway`."""
        return int(await self._ask(self._client.get(self._key("whole-days")), _BACKGROUND_SECONDS) or 0)

    async def seen(self, days: int) -> list[tuple[int, str, bytes]]:
        """What entries of the last UTC days, with today, showed of how models count and write. Raises `StoreAway`."""
        today = hour_of(time()) // 24 * 24
        hours = range(today - 24 * (days - 1), today + 24, 24)
        pipe = self._client.pipeline(transaction=False)
        for hour in hours:
            pipe.hgetall(self._seen(hour))
        found = await self._ask(pipe.execute(), _BACKGROUND_SECONDS)
        return [
            (hour, name.decode(), packed)
            for hour, day in zip(hours, found, strict=True)
            for name, packed in day.items()
        ]

    async def accounts(self) -> list[tuple[int, str, bytes]]:
        """What is spent of every budget's account that is still kept, as packed sums. Raises `StoreAway`."""
        return await self._ask(self._accounts(), 10 * _BACKGROUND_SECONDS)

    async def _accounts(self) -> list[tuple[int, str, bytes]]:
        prefix = self._key("budget", "")
        found = []
        async for key in self._client.scan_iter(match=f"{prefix}*", count=1000):
            name = key.decode().removeprefix(prefix)
            if not name.endswith("\x1fholds") and (packed := await self._client.hget(key, "spent")):
                hour = int(name.rpartition("\x1f")[2]) // 3600
                found.append((hour, f"{BUDGET_FIELD}\x1f{name}", packed))
        return found

    async def recent(self, count: int = 100) -> list[bytes]:
        """The newest entries as JSON, newest first. Raises `StoreAway`."""
        found = await self._ask(self._client.xrevrange(self._key("recent"), count=count), _BACKGROUND_SECONDS)
        return [fields[b"entry"] for _, fields in found]

    async def _ask(self, answer: Awaitable[_T], seconds: float) -> _T:
        try:
            async with asyncio.timeout(seconds):
                result = await answer
        except (RedisError, OSError, TimeoutError) as error:
            late = isinstance(error, TimeoutError)
            problem = f"no answer within {seconds:g} s" if late else str(error) or type(error).__name__
            if not self._problem:
                log.warning("the store %s is away: %s", self.url, problem)
            self._problem = problem
            raise StoreAway(problem) from error
        if self._problem:
            log.info("the store %s answers", self.url)
        self._problem = ""
        return result

    def _key(self, *parts: str) -> str:
        return ":".join((self._tag, *parts))

    def _rollup(self, hour: int) -> str:
        return self._key("rollup", str(hour))

    def _seen(self, hour: int) -> str:
        return self._key("seen", str(hour // 24))

    def _account(self, name: str) -> tuple[str, str]:
        """The keys of a budget's account: what is spent and held, and who holds it."""
        key = self._key("budget", name.removeprefix(BUDGET_FIELD + "\x1f"))
        return key, f"{key}\x1fholds"
