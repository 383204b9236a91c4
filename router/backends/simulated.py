"""The ``simulated`` kind: a backend that brings its own upstream, a `Simulator` on loopback, and calls it over HTTP."""

from __future__ import annotations

import asyncio

from policies import schema
from router.backends.openai import OpenAI
from router.backends.simulator import Simulator


class Simulated(OpenAI):
    """A backend of kind ``simulated``. Its server starts with it and stops with it."""

    def __init__(self, config: schema.Backend, timeouts: schema.Timeouts) -> None:
        self.simulator = Simulator(config.model, config.simulate or schema.Simulation(), config.context_window)
        super().__init__(config, timeouts, base_url=self.simulator.url)
        self.simulator.start()

    async def aclose(self) -> None:
        """Close every connection and stop the server."""
        await super().aclose()
        await asyncio.to_thread(self.simulator.stop)
