"""What entries say of how models count and how much they write: the evidence for what a baseline would have used.

It is added up like everything else in the books, by UTC day, so that every proxy, and one that starts again, learns the
same from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from policies.values import Entry, Features, Signals

TAKEN, WRITTEN = "taken", "written"
"""Measures: tokens that a backend counts by tokens that we estimate; tokens of a tier's answers by answers."""

LEARNED_FROM = 30
"""Days back that are learned from, today included: so a change of model is followed."""


def seen_in(entries: Sequence[Entry]) -> Iterator[tuple[tuple[str, str, str, str], int, int]]:
    """What whole answers with measured usage show: (measure, subject, domain, kind), tokens used, and out of what.

    All are of one tier, backend and stratum. One that its limit cut short, or of several choices, says nothing of its
    length; one with images or audio nothing of how text is counted.
    """
    first = entries[0]
    if not first.backend:
        return
    domain, kind = stratum(first.features, first.signals)
    used = given = written = answers = 0
    for entry in entries:
        usage, features = entry.usage, entry.features
        if entry.outcome == "ok" and usage.measured and (answer := usage.output_tokens):
            if (estimated := features.input_tokens) and not (features.has_images or usage.audio_input_tokens):
                used += usage.input_tokens
                given += estimated
            if features.choices == 1 and ((limit := features.max_output_tokens) is None or answer < limit):
                written += answer
                answers += 1
    if given:
        yield (TAKEN, _word(first.backend), domain, ""), used, given
    if answers:
        yield (WRITTEN, _word(first.tier), domain, kind), written, answers


def stratum(features: Features, signals: Signals | None) -> tuple[str, str]:
    """A request's domain, and within it the kind of request whose answers are about as long."""
    if signals is None:
        return "", " tools" if features.has_tools else ""
    band = signals.band or ""
    return _word(signals.domain if signals.knows_domain else ""), f"{band} tools" if features.has_tools else band


@lru_cache(1024)
def _word(text: str) -> str:
    """As it stands in the name of a sum."""
    return text.replace("\x1f", " ").encode(errors="replace").decode()
