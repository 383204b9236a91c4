"""The encoders that a policy asks for: the local one as it becomes ready, or an embeddings endpoint elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from classifiers.encoder import EncoderUnavailable
from router.memory import return_memory

if TYPE_CHECKING:
    from classifiers.encoder import Encoder
    from classifiers.static import StaticEncoder
    from policies.schema import ClassifierSettings

log = logging.getLogger(__name__)


class EndpointAway(EncoderUnavailable):
    """An embeddings endpoint that fails, for as long as it does."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What of a policy's `ClassifierSettings` is about encoders, in plain values; ``timeout`` in seconds."""

    encoder: str = field(repr=False)
    model: str
    key: str | None = field(repr=False)
    device: Literal["auto", "cpu", "cuda"]
    timeout: float

    @classmethod
    def of(cls, settings: ClassifierSettings) -> EncoderSettings:
        """Those of a policy."""
        key = settings.encoder_key.get_secret_value() if settings.encoder_key else None
        timeout = max(settings.deadline.total_seconds(), 1.0)
        return cls(settings.encoder, settings.encoder_model or "text-embedding", key, settings.device, timeout)


def static(settings: EncoderSettings, cache_dir: Path) -> StaticEncoder | None:
    """The first look's table, prepared where it is not yet; only the local encoder has one.

    Raises `EncoderUnavailable`.
    """
    if settings.encoder != "local":
        return None
    from classifiers import prepare

    prepare.prepare(cache_dir)
    return prepare.load_static(cache_dir)


def warm(
    settings: EncoderSettings, cache_dir: Path, ready: Callable[[StaticEncoder | None, Encoder | None], None]
) -> None:
    """Bring up what the policy names, calling ``ready(static, full)`` at each step up. Blocks: run it in a thread.

    Raises `EncoderUnavailable` with the reason when there is nothing to encode with, `EndpointAway` where there may be
    later.
    """
    if settings.encoder.startswith(("http://", "https://")):
        from router.remote_encoder import RemoteEncoder

        ready(None, RemoteEncoder(settings.encoder, settings.model, settings.key, settings.timeout))
    elif settings.encoder == "local":
        from classifiers import prepare

        ready(first := static(settings, cache_dir), None)
        if settings.device != "cuda":
            full = prepare.load_full(cache_dir)
            return_memory()
            ready(first, full)
        if (faster := prepare.on_device(settings.device)) is not None:
            faster.encode(["the first text pays for starting the GPU"])
            ready(first, faster)
            log.info("the full look runs with %s", faster.runtime)
    else:
        from classifiers.torch_encoder import TorchEncoder

        ready(None, TorchEncoder(settings.encoder, device=None if settings.device == "auto" else settings.device))
