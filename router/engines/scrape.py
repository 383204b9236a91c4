"""Asking engines what they are doing: one scraper per backend. What is not fresh is unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

from policies.schema import Scrape
from policies.speculation import watch
from policies.values import EngineView
from router.engines import exposition
from router.engines.discovery import Discovery
from router.engines.engine import Engine
from router.engines.view import History, Reading
from router.errors import UpstreamError

log = logging.getLogger(__name__)

Fetch = Callable[[str, int], Awaitable[bytes]]
"""GET a path, at most so many bytes of it; raises `UpstreamError`."""

_LONGEST_PAUSE = 60.0
"""Seconds after which a server that does not list its models is asked again in the end."""


class Scraper:
    """Reads one backend's metrics at an interval, where its kind has any, and looks at its models when it comes up.

    ``problem`` says why the latest reading failed, if it did. ``in_flight`` gives the requests that this proxy has
    there; ``clock`` gives seconds; ``on_restart`` is told when the engine has started again.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        fetch: Fetch,
        settings: Scrape,
        in_flight: Callable[[], int],
        clock: Callable[[], float],
        discovery: Discovery | None = None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.problem = ""
        self._engine, self._fetch, self._in_flight, self._clock = engine, fetch, in_flight, clock
        self._interval = settings.interval.total_seconds()
        self._timeout = settings.timeout.total_seconds()
        self._stale = settings.stale.total_seconds()
        self._discovery, self._on_restart = discovery, on_restart
        self._history = History()
        self._view: EngineView | None = None
        self._at = float("-inf")
        self._warned = False

    @property
    def view(self) -> EngineView | None:
        """What the engine says of itself; None when the latest reading is stale or there is none."""
        return self._view if self._clock() - self._at <= self._stale else None

    def shown(self) -> dict[str, object]:
        """Everything that is known of the engine, for people."""
        view, discovery = self.view, self._discovery
        known = {} if view is None else {name: value for name, value in asdict(view).items() if value is not None}
        return {
            "view": known,
            "speculation": asdict(told) if view is not None and (told := watch(view)) else None,
            "problem": self.problem,
            "models": [asdict(model) for model in discovery.served] if discovery else [],
            "adapters": list(discovery.adapters) if discovery else [],
            "window": self.window,
            "differences": list(discovery.differences) if discovery else [],
        }

    @property
    def window(self) -> int | None:
        """The context window that the server tells where the policy does not; None where it is not known."""
        return self._discovery.window if self._discovery else None

    async def run(self, after: float = 0.0) -> None:
        """Read for ever, starting in so many seconds; an engine without metrics, until it has told what it serves."""
        await asyncio.sleep(after)
        pause = self._interval
        while True:
            await self.scrape()
            if self._engine.metrics is None:
                if self._discovery is None or self._discovery.served:
                    return
                pause = min(2 * pause, max(_LONGEST_PAUSE, self._interval))
            await asyncio.sleep(pause)

    async def scrape(self) -> None:
        """Read once. Never raises; a failed reading leaves the one before until that is stale."""
        was, path = self.problem, self._engine.metrics
        try:
            if path is not None:
                async with asyncio.timeout(self._timeout):
                    await self._read(path)
            self.problem = ""
        except TimeoutError:
            self.problem = f"no metrics within {self._timeout:g} s"
        except UpstreamError as error:
            hint = self._engine.flags.get("metrics")
            hint = f" Start it with {hint}." if hint and error.kind == "not_found" else ""
            self.problem = f"no metrics at {path}: {error.message[:200]}{hint}"
        except exposition.Unreadable as error:
            self.problem = str(error)
        if not self.problem and self._discovery is not None and (was or not self._discovery.served):
            await self._discover(self._discovery)
        if self.problem != was:
            log.log(logging.WARNING if self.problem else logging.INFO, "%s: %s", self.name, self.problem or "metrics")

    async def _discover(self, discovery: Discovery) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await discovery.look(self._fetch)
        except (TimeoutError, UpstreamError):
            log.debug("%s does not list its models", self.name)

    async def _read(self, path: str) -> None:
        ours = self._in_flight()
        values = exposition.read(self._engine, await self._fetch(path, exposition.LARGEST))
        if not values:
            raise exposition.Unreadable(f"the page at {path} has none of this engine's metrics")
        self._at = self._clock()
        if self._history.add(Reading(self._at, values)):
            self._on_restart()
        self._view = self._history.view(ours)
        if (told := watch(self._view)) is not None:
            if told.warning and not self._warned:
                log.warning("%s: %s", self.name, told.warning)
            self._warned = bool(told.warning)


def views(scrapers: Mapping[str, Scraper]) -> dict[str, EngineView]:
    """What is known now, by backend; those of which nothing fresh is known are left out."""
    return {name: view for name, scraper in scrapers.items() if (view := scraper.view) is not None}
