"""Text to vectors: the seam that every encoder fits, and the default one, a fused ONNX graph on one CPU thread.

An encoder's ``name`` identifies its vector space. Artifacts record it, and refuse vectors of another space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from classifiers.vocabulary import LONGEST, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

MAX_PIECES = 256
"""Word pieces that the model was trained to see, its two markers included."""

MAX_CHARACTERS = 1024
"""Characters read from either end of a long text, so that a megabyte costs no more than a page."""

WORDS_KEPT = 4096
"""Words of several pieces that are kept, of those met last."""


def window(length: int, limit: int) -> tuple[int, int]:
    """How many pieces of a text of ``length`` to keep from its start and from its end: all, or two halves of ``limit``.

    The head alone would lose the question that stands below a long document.
    """
    return (length, 0) if length <= limit else (limit - limit // 2, limit // 2)


def readable(text: str) -> str:
    """What any encoder reads of ``text``: at most its two ends, without the lone surrogates that JSON lets through."""
    if len(text) > 2 * MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]} {text[-MAX_CHARACTERS:]}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class EncoderUnavailable(Exception):
    """There is nothing to encode with. The message says what was looked for and what to do."""


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors."""

    @property
    def name(self) -> str:
        """The vector space: equal names mean that vectors can be compared."""

    @property
    def dimension(self) -> int:
        """Length of one vector."""

    @property
    def runtime(self) -> str:
        """What computes the vectors, and on what. One space may be computed by several, to a cosine of 0.99."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimension), float32, each of length 1 and independent of the others."""


_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
"""What BERT parts an ASCII text into, before each word by itself is split into pieces."""

_FOREIGN = re.compile(r"(?<![^ \t\n\r])[^ \t\n\r]*[^\x00-\x7f][^ \t\n\r]*")
"""A run of characters between ASCII's white space that are not all ASCII."""

_RUN = "\0"
"""What stands for such a run: a character that only an odd text has."""

_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\[(?:PAD|UNK|CLS|SEP|MASK)\]")
"""What it reads across words: control characters, which it drops, and the names of its markers."""

_CONTROLS = bytes(byte for byte in range(128) if _ODD.match(chr(byte)))


def _is_odd(text: str) -> bool:
    if text.isascii() and "[" not in text:
        return len(text.encode().translate(None, _CONTROLS)) < len(text)
    return _ODD.search(text) is not None


class WordPieces:
    """The encoder's tokenizer, with a window of our own: the head and the tail of a long text."""

    def __init__(self, path: Path) -> None:
        """Read ``tokenizer.json``; its own padding and truncation are switched off."""
        from tokenizers import Tokenizer

        self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._model = self._tokenizer.model
        self._known = lru_cache(WORDS_KEPT)(self._of_unknown)
        self.size = self._tokenizer.get_vocab_size()
        self._vocabulary = Vocabulary(self._words(), self.size, 2 * MAX_CHARACTERS + 1)
        self.start = self._id("[CLS]")
        self.end = self._id("[SEP]")
        self.unknown = self._id("[UNK]")

    def _id(self, piece: str) -> int:
        number = self._tokenizer.token_to_id(piece)
        if number is None:
            raise ValueError(f"the tokenizer has no {piece} piece: it is not a BERT tokenizer")
        return number

    def _words(self) -> Iterator[tuple[str, int]]:
        """Pieces that are ASCII words by themselves, and their ids, the rarest first."""
        for number in reversed(range(self.size)):
            piece = self._tokenizer.id_to_token(number) or ""
            if len(piece) <= LONGEST and _WORD.fullmatch(piece):
                yield piece, number

    def pieces(self, text: str, limit: int = MAX_PIECES - 2) -> list[int]:
        """Ids of the text, without markers: all of them, or the first and the last half of ``limit``."""
        text = readable(text)
        ids = self._encode(text) if _is_odd(text) else self._of_words(text)
        head, tail = window(len(ids), limit)
        return ids if head == len(ids) else ids[:head] + ids[len(ids) - tail :]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _of_words(self, text: str) -> list[int]:
        """What `_encode` gives for a text that is not odd, much sooner: the tokenizer keeps track of offsets."""
        foreign = []
        if not text.isascii():
            foreign = [self._encode(run) for run in _FOREIGN.findall(text)]
            text = _FOREIGN.sub(_RUN, text)
        text = text.lower()
        ids, unknown, starts = self._vocabulary.look_up(text)
        for at in reversed(unknown):
            word = _WORD.match(text, starts[at])
            ids[at : at + 1] = self._known(word[0]) if word else foreign.pop()
        return ids

    def _of_unknown(self, word: str) -> tuple[int, ...]:
        return tuple(piece.id for piece in self._model.tokenize(word))


@lru_cache(maxsize=1)
def word_pieces(path: Path) -> WordPieces:
    """The tokenizer at ``path``, the same one for both looks: it is thread-safe, and takes several MiB."""
    return WordPieces(path)


class OnnxEncoder:
    """The full look: the transformer as a fused graph in ONNX Runtime.

    Texts run one at a time, so a vector never depends on its batch-mates and decisions replay bit for bit;
    ``threads`` texts run side by side.
    """

    def __init__(self, model: Path, tokenizer: Path, name: str, threads: int = 1) -> None:
        """Load the graph at ``model`` (see `classifiers.convert`) and its tokenizer."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it plans ahead for each length of text, at 6 MiB and no gain in time
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._pieces = word_pieces(tokenizer)
        self._threads = threads
        self.name = name
        self.runtime = "ONNX Runtime on cpu"
        self.dimension: int = self._session.get_outputs()[0].shape[1]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        if self._threads == 1 or len(texts) == 1:
            for row, text in enumerate(texts):
                vectors[row] = self._vector(text)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                for row, vector in enumerate(pool.map(self._vector, texts)):
                    vectors[row] = vector
        return vectors

    def _vector(self, text: str) -> Vectors:
        ids = [self._pieces.start, *self._pieces.pieces(text), self._pieces.end]
        vector: Vectors = self._session.run(None, {"input_ids": np.array([ids])})[0][0]
        return vector
