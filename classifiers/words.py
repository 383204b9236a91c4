"""The words of a text, sooner than a pattern finds them where it is ASCII."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
_APART: Final = bytes(byte if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in any script."""
    return text.encode().translate(_APART).decode().split() if text.isascii() else _WORD.findall(text)
