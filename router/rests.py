"""What proxies tell each other of failing backends: one finds out, all let it rest."""

from __future__ import annotations

from time import time

from router.dispatch import Dispatcher
from router.state.store import Store

_CLOCKS_DIFFER_BY = 0.5


class SharedRests:
    """Passes rests between this proxy's dispatcher and the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, float] = {}

    def tell(self, backend: str, seconds: float) -> None:
        """A backend began to rest here."""
        self._known[backend] = time() + seconds
        self._store.rest(backend, seconds)

    def hear(self, dispatcher: Dispatcher) -> None:
        """Let rest here what began to rest elsewhere since last heard; one that has recovered here is left alone."""
        for backend, until in self._store.rests().items():
            if until > self._known.get(backend, 0.0) + _CLOCKS_DIFFER_BY:
                self._known[backend] = until
                dispatcher.rest(backend, max(0.0, until - time()))
