"""Where a conversation stays: fast up, slow down.

Changing model in the middle of a conversation costs consistency and a warm prefix cache, so a session goes up at once,
but down only after several turns that a lower tier would have done for. A short follow-up such as "commit it" says
nothing about the work it asks for, so it never moves a session down and is not counted as easy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.document import Loaded
from policies.frozen import maker
from policies.schema import SessionSettings
from policies.values import Decision, Features, Session, Signals, Step, View

_session = maker(Session)

SHORT = 48
"""Characters up to which a later message in a conversation counts as a follow-up that says little by itself."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The tier to use, the sentence for it, and what the request wanted by itself (empty where it says too little)."""

    tier: str
    why: str
    wanted: str


def hold(
    settings: SessionSettings, session: Session, wanted: str, features: Features, eligible: Sequence[str]
) -> Hold | None:
    """Decide whether the session keeps a request that wants the tier ``wanted``; None where it does not.

    ``eligible`` has the tiers that can serve it, lowest first.
    """
    if session.tier not in eligible or eligible.index(wanted) >= eligible.index(session.tier):
        return None
    if is_follow_up(features):
        return Hold(session.tier, f"the session stays on {session.tier}: a short follow-up says too little", "")
    easier = session.easier_turns + 1
    if easier >= settings.down_after:
        return None
    why = f"the session stays on {session.tier}: {easier} of {settings.down_after} turns that {wanted} would do for"
    return Hold(session.tier, why, wanted)


def is_follow_up(features: Features) -> bool:
    """Say whether the last message is a short one in a conversation that has begun."""
    return features.turns > 1 and features.last_characters <= SHORT


def next_session(loaded: Loaded, decision: Decision, signals: Signals | None, view: View, served: Step) -> Session:
    """Give what to remember of the conversation after an answer; ``served`` is the step that answered.

    Failures and requests that name a tier never move a session down: it returns to its tier as soon as it can.
    """
    complexity = (signals.complexity if signals else None) or 0.0
    past = view.session
    if past is None:
        return _session(decision.tier, served.backend, complexity)
    backend = served.backend if served.tier == past.tier else past.backend
    if decision.tier == past.tier and not decision.wanted:
        return _session(past.tier, backend, max(complexity, past.complexity), past.easier_turns)
    order = list(loaded.policy.tiers)
    if past.tier not in order or order.index(decision.tier) > order.index(past.tier):
        return _session(decision.tier, served.backend, max(complexity, past.complexity))
    wants_lower = bool(decision.wanted) and order.index(decision.wanted) < order.index(past.tier)
    easier = past.easier_turns + 1 if wants_lower else past.easier_turns if not decision.wanted else 0
    if decision.tier != past.tier and easier >= loaded.policy.session.down_after:
        return _session(decision.tier, served.backend, complexity)
    return _session(past.tier, backend, max(complexity, past.complexity), easier)
