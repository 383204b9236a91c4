"""The engines behind one policy: what each says of itself, and which has what warm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, Final, TypeAlias

from policies.crowds import crowds
from policies.schema import Policy
from policies.values import EngineView
from router.affinity import Affinity, Trace, trace
from router.backends.openai import OpenAI
from router.dispatch import Dispatcher
from router.engines import engine_of
from router.engines.discovery import Discovery
from router.engines.scrape import Scraper, views
from router.health import keep_asking
from router.muster import Muster

Told: TypeAlias = tuple[Mapping[str, EngineView], Mapping[str, int], Mapping[str, int]]
"""What engines say of themselves, how many of a prompt's tokens each has warm, and the windows that they tell."""

_NOTHING_TOLD: Final[Told] = ({}, {}, {})

MOST_READINGS = 100
"""Readings a second of all engines together, some tenth of a core: more engines are each read less often."""


class Fleet:
    """Scrapes the engines that have metrics, and models the prefix caches of tiers with more than one backend.

    Asks servers for the windows that the policy does not state, and backends whether they are well, where the policy
    says how often.
    """

    def __init__(self, dispatcher: Dispatcher, policy: Policy) -> None:
        """Starts to scrape, so build it inside a running event loop."""
        shared = [tier.backends for tier in policy.tiers.values() if len(tier.backends) > 1]
        self._weighed = frozenset(backend.name for backends in shared for backend in backends)
        self.weighs: Final = bool(shared)
        """Whether a tier has more than one backend, so that a choice weighs how busy and how warm they are."""
        found = crowds(policy)
        crowd = {name for alike in found.values() for names in alike for name in names}
        self.crowded: Final = bool(found)
        """Whether a tier has too many backends for a request to look at all of them."""
        self._muster = Muster(found, lambda name: dispatcher.lanes[name].cooling) if found else None
        self._rest = [name for name in dispatcher.lanes if name not in crowd]
        self._affinity = Affinity(self._weighed, crowd)
        self.scrapers: Mapping[str, Scraper] = _scrapers(dispatcher, policy, self._affinity)
        self._tasks = [
            asyncio.create_task(scraper.run(place / MOST_READINGS))
            for place, scraper in enumerate(self.scrapers.values())
        ]
        if policy.cooldown.ask is not None:
            self._tasks.append(asyncio.create_task(keep_asking(dispatcher, policy.cooldown.ask.total_seconds())))

    def drawn(self, prompt: Trace, wanted: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Whom a request looks at in tiers of very many backends, by tier, and all that it looks at in any tier.

        Those ``wanted`` and those that have most of the prompt are among them.
        """
        assert self._muster is not None
        drawn = self._muster.draw((*wanted, *self._affinity.holders(prompt)))
        return drawn, [*self._rest, *chain.from_iterable(drawn.values())]

    def views(self) -> dict[str, EngineView]:
        """What is known now, by backend; those of which nothing fresh is known are left out."""
        return views(self.scrapers)

    def told(self, prompt: Trace, among: Sequence[str] | None = None) -> Told:
        """What a choice among all backends, or ``among`` these, weighs of them, and is replayed from."""
        if not self.scrapers and not prompt:
            return _NOTHING_TOLD
        warm = self._affinity.warm(prompt, among) if prompt else {}
        return self._weigh(among), warm, self._windows(among)

    def _weigh(self, among: Iterable[str] | None) -> dict[str, EngineView]:
        """The views of those that share a tier."""
        names = self._weighed if among is None else self._weighed.intersection(among)
        return {name: view for name in names if (s := self.scrapers.get(name)) and (view := s.view) is not None}

    def _windows(self, among: Iterable[str] | None) -> dict[str, int]:
        """The context windows that servers tell and the policy does not."""
        names = self.scrapers if among is None else self.scrapers.keys() & among
        return {name: window for name in names if (window := self.scrapers[name].window) is not None}

    def trace(self, body: Mapping[str, Any]) -> Trace:
        """The prompt's blocks, or none where no tier has a choice to make by them."""
        return trace(body) if self._weighed else ()

    def served(self, backend: str, prompt: Trace) -> None:
        """The backend has begun to answer this prompt, so it has it warm."""
        if prompt:
            scraper = self.scrapers.get(backend)
            view = scraper.view if scraper else None
            self._affinity.served(backend, prompt, view.kv_tokens if view else None)

    def shown(self) -> dict[str, object]:
        """What operators see of each engine: its view, its models, and what is wrong."""
        return {name: scraper.shown() for name, scraper in self.scrapers.items()}

    async def close(self) -> None:
        """Stop scraping and asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _scrapers(dispatcher: Dispatcher, policy: Policy, affinity: Affinity) -> dict[str, Scraper]:
    loop, found = asyncio.get_running_loop(), {}
    least = timedelta(seconds=len(dispatcher.lanes) / MOST_READINGS)
    paced = policy.scrape.model_copy(update={"interval": max(policy.scrape.interval, least)})
    for name, lane in dispatcher.lanes.items():
        engine, backend = engine_of(lane.backend.config.kind), lane.backend
        tells = engine.metrics is not None or (bool(engine.window) and backend.config.context_window is None)
        if not policy.scrape.enabled or not tells or not isinstance(backend, OpenAI):
            continue
        found[name] = Scraper(
            name,
            engine,
            backend.fetch,
            paced,
            lambda slots=lane.slots: slots.in_flight,  # type: ignore[misc]
            loop.time,
            Discovery(backend.config, engine),
            lambda name=name: affinity.forget(name),  # type: ignore[misc]
        )
    return found
