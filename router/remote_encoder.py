"""Vectors from an embeddings endpoint elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import numpy as np

from classifiers.encoder import Vectors
from router.encoders import EndpointAway


class RemoteEncoder:
    """An OpenAI-compatible ``/embeddings`` endpoint. Its calls block, so it runs in the encoder's process.

    Raises `EndpointAway` when the endpoint fails or answers with something else than vectors.
    """

    def __init__(self, url: str, model: str, key: str | None, timeout: float) -> None:
        """Ask once for a vector, to learn the dimension."""
        self.name = model
        self.runtime = "an endpoint"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        try:
            self.dimension = int(self.encode(["dimension"]).shape[1])
        except EndpointAway:
            self._client.close()
            raise

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
            raise EndpointAway(f"the embeddings endpoint {self._client.base_url} failed: {error}") from error
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
