"""The words of a text, sooner than a pattern finds them where it is ASCII, and what is known of single words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

KEPT: Final = 8192
"""Words of which it is kept what is known of them."""

LONGEST: Final = 32
"""Characters of the longest of them."""

T = TypeVar("T")

_WORD: Final = re.compile(r"[^\W_]+")
_APART: Final = bytes(byte if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in any script."""
    return text.encode().translate(_APART).decode().split() if text.isascii() else _WORD.findall(text)


class Kept(dict[str, T]):
    """What a function of a word gives, kept for the words that come again.

    When there are too many, all are forgotten: the common ones are soon back, and to look one up touches less memory
    than where the order is kept in which they came.
    """

    def __init__(self, tell: Callable[[str], T]) -> None:
        super().__init__()
        self._tell = tell

    def __missing__(self, word: str) -> T:
        told = self._tell(word)
        if len(word) <= LONGEST:
            if len(self) >= KEPT:
                self.clear()
            self[word] = told
        return told

    def of(self, words: Iterable[str]) -> list[T]:
        """What the function gives for each of these words."""
        return [*map(self.__getitem__, words)]
