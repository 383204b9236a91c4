"""Lexical facts of a request's text, as numbers that heads read."""

from __future__ import annotations

import re
from array import array
from itertools import repeat
from math import log1p
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifiers.features import MAX_TEXT, reading
from classifiers.words import words_of
from policies.values import Features

LEXICAL: Final = (
    "length", "words", "word_length", "lines", "digits", "capitals", "symbols", "latex", "non_ascii", "code",
    "options", "option_length", "numeric_options", "question", "wh_word", "imperative", "numbers", "negation",
    "quotes", "blank", "sentence_length", "long_words", "variety", "function_words", "names", "first_person",
    "second_person", "years", "commas", "brackets", "option_spread", "option_overlap", "longest_word", "number_size",
    "statements", "hyphens", "relations", "decimals",
)  # fmt: skip
"""Names of the lexical features, in the order of `lexical`'s columns."""

_OPTION: Final = re.compile(r"^\(?[A-J][.)] +(.*)$", re.MULTILINE)
_NEGATIONS: Final = frozenset(["not", "except", "never", "none", "least", "incorrect", "false"])
_NEGATION: Final = re.compile(r"\b(?:not|except|never|none|least|incorrect|false)\b", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+")
_WH: Final = frozenset(["what", "which", "who", "whom", "whose", "when", "where", "why", "how"])
_IMPERATIVE: Final = frozenset([
    "write", "find", "calculate", "compute", "solve", "prove", "show", "explain", "describe", "list", "give", "make",
    "create", "implement", "design", "evaluate", "determine", "simplify", "tell", "help", "translate", "summarize",
    "generate", "suppose", "let", "consider", "fix", "convert",
])  # fmt: skip
_FUNCTION: Final = frozenset([
    "the", "a", "an", "of", "to", "in", "and", "is", "are", "was", "were", "that", "for", "on", "with", "as", "by",
    "at", "from", "or", "be", "it", "this", "which", "has", "have", "had", "not", "but", "if", "its", "their", "can",
    "will",
])  # fmt: skip
_FIRST: Final = frozenset(["I", "i", "my", "me", "My", "we", "We", "our", "us"])
_SECOND: Final = frozenset(["you", "your", "You", "Your", "please", "Please"])
_SPAN: Final = 10
"""Bits for the count of one kind of word, of which there are 400 at most."""
_YEAR: Final = re.compile(r"\b(?:1[0-9]|20)\d\d\b")
_STATEMENTS: Final = frozenset(["both", "only", "all", "statement", "neither", "following"])
_STATEMENT: Final = re.compile(r"\b(?:both|only|all of|statement|neither|following)\b", re.IGNORECASE)
_RELATION: Final = frozenset([
    "as", "than", "times", "twice", "thrice", "half", "halves", "double", "doubles", "doubled", "triple", "triples",
    "tripled", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths",
])  # fmt: skip
_KINDS: Final = {
    word: sum(1 << _SPAN * kind for kind, words in enumerate((_FUNCTION, _FIRST, _SECOND, _RELATION)) if word in words)
    for word in _FUNCTION | _FIRST | _SECOND | _RELATION
}
"""Words of a kind that is counted, each with a number that counts one of each of its kinds."""
_DECIMAL: Final = re.compile(r"\.\d")
_DIGITS: Final = bytes(range(48, 58))
_NUMBERS: Final = bytes(byte if byte in _DIGITS else 32 for byte in range(256))
"""Digits as they are, and all else as spaces."""
_CAPITALS: Final = bytes(range(65, 91))
_SIGNS: Final = {"0": _DIGITS, "A": _CAPITALS, "=": b"=+*/<>^|&%#@~_]{}", "$": b"$\\", ".": b".!?"}
"""Kinds of bytes that are counted together, by what stands for them; opening square brackets are symbols too."""
_SIGN: Final = bytes(next((ord(sign) for sign, kind in _SIGNS.items() if byte in kind), byte) for byte in range(256))
_UNCOUNTED: Final = bytes(byte for byte in range(256) if chr(_SIGN[byte]) not in (*_SIGNS, *"([,-"))
_WORDS: Final = 400
"""Words whose kinds are counted: a longer text's first ones stand for the rest."""


def lexical(features: Features) -> NDArray[np.float32]:
    """The lexical feature vector, shape ``(len(LEXICAL),)``, every entry clipped to [-1, 1].

    The clip is what caps each feature's pull: padding a prompt, or stuffing it with symbols, saturates one entry and no
    more. Counts enter as logarithms or as shares of the text.
    """
    text = reading(features)[:MAX_TEXT]
    words, raw = words_of(text), text.encode("utf-8", "surrogatepass")
    signs = raw.translate(_SIGN, _UNCOUNTED)
    options = _OPTION.findall(text) if "\n" in text or _OPTION.match(text) else []
    numbers = map(len, raw.translate(_NUMBERS).split() if text.isascii() else _NUMBER.findall(text))
    parts = _Parts(text, len(raw), signs, words, frozenset(map(str.lower, words)), options, [*numbers])
    facts = _shape(parts, features.has_code) + _wording(parts)
    # Without numpy's own clipping: for so few numbers its code takes longer to fetch than to run.
    return np.frombuffer(array("f", [-1.0 if one < -1.0 else 1.0 if one > 1.0 else one for one in facts]), np.float32)


class _Parts(NamedTuple):
    """A text, how many bytes it has, those of them that are counted as signs of their kinds, and what is found in it:
    words, which of them there are in small letters, options, and the lengths of its numbers."""

    text: str
    size: int
    signs: bytes
    words: list[str]
    lower: frozenset[str]
    options: list[str]
    numbers: list[int]

    def times(self, pattern: re.Pattern[str], known: frozenset[str]) -> int:
        """How often a pattern is found that begins with one of these words, and is no more but for ``all``."""
        found = known & self.lower
        if "_" in self.text or (
            "all" in found and "all of" in self.text.lower()
        ):  # to a pattern, words have underscores
            return len(pattern.findall(self.text))
        found -= {"all"}
        return sum(map(found.__contains__, map(str.lower, self.words))) if found else 0


def _shape(parts: _Parts, has_code: bool) -> list[float]:
    text, most, signs, words, _, options, numbers = parts
    size, count, most = len(text), len(words), max(1, most)
    occurs = signs.count
    option_chars = sum(map(len, options)) / len(options) if options else 0.0
    first = words[0].lower() if words else ""
    return [
        (log1p(size) - 5.5) / 2.0,
        (log1p(count) - 3.8) / 2.0,
        (len("".join(words)) / count - 5.0) / 3.0 if count else 0.0,
        log1p(text.count("\n")) / 3.0,
        occurs(b"0") / most * 10.0,
        occurs(b"A") / most * 10.0,
        (occurs(b"=") + occurs(b"[")) / most * 15.0,
        occurs(b"$") / most * 15.0,
        (parts.size - size) / max(1, size),
        float(has_code),
        len(options) / 5.0,
        log1p(option_chars) / 5.0,
        float(bool(options) and all(o[-1:].isdigit() or o[:1].isdigit() for o in options)),
        float("?" in text),
        float(first in _WH),
        float(first in _IMPERATIVE),
        log1p(len(numbers)) / 3.0,
        parts.times(_NEGATION, _NEGATIONS) / 3.0,
        (text.count('"') + text.count("“")) / 6.0,
        float("___" in text or "…" in text or "..." in text),
    ]


def _wording(parts: _Parts) -> list[float]:
    text, _, signs, words, _, options, digits = parts
    words, occurs = words[:_WORDS], signs.count
    count = max(1, len(words))
    distinct = set(words)
    spans = list(map(len, options))
    option_words = [w for o in options for w in words_of(o)[:40]]
    stem = set(words_of(text[: text.find(options[0])])) if options and options[0] else distinct
    kinds = sum(map(_KINDS.get, words, repeat(0)))
    function, first, second, relation = (kinds >> _SPAN * kind & (1 << _SPAN) - 1 for kind in range(4))
    return [
        (len(words) / (1 + occurs(b".")) - 15.0) / 15.0,
        len([word for word in words if len(word) > 7]) / count * 2.0,
        (len(distinct) / count - 0.7) * 2.0,
        function / count * 2.0,
        sum(map(str.isupper, [word[0] for word in words[1:]])) / count * 3.0,
        first / count * 8.0,
        second / count * 8.0,
        (len(_YEAR.findall(text)) if 4 in digits else 0) / 3.0,
        occurs(b",") / count * 6.0,
        log1p(occurs(b"(") + occurs(b"[")) / 3.0,
        (max(spans) - min(spans)) / (1 + sum(spans)) * 3.0 if spans else 0.0,
        sum(map(stem.__contains__, option_words)) / (1 + len(option_words)),
        (max(map(len, words)) - 10.0) / 6.0 if words else 0.0,
        log1p(max(digits)) / 2.5 if digits else 0.0,
        parts.times(_STATEMENT, _STATEMENTS) / 4.0,
        occurs(b"-") / count * 8.0,
        0.0 if options else log1p(relation) / 1.5,
        0.0 if options or not digits else log1p(len(_DECIMAL.findall(text))) / 1.5,
    ]
