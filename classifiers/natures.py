"""What a word is wherever it stands in a prompt, as far as that tells where another part of it begins.

In most texts nearly every word is plain, and told by its shape: what stands for its letters and digits, and its signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product, repeat
from typing import Final

from classifiers.words import words_of
from policies.frozen import quick

KEPT: Final = 8192
"""Words and shapes of which it is remembered what they are."""

FAR: Final = re.compile(r"[^\x00-\u024f\u1e00-\u1eff\W]")
"""A letter or digit of another script than the Latin one."""
LONG: Final = 20
"""Characters from which a single odd word is taken for noise."""

_END: Final = re.compile(r"(?:[.!?;:。！？；：]|```|\$\$)[\"')\]}*]*$")
_LABEL: Final = re.compile(r"\(?(?:[A-Za-z]|\d{1,2}|[ivx]{2,4})[.):]$|[A-Z]\w+:$")
_JOINS: Final = frozenset(
    words_of(
        """
    a an the of to in on at by for from with and or as is are was be that which using if than into about my your
        """
    )
)
_OPENERS: Final = frozenset(
    words_of(
        """
    what why how tell explain write give create describe list compare suggest summarize summarise translate define find
    solve prove recommend help make
        """
    )
)
_MOVED: Final = frozenset(
    words_of(
        "i you we they he she it who can could should would will must may might do does did not please t let me us also"
    )
)
# Noise, code and formulas: runs of consonants or of letters, camel case, symbols inside or around a word, keywords.
_HARSH: Final = re.compile(r"[^aeiouy]{5}|^[^aeiouy]{3,}$|.{21}")
"""The first two of these in a word of small ASCII letters."""
_STOPS: Final = ".,:;?!"
_TANGLED: Final = re.compile(r"[b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{5}|[a-z][A-Z]|[A-Za-z]{21}")
"""What of the following is in a word of ASCII letters, small or not, and stops behind them."""
_ODD: Final = re.compile(
    r"[^\W\d_aeiouyAEIOUYÀ-ÿ]{5}|^[^\W\d_A-Zaeiouy]{3,}$|[^\W\d_]{21}|[a-z][A-Z]|[\w)\]][^\w\s.,:?!'\"’)%/-]+\w"
    r"|[^\w\s.,:;?!'\"’()$%/-]{2}|[\\{}<>|]|^[\[#*=]"
)
_KEYWORDS: Final = frozenset("public static void def const var int fn func struct elif".split())  # noqa: SIM905


@quick
@dataclass(frozen=True, slots=True, eq=False)
class Nature:
    """What a word is: its ``kind`` (0 plain, 1 odd, 2 of another script), whether it is a ``label``, as of an option,
    whether it ``holds`` on to the next word or ``stops`` before it, ends in a ``low`` letter, has one ``capital``, is
    all ``loud``, ``opens`` a request (``starts``: any of these three), or cannot be what a request ``follows``."""

    kind: int
    label: bool
    holds: bool
    stops: bool
    low: bool
    capital: bool
    loud: bool
    opens: bool
    follows: bool
    starts: bool


def _of_letters(word: str) -> Nature:
    """The nature of a word of small ASCII letters."""
    kind, opens = 1 if word in _KEYWORDS or _HARSH.search(word) else 0, word in _OPENERS
    return Nature(kind, False, word in _JOINS, False, True, False, False, opens, word not in _MOVED, opens)


@lru_cache(KEPT)
def nature(word: str) -> Nature:
    """The nature of one word, which is not empty."""
    if word.isalpha() and word.islower() and word.isascii():
        return _of_letters(word)
    lower, end = word.lower(), word[-1]
    if word.isascii() and word.rstrip(_STOPS).isalpha():
        kind = 1 if _TANGLED.search(word) else 0
        stops = end != "," and not end.isalpha()
        label = stops and bool(_LABEL.match(word))
    else:
        kind = 2 if not word.isascii() and FAR.search(word) else 1 if _ODD.search(word) else 0
        label = stops = False
        if not end.isalnum():
            label, stops = bool(_LABEL.match(word)), bool(_END.search(word))
    holds, capital = label or end == "," or lower in _JOINS, word[0].isupper() and word[1:].islower()
    loud, opens, follows = word.isupper(), lower in _OPENERS, lower not in _MOVED
    return Nature(kind, label, holds, stops, end.islower(), capital, loud, opens, follows, capital or loud or opens)


def natures(words: Sequence[str]) -> list[Nature]:
    """The nature of each word of a text: in a calm one a word in ASCII is told by its shape unless its letters tell."""
    raw = f" {' '.join(words)} ".encode("utf-8", "surrogatepass")
    if not _is_calm(raw):
        return list(map(nature, words))
    shapes = raw.translate(_SHAPE).split()
    found, at = list(map(_TELLING.get, words, map(_SHAPES.get, shapes, repeat(_UNTOLD)))), -1
    for _ in range(found.count(_UNTOLD)):
        at = found.index(_UNTOLD, at + 1)
        word = words[at]
        found[at] = nature(word if word.isalpha() or not word.isascii() else shapes[at].decode())
    return found


_UNTOLD: Final = nature("?")


def _is_calm(raw: bytes) -> bool:
    """Whether no word of ASCII letters is odd unless by its case or length, which is sooner said of all at once."""
    signs = raw.translate(_CONSONANTS)
    # Not by ``in``, which makes an error of bytes that are no number before it looks for them.
    return signs.find(b" ccc ") == signs.find(b" cccc ") == signs.lower().find(b"ccccc") == -1


_CONSONANTS: Final = bytes(
    ord("c" if sign in "bcdfghjklmnpqrstvwxz" else "C" if sign in "BCDFGHJKLMNPQRSTVWXZ" else
        " " if sign == " " else ".")
    for sign in map(chr, range(256))
)  # fmt: skip
"""Consonants, small and capital, and spaces as such, and all else alike."""
_SHAPE: Final = bytes(
    ord("o" if "a" <= sign <= "z" else "O" if "A" <= sign <= "Z" else "0" if "0" <= sign <= "9" else sign)
    for sign in map(chr, range(256))
)
"""Letters, small and capital, and digits as such, and all else as it is."""
_SHAPES: Final = {
    (shape := letters + stop).encode(): nature(shape)
    for size in range(1, LONG)
    for letters in ("o" * size, "O" + "o" * (size - 1), "O" * size, "0" * size)
    for stop in ("", *_STOPS)
}
"""What words of one shape are if they do not tell, in a text that is calm."""
_NUMERALS: Final = [
    f"{before}{''.join(signs)}{behind}"
    for size in (2, 3, 4) for signs in product("ivx", repeat=size) for before in ("", "(") for behind in ".):"
]  # fmt: skip
"""Labels that their letters make."""
_TELLING: Final = {label: nature(label) for label in _NUMERALS} | {
    spelled: nature(spelled)
    for word in _KEYWORDS | _JOINS | _OPENERS | _MOVED
    for spelled in (word, word.capitalize(), word.upper())
}
