"""Memory that malloc keeps after much of it was let go."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def return_memory() -> None:
    """Return to the system what was needed for a moment only; only glibc keeps it, and knows how."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
