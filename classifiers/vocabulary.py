"""The words of a text that a vocabulary has whole, all found at once.

Word by word in a dictionary, each look-up waits for its own memory; numpy's wait for all of theirs together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 20
"""Characters of a word that is found."""

_CODES: Final = bytes(
    0 if chr(byte).isspace() else byte if chr(byte).isalnum() else byte | 128 for byte in range(128)
).ljust(256, b"\xff")
"""White space as 0, letters and digits below 128, and what is a word by itself above."""

_BOUNDS: Final = bytes(127 if 0 < code < 128 else 0 for code in _CODES)
"""What a character's code is above where a word begins, by the character before it."""

_BASE: Final = 0x9E3779B97F4A7C15
"""A word's hash is the polynomial of this with its codes, modulo 2⁶⁴. Odd, so that it has an inverse."""

_BITS: Final = 17
_REST: Final = np.array(64 - _BITS)  # which numpy takes sooner than a number
"""Of a hash all but the upper bits, which are its slot's index, negative ones from the end on."""


class Vocabulary:
    """Words and their numbers, each in the slot that its hash names, if no word that came later is there."""

    def __init__(self, words: Iterable[tuple[str, int]], size: int, longest: int) -> None:
        """Lower-case ASCII ``words`` of up to `LONGEST` characters with their numbers, which are below ``size``, at
        most 65,536. A text to be looked up has up to ``longest`` characters, at least `LONGEST`."""
        self._powers = _powers(longest)
        self._slots = np.zeros(1 << _BITS, np.uint16)
        self._hashes = np.zeros(size, np.int64)
        left = iter(words)
        while batch := dict(islice(left, longest // LONGEST)):
            _, hashes = self._hashed(" ".join(batch))
            numbers = np.array(list(batch.values()), np.uint16)
            self._slots[hashes >> _REST] = numbers
            self._hashes[numbers] = hashes

    def look_up(self, text: str) -> tuple[list[int], list[int], NDArray[np.int64]]:
        """Each word's number in a lower-case ASCII ``text``, the indices of unknown words, whose numbers mean nothing,
        and where in the text each word begins.

        A word is a run of letters and digits, or any other character but white space. That it is unknown is told by 64
        bits of a hash.
        """
        starts, hashes = self._hashed(text)
        numbers = self._slots.take(hashes >> _REST)
        unknown = (self._hashes.take(numbers) != hashes).nonzero()[0]
        return numbers.tolist(), unknown.tolist(), starts

    def _hashed(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where words begin, and their hashes: sums of codes times powers that go on through the text, moved to the
        first power by its inverse."""
        raw = text.encode()
        codes = np.frombuffer(raw.translate(_CODES), np.uint8)
        starts = (codes > np.frombuffer((b" " + raw).translate(_BOUNDS), np.uint8, len(raw))).nonzero()[0]
        powers, inverses = self._powers
        hashes = np.add.reduceat(codes * powers[: len(raw)], starts)
        hashes *= inverses.take(starts)
        return starts, hashes


def _powers(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The base to the power of 1, 2, …, and of 0, -1, …: a word at 5 is summed from the 6th power on, and moved by -5.

    The 0th would leave a word's first character out of the upper bits.
    """
    base, inverse = (np.full(count, number, np.uint64) for number in (_BASE, pow(_BASE, -1, 1 << 64)))
    inverse[0] = 1
    return np.multiply.accumulate(base).view(np.int64), np.multiply.accumulate(inverse).view(np.int64)
