"""Any sentence-transformers model, on the GPU when there is one. The only module that imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.encoder import EncoderUnavailable, Vectors, readable, window

DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
"""One of these is there where a GPU can be used: NVIDIA's driver, AMD's, Windows' own."""


def gpu() -> bool:
    """Whether the extra ``torch`` is installed and sees a GPU. Without a driver torch is not even loaded."""
    if find_spec("sentence_transformers") is None or not any(path.exists() for path in DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


class TorchEncoder:
    """A sentence-transformers model by name or path, in float32. Needs the extra ``torch``.

    On a CPU texts run one at a time, so that a vector never depends on its batch-mates, bit for bit. On a GPU they run
    in batches of ``batch_size``, where padding moves a vector's last bits (cosine 1 - 1e-6): give 1 where that matters.
    """

    def __init__(
        self, model: str, device: str | None = None, batch_size: int | None = None, name: str | None = None
    ) -> None:
        """Load ``model`` onto ``device`` (by default a GPU that is there); ``name``, its space, defaults to ``model``.

        Raises `EncoderUnavailable` when torch is not installed or there is no such model.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EncoderUnavailable(f"the encoder {model!r} needs torch: pip install 'tierwise[torch]'") from error
        try:
            self._model: Any = SentenceTransformer(model, device=device)
        except (OSError, ValueError) as error:
            raise EncoderUnavailable(f"sentence-transformers cannot load the encoder {model!r}: {error}") from error
        self._batch_size = batch_size or (1 if self._model.device.type == "cpu" else 64)
        self.name = name or model
        self.runtime = f"torch on {self._model.device.type}"
        self.dimension: int = self._model.get_embedding_dimension()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        vectors: Vectors = self._model.encode(
            [self._cut(readable(text)) for text in texts],
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors.astype(np.float32, copy=False)

    def _cut(self, text: str) -> str:
        """The text's head and tail where it is longer than the model's window."""
        tokenizer = self._model.tokenizer
        limit = self._model.max_seq_length - tokenizer.num_special_tokens_to_add()
        places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        head, tail = window(len(places), limit)
        return f"{text[: places[head - 1][1]]} {text[places[len(places) - tail][0] :]}" if tail else text
