"""Train an artifact with the encoding spread over a Ray cluster; all else is `tierwise train`.

Ray Data reads the files and encodes their rows in actors; this process receives rows and vectors in the files' order
and hands them to `classifiers.train.train`. The artifact is the same, byte for byte, as one trained without Ray.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from classifiers.artifact import save
from classifiers.datasets import Row, read_lines, sha256
from classifiers.embed import Encodes
from classifiers.features import reading
from classifiers.members import Settings
from classifiers.train import train
from router.cli.train import encoders_for, progress

Open = Callable[[], Mapping[str, Encodes]]
BATCH = 256


class Worker:
    """One actor: its own copy of the encoders, lines in, lines with a vector per look out."""

    def __init__(self, open_encoders: Open) -> None:
        self._encoders = open_encoders()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Encode the texts of a batch of lines, each as `tierwise train` would read it."""
        texts = [reading(row.features) for row in parsed(batch["text"])]
        vectors = {look: np.asarray(encoder.encode(texts), np.float32) for look, encoder in self._encoders.items()}
        return {"text": batch["text"], **vectors}


class Received:
    """An encoder that already knows the vectors of the rows being read, and encodes here only what is new.

    What was not asked for (an interrupted run that resumes has it on disk) is let go when the next batch comes.
    """

    def __init__(self, encoder: Encodes) -> None:
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}
        self.name = encoder.name
        self.dimension = encoder.dimension
        self.runtime = encoder.runtime

    def learn(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take the vectors of the rows that come next, in place of those that came before."""
        self._known = dict(zip(texts, vectors, strict=True))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (len(texts), dimension)."""
        if not all(text in self._known for text in texts):
            return np.asarray(self._encoder.encode(texts), np.float32)
        return np.stack([self._known[text] for text in texts])


def rows(
    paths: Sequence[Path], received: Mapping[str, Received], open_encoders: Open, workers: int, gpus: float
) -> Iterator[Row]:
    """The rows of ``paths`` in order, each after its batch's vectors were given to ``received``."""
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    lines = ray.data.read_text([str(path.resolve()) for path in paths], drop_empty_lines=True)
    encoded = lines.map_batches(
        Worker,
        fn_constructor_args=(open_encoders,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_gpus=gpus,
    )
    for batch in encoded.iter_batches(batch_size=BATCH):
        read = parsed(batch["text"])
        for look, encoder in received.items():
            encoder.learn([reading(row.features) for row in read], batch[look])
        yield from read


def parsed(lines: NDArray[Any]) -> list[Row]:
    """The rows of some lines. Raises `DataError` as `read` does."""
    return list(read_lines(BytesIO("\n".join(lines).encode()), "a batch of rows"))


def main() -> None:
    """Train and save, on the cluster that ``RAY_ADDRESS`` names, else on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="rows with scores, .jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the artifact to")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep vectors here, so that a second run resumes")
    parser.add_argument("--encoder", metavar="MODEL", help="a sentence-transformers model instead of the built-in one")
    parser.add_argument("--look", choices=("lexical", "static", "full"), default="full", help="the best look to train")
    parser.add_argument("--encoders", type=int, default=2, metavar="N", help="actors that encode; default %(default)s")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="GPUs for each; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and rows give the same bytes")
    args = parser.parse_args()

    def open_encoders() -> Mapping[str, Encodes]:
        return encoders_for(args.look, args.encoder, None, "auto")

    received = {look: Received(encoder) for look, encoder in open_encoders().items()}
    paths = sorted(args.data)
    about: dict[str, Any] = {"code": version("tierwise"), "data": {path.name: sha256(path) for path in paths}}
    about["runtimes"] = {look: encoder.runtime for look, encoder in received.items()}
    with tempfile.TemporaryDirectory() as temporary, progress() as told:
        read = rows(paths, received, open_encoders, args.encoders, args.gpus)
        artifact = train(read, received, args.work or Path(temporary), Settings(seed=args.seed), told, about)
    print(f"{args.out}: artifact {save(artifact, args.out).id}")


if __name__ == "__main__":
    main()
