"""The encoders that a policy asks for: the local one as it becomes ready, or an embeddings endpoint elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np

from classifiers.encoder import Encoder, EncoderUnavailable, Vectors
from classifiers.static import StaticEncoder
from policies.schema import ClassifierSettings


class RemoteEncoder:
    """An OpenAI-compatible ``/embeddings`` endpoint. Its calls block, so it runs in the encoder's thread.

    Raises `EncoderUnavailable` when the endpoint fails or answers with something else than vectors.
    """

    def __init__(self, url: str, model: str, key: str | None, timeout: float) -> None:
        """Ask once for a vector, to learn the dimension."""
        self.name = model
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self.dimension = int(self.encode(["dimension"]).shape[1])

    def __enter__(self) -> RemoteEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimension), each of length 1."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        try:
            response = self._client.post(
                "/embeddings", json={"model": self.name, "input": list(texts)}
            ).raise_for_status()
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors = np.asarray([row["embedding"] for row in rows], np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
                raise ValueError("not one vector of numbers for each text")
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise EncoderUnavailable(f"the embeddings endpoint {self._client.base_url} failed: {error}") from error
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit


def warm(
    settings: ClassifierSettings, cache_dir: Path, ready: Callable[[StaticEncoder | None, Encoder | None], None]
) -> None:
    """Bring up what the policy names, calling ``ready(static, full)`` at each step up. Blocks: run it in a thread.

    Raises `EncoderUnavailable` with the reason when there is nothing to encode with.
    """
    if settings.encoder.startswith(("http://", "https://")):
        key = settings.encoder_key.get_secret_value() if settings.encoder_key else None
        timeout = max(settings.deadline.total_seconds(), 1.0)
        ready(None, RemoteEncoder(settings.encoder, settings.encoder_model or "text-embedding", key, timeout))
    elif settings.encoder == "local":
        from classifiers import prepare

        prepare.prepare(cache_dir)
        static = prepare.load_static(cache_dir)
        ready(static, None)
        ready(static, prepare.load_full(cache_dir))
    else:
        from classifiers.torch_encoder import TorchEncoder

        ready(None, TorchEncoder(settings.encoder))
