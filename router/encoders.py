"""The encoders that a policy asks for: the local one as it becomes ready, or an embeddings endpoint elsewhere."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from classifiers.encoder import Encoder
from classifiers.static import StaticEncoder
from policies.schema import ClassifierSettings

log = logging.getLogger(__name__)


def warm(
    settings: ClassifierSettings, cache_dir: Path, ready: Callable[[StaticEncoder | None, Encoder | None], None]
) -> None:
    """Bring up what the policy names, calling ``ready(static, full)`` at each step up. Blocks: run it in a thread.

    Raises `EncoderUnavailable` with the reason when there is nothing to encode with.
    """
    if settings.encoder.startswith(("http://", "https://")):
        from router.remote_encoder import RemoteEncoder

        key = settings.encoder_key.get_secret_value() if settings.encoder_key else None
        timeout = max(settings.deadline.total_seconds(), 1.0)
        ready(None, RemoteEncoder(settings.encoder, settings.encoder_model or "text-embedding", key, timeout))
    elif settings.encoder == "local":
        from classifiers import prepare

        prepare.prepare(cache_dir)
        static = prepare.load_static(cache_dir)
        ready(static, None)
        if settings.device != "cuda":
            full = prepare.load_full(cache_dir)
            _give_back()
            ready(static, full)
        if (faster := prepare.on_device(settings.device)) is not None:
            faster.encode(["the first text pays for starting the GPU"])
            ready(static, faster)
            log.info("the full look runs with %s", faster.runtime)
    else:
        from classifiers.torch_encoder import TorchEncoder

        ready(None, TorchEncoder(settings.encoder, device=None if settings.device == "auto" else settings.device))


def _give_back() -> None:
    """Return to the system what loading needed and serving does not; only glibc keeps it, and knows how."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
