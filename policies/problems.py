"""What is wrong with a policy document, said so that it can be put right: where, what, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning. ``line`` and ``column`` count from 1; ``key`` is the setting's path, as ``a.b[0].c``."""

    file: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        what = f"{self.key}: {self.message}" if self.key else self.message
        return f"{where}: {self.severity}: {what}{f' ({self.hint})' if self.hint else ''}"


class PolicyErrors(Exception):
    """A policy document cannot be used. ``problems`` has every error found, in the order of the document."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word most like ``word``, as a hint, or nothing where none is like it."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[found[0]]}?" if found else ""


def listing(names: Iterable[str]) -> str:
    """Write names for an error message, in their order, without flooding it."""
    found = list(names)
    return ", ".join(found[:24]) + (f" and {len(found) - 24} more" if len(found) > 24 else "") if found else "none"


def hint(word: str, known: Sequence[str]) -> str:
    """Say what was expected in place of ``word``, and which of it is nearest."""
    return "; ".join(part for part in (f"expected one of: {listing(known)}", nearest(word, known)) if part)
