"""What entries say of how models count and how much they write: the evidence for what a baseline would have used.

It is added up like everything else in the books, by UTC day, so that every proxy, and one that starts again, learns the
same from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from policies.values import Entry, Features, Signals

TAKEN, WRITTEN = "taken", "written"
"""Measures: tokens that a backend counts by tokens that we estimate; tokens of a tier's answers by answers."""

LEARNED_FROM = 30
"""Days back that are learned from, today included: so a change of model is followed."""


def seen_in(entry: Entry) -> Iterator[tuple[tuple[str, str, str, str], int, int]]:
    """What a whole answer with measured usage shows: (measure, subject, domain, kind), tokens used, and out of what.

    One that its limit cut short, or of several choices, says nothing of its length; one with images or audio nothing of
    how text is counted.
    """
    usage, features = entry.usage, entry.features
    if entry.outcome != "ok" or not entry.backend or not usage.measured or not usage.output_tokens:
        return
    domain, kind = stratum(features, entry.signals)
    if features.input_tokens and not (features.has_images or usage.audio_input_tokens):
        yield (TAKEN, _word(entry.backend), domain, ""), usage.input_tokens, features.input_tokens
    limit = features.max_output_tokens
    if features.choices == 1 and (limit is None or usage.output_tokens < limit):
        yield (WRITTEN, _word(entry.tier), domain, kind), usage.output_tokens, 1


def stratum(features: Features, signals: Signals | None) -> tuple[str, str]:
    """A request's domain, and within it the kind of request whose answers are about as long."""
    domain = signals.domain if signals is not None and signals.knows_domain else ""
    band = (signals.band if signals is not None else None) or ""
    return _word(domain), f"{band} tools" if features.has_tools else band


@lru_cache(1024)
def _word(text: str) -> str:
    """As it stands in the name of a sum."""
    return text.replace("\x1f", " ").encode(errors="replace").decode()
