"""Lexical facts of a request's text, as numbers that heads read."""

from __future__ import annotations

import re
from itertools import repeat
from math import log1p
from struct import Struct
from typing import Final

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

_OPTION: Final = re.compile(r"\n\(?[A-J][.)] +(.*)")
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
_RELATION: Final = frozenset([
    "as", "than", "times", "twice", "thrice", "half", "halves", "double", "doubles", "doubled", "triple", "triples",
    "tripled", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths",
])  # fmt: skip
_NEGATIONS: Final = ("not", "except", "never", "none", "least", "incorrect", "false")
_STATEMENTS: Final = ("both", "only", "statement", "neither", "following")
_ALL_OF: Final = re.compile(r"\ball of\b", re.IGNORECASE)
_SPELLED: Final = [
    frozenset(spelled for word in words for spelled in (word, word.capitalize(), word.upper()))
    for words in (_NEGATIONS, _STATEMENTS)
]
_COUNTED: Final = (_FUNCTION, _FIRST, _SECOND, _RELATION, *_SPELLED)
_SPAN: Final = 12
"""Bits for the count of one kind of word, of which there are `MAX_TEXT` / 2 at most."""
_LANE: Final = (1 << _SPAN) - 1
_SAID: Final = _LANE << 4 * _SPAN | _LANE << 5 * _SPAN
"""The bits of negations and of statements."""
_KINDS: Final = {
    word: sum(1 << _SPAN * kind for kind, words in enumerate(_COUNTED) if word in words)
    for word in frozenset().union(*_COUNTED)
}
"""Words of a kind that is counted, each with a number that counts one of each of its kinds."""
_CASES: Final = bytes(
    ord("A" if chr(byte).isupper() else "a" if chr(byte).islower() else "0" if chr(byte).isdigit() else " ")
    for byte in range(256)
)
"""Of ASCII: an A for capital letters, an a for small ones, a 0 for digits, and spaces for all else."""
_YEAR: Final = re.compile(r"\b(?:1[0-9]|20)\d\d\b")
_DECIMAL: Final = re.compile(r"\.\d")
_DIGITS: Final = bytes(range(48, 58))
_NUMBERS: Final = bytes(byte if byte in _DIGITS else 32 for byte in range(256))
"""Digits as they are, and all else as spaces."""
_CAPITALS: Final = bytes(range(65, 91))
_SIGNS: Final = {"0": _DIGITS, "A": _CAPITALS, "=": b"=+*/<>^|&%#@~_]{}", "$": b"$\\", ".": b".!?"}
"""Kinds of bytes that are counted together, by what stands for them; opening square brackets are symbols too."""
_SIGN: Final = bytes(next((ord(sign) for sign, kind in _SIGNS.items() if byte in kind), byte) for byte in range(256))
_UNCOUNTED: Final = bytes(byte for byte in range(256) if chr(_SIGN[byte]) not in (*_SIGNS, *'\n"([,-'))
_WORDS: Final = 400
"""Words whose kinds are counted: a longer text's first ones stand for the rest."""
_HIGH: Final = np.ones(len(LEXICAL), np.float32)
_LOW: Final = -_HIGH
_FLOATS: Final = Struct(f"{len(LEXICAL)}f")


def lexical(features: Features) -> NDArray[np.float32]:
    """The lexical feature vector, shape ``(len(LEXICAL),)``, every entry clipped to [-1, 1].

    The clip is what caps each feature's pull: padding a prompt, or stuffing it with symbols, saturates one entry and no
    more. Counts enter as logarithms or as shares of the text.
    """
    text = reading(features)[:MAX_TEXT]
    words, raw = words_of(text), text.encode("utf-8", "surrogatepass")
    length, size, count, first = len(text), max(1, len(raw)), len(words), words[0].lower() if words else ""
    signs = raw.translate(_SIGN, _UNCOUNTED)
    occurs, digits = signs.count, signs.count(b"0")
    if len(raw) > length:
        numbers = list(map(len, _NUMBER.findall(text)))
    else:
        numbers = list(map(len, raw.translate(_NUMBERS).split())) if digits else []
    kinds, capitals = _spoken(text, raw, words)
    read = words[:_WORDS]
    most, distinct, long = max(1, len(read)), set(read), [word for word in read if len(word) > 7]
    options = _OPTION.findall("\n" + text)
    spans = list(map(len, options))
    facts = _FLOATS.pack(
        (log1p(length) - 5.5) / 2.0,
        (log1p(count) - 3.8) / 2.0,
        (len("".join(words)) / count - 5.0) / 3.0 if count else 0.0,
        log1p(occurs(b"\n")) / 3.0,
        digits / size * 10.0,
        occurs(b"A") / size * 10.0,
        (occurs(b"=") + occurs(b"[")) / size * 15.0,
        occurs(b"$") / size * 15.0,
        (len(raw) - length) / max(1, length),
        features.has_code,
        len(options) / 5.0,
        log1p(sum(spans) / len(spans)) / 5.0 if spans else 0.0,
        bool(options) and all(o[-1:].isdigit() or o[:1].isdigit() for o in options),
        "?" in text,
        first in _WH,
        first in _IMPERATIVE,
        log1p(len(numbers)) / 3.0,
        (kinds >> 4 * _SPAN & _LANE) / 3.0,
        (occurs(b'"') + text.count("“")) / 6.0,
        "___" in text or "…" in text or "..." in text,
        (len(read) / (1 + occurs(b".")) - 15.0) / 15.0,
        len(long) / most * 2.0,
        (len(distinct) / most - 0.7) * 2.0,
        (kinds & _LANE) / most * 2.0,
        capitals / most * 3.0,
        (kinds >> _SPAN & _LANE) / most * 8.0,
        (kinds >> 2 * _SPAN & _LANE) / most * 8.0,
        (len(_YEAR.findall(text)) if 4 in numbers else 0) / 3.0,
        occurs(b",") / most * 6.0,
        log1p(occurs(b"(") + occurs(b"[")) / 3.0,
        (max(spans) - min(spans)) / (1 + sum(spans)) * 3.0 if spans else 0.0,
        _overlap(text, options, distinct) if options else 0.0,
        (max(map(len, long or read)) - 10.0) / 6.0 if read else 0.0,
        log1p(max(numbers)) / 2.5 if numbers else 0.0,
        (kinds >> 5 * _SPAN & _LANE) / 4.0,
        occurs(b"-") / most * 8.0,
        0.0 if options else log1p(kinds >> 3 * _SPAN & _LANE) / 1.5,
        0.0 if options or not numbers else log1p(len(_DECIMAL.findall(text))) / 1.5,
    )
    clipped = np.maximum(np.frombuffer(facts, np.float32), _LOW)  # numpy's own clipping takes longer
    return np.minimum(clipped, _HIGH, out=clipped)


def _spoken(text: str, raw: bytes, words: list[str]) -> tuple[int, int]:
    """How many words there are of each kind, as `_KINDS` counts them, and how many but the first begin with a capital.

    Negations and words of statements count in a whole text and however they are spelled; to them an underscore is a
    letter.
    """
    read, cases = words[:_WORDS], b" " + raw.translate(_CASES)
    kinds = sum(map(_KINDS.get, read, repeat(0)))
    if usual := text.isascii() and len(read) == len(words):
        capitals = cases.count(b" A") - words[0][0].isupper() if words else 0
    else:
        capitals = sum([word[0].isupper() for word in read[1:]])
    if not usual or "_" in text or max(map(cases.find, (b"aA", b"AAa"))) >= 0:  # may be such as "nOt", "NOt", "not_"
        words = words_of(text.replace("_", "0")) if "_" in text else words
        kinds = kinds & ~_SAID | sum(map(_KINDS.get, map(str.lower, words), repeat(0))) & _SAID
    if "all of" in text.lower():
        kinds += len(_ALL_OF.findall(text)) << 5 * _SPAN
    return kinds, capitals


def _overlap(text: str, options: list[str], distinct: set[str]) -> float:
    """The share of the options' words that stand before the first of them, or in the whole text where that is empty."""
    words = words_of("\n".join(options))
    if len(words) > 40:
        words = [word for option in options for word in words_of(option)[:40]]
    stem = set(words_of(text[: text.find(options[0])])) if options[0] else distinct
    return sum(map(stem.__contains__, words)) / (1 + len(words))
