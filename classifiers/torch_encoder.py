"""Any sentence-transformers model, on the GPU when there is one. The only module that imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from classifiers.encoder import EncoderUnavailable, Vectors


class TorchEncoder:
    """A sentence-transformers model by name or path, in float32. Needs the extra ``torch``."""

    def __init__(self, model: str, device: str | None = None, batch_size: int = 64, name: str | None = None) -> None:
        """Load ``model`` onto ``device`` (by default the GPU when there is one). ``name`` defaults to ``model``."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EncoderUnavailable(f"the encoder {model!r} needs torch: pip install 'tierwise[torch]'") from error
        self._model: Any = SentenceTransformer(model, device=device)
        self._batch_size = batch_size
        self.name = name or model
        self.dimension: int = self._model.get_sentence_embedding_dimension()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        vectors: Vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, convert_to_numpy=True
        )
        return vectors.astype(np.float32, copy=False)
