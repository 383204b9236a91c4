"""One request, from its features to its entry: read the world, read signals, decide, dispatch, write it down.

A `Pipeline` serves one policy; a reload builds another and swaps it in, so that a request never sees two.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from time import perf_counter, time
from zoneinfo import ZoneInfo

from policies import money
from policies.decide import decide, needs_signals, next_session
from policies.document import Loaded
from policies.values import Attempt, Decision, Entry, Features, Outcome, Session, Signals, Usage, View
from router.dispatch import Answer, Dispatcher, Order
from router.errors import Exhausted, RequestError
from router.ledger import Ledger
from router.signals import SignalReader
from router.state.store import Store
from router.wire import ChatRequest


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision with what it was made from, so that it can be shown, explained and replayed."""

    features: Features
    signals: Signals | None
    view: View
    decision: Decision
    classify_ms: float


class Pipeline:
    """The stops of a request under one policy."""

    def __init__(
        self, loaded: Loaded, reader: SignalReader, dispatcher: Dispatcher, store: Store, record: Callable[[Entry], None]
    ) -> None:
        """``record`` takes the entry of every request, however it ended."""
        self.loaded = loaded
        self.dispatcher = dispatcher
        self._reader = reader
        self._store = store
        self._record = record
        self._timezone = ZoneInfo(loaded.policy.timezone)

    async def choose(self, features: Features) -> Choice:
        """Decide where a request would go, without calling anyone."""
        view = View(
            now=datetime.now(self._timezone),
            cooling=self.dispatcher.cooling(),
            in_flight=self.dispatcher.in_flight(),
            session=await self._store.session(features.conversation) if self.loaded.policy.session.sticky else None,
            spent_today=await self._store.spent_today(),
            draw=random.random(),
        )
        signals, classify_ms = None, 0.0
        if needs_signals(self.loaded, features):
            signals, classify_ms = await self._reader.read(self.loaded, features, view)
        return Choice(features, signals, view, decide(self.loaded, features, signals, view), classify_ms)
