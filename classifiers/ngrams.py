"""Hashed character n-grams of a text: a sparse vector that needs no encoder and no vocabulary, in any script."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 14
SIZE: Final = 1 << BITS
"""Length of the hashed space."""

READ: Final = 3000
"""Bytes of a text that are read; what comes later pulls on nothing."""

_SPACES: Final = re.compile(rb"\s+")
_SHORTEST, _LONGEST = 2, 4


def ngrams(text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices below `SIZE`, ascending, and values of a vector of length 1.

    Every run of 2 to 4 UTF-8 bytes of the lower-cased text that does not reach across a space counts, as 1 + the
    logarithm of how often it occurs. Hashing is a fixed multiply-xor (FNV-1a's prime, then murmur3's finisher), so a
    text gives the same vector on every machine. An empty text gives one entry, the space's.
    """
    raw = b" " + _SPACES.sub(b" ", text[:READ].lower().encode("utf-8", "surrogatepass"))[:READ] + b" "
    codes = np.frombuffer(raw, np.uint8).astype(np.uint32)
    inner = codes != 32
    state = codes
    hashes = []
    whole = np.ones(len(codes), bool)
    for n in range(_SHORTEST, _LONGEST + 1):
        state = (state[:-1] * np.uint32(0x01000193)) ^ codes[n - 1 :]
        whole = whole[: len(state)]
        if n > _SHORTEST:
            whole = whole & inner[n - 2 : n - 2 + len(state)]
        mixed = state[whole] * np.uint32(0x9E3779B1) + np.uint32((n * 0x7F4A7C15) & 0xFFFFFFFF)
        mixed ^= mixed >> np.uint32(15)
        hashes.append((mixed * np.uint32(0x85EBCA6B)) >> np.uint32(32 - BITS))
    found, counts = np.unique(np.concatenate(hashes), return_counts=True)
    values = 1.0 + np.log(counts)
    return found.astype(np.int64), (values / np.sqrt(np.square(values).sum())).astype(np.float32)
