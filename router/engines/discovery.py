"""What a server says that it serves (``GET /v1/models``), and where that differs from what the policy says."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import orjson

from policies.problems import listing
from policies.schema import Backend
from router.engines.engine import Engine

log = logging.getLogger(__name__)

LARGEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """One model on offer: the name to ask for, its window in tokens if told, and for an adapter (LoRA) its base."""

    id: str
    window: int | None = None
    base: str | None = None


def read_models(engine: Engine, body: bytes) -> tuple[Served, ...]:
    """The models that a ``/v1/models`` answer lists; what is not one is passed over."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ()
    listed = document.get("data") if isinstance(document, dict) else None
    return tuple(_models(engine, listed if isinstance(listed, list) else []))


def _models(engine: Engine, listed: list[object]) -> Iterator[Served]:
    for model in listed:
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            windows = (_at(model, path) for path in engine.window)
            window = next((w for w in windows if isinstance(w, int) and not isinstance(w, bool) and w > 0), None)
            base = model.get("parent")
            yield Served(model["id"], window, base if isinstance(base, str) else None)


def _at(model: object, path: str) -> object:
    for key in path.split("."):
        model = model.get(key) if isinstance(model, dict) else None
    return model


def differences(backend: Backend, served: tuple[Served, ...]) -> Iterator[str]:
    """What the policy says of a backend and its server denies, as sentences."""
    if not served:
        return
    found = next((model for model in served if model.id == backend.model), None)
    if found is None:
        yield f"it does not list the model {backend.model!r}; it has {listing([model.id for model in served])}"
    elif found.window is not None and (stated := backend.context_window) is not None and stated > found.window:
        yield f"the policy states a window of {stated:,} tokens, the server has {found.window:,}"
    elif found.window is not None and stated is None:
        yield f"the policy states no context_window; the server has {found.window:,} tokens"


class Discovery:
    """Compares one backend with its server whenever the server comes up, and warns once of each difference."""

    def __init__(self, backend: Backend, engine: Engine) -> None:
        self._backend, self._engine = backend, engine
        self.served: tuple[Served, ...] = ()
        self.differences: tuple[str, ...] = ()

    async def look(self, fetch: Callable[[str, int], Awaitable[bytes]]) -> None:
        """Ask the server. Raises `UpstreamError`."""
        self.served = read_models(self._engine, await fetch("models", LARGEST))
        found = tuple(differences(self._backend, self.served))
        for difference in found:
            if difference not in self.differences:
                log.warning("%s: %s", self._backend.name, difference)
        self.differences = found
