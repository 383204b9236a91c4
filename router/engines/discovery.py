"""What a server says that it serves (``GET /v1/models``): what the policy leaves open, and where the two differ."""

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


def window_of(model: str, served: tuple[Served, ...]) -> int | None:
    """The context window of a model on offer, an adapter's being its base's; None where the server tells none."""
    by_name = {each.id: each for each in served}
    found = by_name.get(model)
    if found is not None and found.window is None and found.base is not None:
        found = by_name.get(found.base, found)
    return None if found is None else found.window


def differences(backend: Backend, served: tuple[Served, ...]) -> Iterator[str]:
    """What the policy says of a backend and its server denies, as sentences."""
    if not served:
        return
    if all(model.id != backend.model for model in served):
        yield f"it does not list the model {backend.model!r}; it has {listing([model.id for model in served])}"
        return
    window, stated = window_of(backend.model, served), backend.context_window
    if window is not None and stated is not None and stated > window:
        yield f"the policy states a window of {stated:,} tokens, the server has {window:,}"


class Discovery:
    """Compares one backend with its server whenever the server comes up, and warns once of each difference."""

    def __init__(self, backend: Backend, engine: Engine) -> None:
        self._backend, self._engine = backend, engine
        self.served: tuple[Served, ...] = ()
        self.differences: tuple[str, ...] = ()

    @property
    def window(self) -> int | None:
        """The context window in tokens that the server tells and the policy does not; None where it is not known."""
        return None if self._backend.context_window is not None else window_of(self._backend.model, self.served)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters (LoRA) that the server has beside its base models."""
        return tuple(model.id for model in self.served if model.base is not None)

    async def look(self, fetch: Callable[[str, int], Awaitable[bytes]]) -> None:
        """Ask the server. Raises `UpstreamError`."""
        before = self.window
        self.served = read_models(self._engine, await fetch("models", LARGEST))
        if self.window is not None and self.window != before:
            log.info("%s: its server tells a context window of %s tokens", self._backend.name, f"{self.window:,}")
        found = tuple(differences(self._backend, self.served))
        for difference in found:
            if difference not in self.differences:
                log.warning("%s: %s", self._backend.name, difference)
        self.differences = found
