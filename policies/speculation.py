"""Speculative decoding: what a draft should yield, what it yields, and whether it is worth its cost. Pure.

A draft model proposes k tokens; the target checks them in one pass, keeps those up to the first refusal, and adds one
of its own (Leviathan, Kalman and Matias 2023, arXiv 2211.17192). With acceptance α, the chance that a proposed token is
kept when all before it were:

- tokens of a pass: E = (1 − α^(k+1)) / (1 − α)                                (their equation 1)
- gain in speed:    E / (k·c + v), c the cost of a draft token in target passes (their theorem 3.8, where v = 1)

v is what checking k+1 tokens for each of B sequences costs against one token for each: nothing more while the pass is
bound by memory, the ratio once B·(k+1) tokens are more than the hardware computes in the time in which it reads the
weights (the roofline model: Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785).
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.values import EngineView

DRAFT_COST = 0.05
"""What one draft token costs in passes of the target, where nobody says: a draft of about a twentieth the size."""

LONGEST = 1_000
"""Tokens that no draft proposes at once."""

SATURATION = 295
"""Tokens in one pass from which on it is bound by arithmetic: an H100's 989 TFLOP/s by 3.35 TB/s, 2-byte weights."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """One backend's speculative decoding: measured, expected, and judged.

    ``acceptance`` is α. ``tokens_per_pass`` is measured, ``theory`` is E for α and ``draft_length``. ``speedup`` is
    what the measured tokens are worth at the engine's batch; ``warning`` says, if anything, what to change.
    """

    acceptance: float | None
    draft_length: float | None
    tokens_per_pass: float
    theory: float | None
    speedup: float
    warning: str


def tokens_per_pass(acceptance: float, draft_length: float) -> float:
    """E: expected tokens of one pass of the target, in 1..k+1, for α in 0..1."""
    if acceptance >= 1:
        return draft_length + 1
    return float((1 - acceptance ** (draft_length + 1)) / (1 - acceptance))


def acceptance_of(share: float, draft_length: float) -> float:
    """α from the share of proposed tokens that were kept, (E − 1)/k: what follows a refusal was proposed in vain.

    By bisection, since E grows with α.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if (tokens_per_pass(middle, draft_length) - 1) / draft_length < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def speedup(
    yielded: float, draft_length: float, batch: float, draft_cost: float = DRAFT_COST, saturation: float = SATURATION
) -> float:
    """How much faster than without a draft, for ``yielded`` tokens of a pass and ``batch`` sequences at once."""
    batch = max(1.0, batch)
    checking = max(1.0, batch * (draft_length + 1) / saturation) / max(1.0, batch / saturation)
    return yielded / (draft_length * draft_cost + checking)


def watch(engine: EngineView, draft_cost: float = DRAFT_COST) -> Speculation | None:
    """Judge an engine's speculation by what it says of it; None where it says too little or does not speculate."""
    share, first = _within(engine.draft_acceptance, 1), _within(engine.first_acceptance, 1)
    length, yielded = _within(engine.draft_length, LONGEST), _within(engine.tokens_per_pass, LONGEST + 1)
    batch = _within(engine.running, 1e6) or 1.0
    if length is None and share and yielded is not None:
        length = _within((yielded - 1) / share, LONGEST)
    if yielded is None or not length:
        return None
    acceptance = first if first is not None else acceptance_of(share, length) if share is not None else None
    gain = speedup(yielded, length, batch, draft_cost)
    return Speculation(
        acceptance=acceptance,
        draft_length=length,
        tokens_per_pass=yielded,
        theory=None if acceptance is None else tokens_per_pass(acceptance, length),
        speedup=gain,
        warning="" if gain >= 1 else _warning(yielded, length, batch, draft_cost),
    )


def _within(value: float | None, most: float) -> float | None:
    """The value, or None where no engine that is well would say it."""
    return value if value is not None and 0 <= value <= most else None


def _warning(yielded: float, length: float, batch: float, draft_cost: float) -> str:
    """Say which of the two makes the draft cost more than it saves: its acceptance, or the batch."""
    if speedup(yielded, length, 1.0, draft_cost) < 1:
        return (
            f"the draft costs more than it saves: {yielded:.2f} tokens a pass for {length:.1f} proposed; "
            "use a closer or smaller draft, or none"
        )
    return (
        f"the draft costs more than it saves with {batch:.0f} requests at once: the engine is bound by arithmetic; "
        "propose fewer tokens, or none above this load"
    )
