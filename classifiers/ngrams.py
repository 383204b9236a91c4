"""Hashed character n-grams of a text: a sparse vector that needs no encoder and no vocabulary, in any script."""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 14
SIZE: Final = 1 << BITS
"""Length of the hashed space."""

READ: Final = 3000
"""Bytes of a text that are read; what comes later pulls on nothing."""

_SPACES: Final = bytes(32 if byte in b"\t\n\v\f\r" else byte for byte in range(256))
"""Every kind of white space in ASCII as a space."""

_SPACE, _PRIME, _SPREAD, _FINISH, _HALF, _SPARE = (  # arrays, which numpy takes sooner than scalars
    np.array(n, np.uint32) for n in (32, 0x01000193, 0x9E3779B1, 0x85EBCA6B, 15, 32 - BITS)
)
_SALTS: Final = np.array([(n * 0x7F4A7C15) & 0xFFFFFFFF for n in (2, 3, 4)], np.uint32)
_VALUES: Final = np.concatenate(([0.0], 1.0 + np.log(np.arange(1, 3 * READ + 4)))).astype(np.float32)
"""What a gram counts for by how often it occurs."""


def ngrams(text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices below `SIZE`, ascending, and values of a vector of length 1.

    Every run of 2 to 4 UTF-8 bytes of the lower-cased text that does not reach across a space counts, as 1 + the
    logarithm of how often it occurs. Hashing is a fixed multiply-xor (FNV-1a's prime, then murmur3's finisher), so a
    text gives the same vector on every machine. An empty text gives one entry, the space's.
    """
    raw = text[:READ].lower().encode("utf-8", "surrogatepass").translate(_SPACES)
    while raw.find(b"  ") >= 0:
        raw = raw.replace(b"  ", b" ")
    codes = np.frombuffer(b" " + raw[:READ] + b" ", np.uint8).astype(np.uint32)
    inner = codes[1:-1] != _SPACE
    pairs = _with_next(codes, codes[1:])
    threes = _with_next(pairs, codes[2:])
    fours = _with_next(threes, codes[3:])[inner[:-1] & inner[1:]]
    threes = threes[inner]
    mixed = np.concatenate((pairs, threes, fours))
    mixed *= _SPREAD
    mixed += _SALTS.repeat((len(pairs), len(threes), len(fours)))
    mixed ^= mixed >> _HALF
    mixed *= _FINISH
    mixed >>= _SPARE
    mixed.sort()
    begins = np.empty(len(mixed) + 1, bool)  # of each run of equal ones, and behind the last
    begins[0] = begins[-1] = True
    np.not_equal(mixed[1:], mixed[:-1], out=begins[1:-1])
    bounds = begins.nonzero()[0]
    starts = bounds[:-1]
    values = _VALUES[bounds[1:] - starts]
    values /= np.array(sqrt(values.dot(values)), np.float32)
    return mixed[starts].astype(np.int64), values


def _with_next(states: NDArray[np.uint32], codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The states of runs with one more byte, which has these codes."""
    longer = states[:-1] * _PRIME
    longer ^= codes
    return longer
