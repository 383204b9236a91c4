"""What a journal teaches: entries with feedback as rows to train on, and what another policy would have been worth."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.classifier import Classifier
from classifiers.datasets import Row
from classifiers.offpolicy import Importance, doubly_robust
from classifiers.targets import normal
from policies.decide import decide
from policies.document import Loaded
from policies.schema import Policy
from policies.values import Entry
from router.ledger.feedback import FeedbackError
from router.ledger.judgements import judged

OTHER_TIER = "were answered by another tier than was drawn, with odds that nobody knows"
NO_CONTENT = "have no content: the policy must say logging: {content: true} for training to read what was asked"
NO_ANSWER = "ended without an answer"


@dataclass(frozen=True, slots=True)
class Log:
    """Journals, feedback from elsewhere, and what backends' models are called in training where not by their name."""

    journals: Sequence[Path]
    feedback: Sequence[Path] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """A row for each entry that feedback counts for, scored for the model that answered.

        Reads the journals twice, for the weights and for the rows, and holds neither in memory.
        Raises `FeedbackError` for what cannot be read, and when no entry is of use.
        """
        weights, _ = self._weights()
        for entry, score, model in self._usable(Counter()):
            yield Row(
                id=entry.id,
                features=entry.features,
                scores={model: score},
                weight=weights.weight(model, entry.decision.propensity),
            )

    def judged(self) -> Iterator[tuple[Entry, float]]:
        """The entries that `rows` makes rows of, with their scores. Raises `FeedbackError` like it."""
        self._weights()
        for entry, score, _ in self._usable(Counter()):
            yield entry, score

    def about(self) -> dict[str, Any]:
        """What a manifest says of the log: how many entries, which ones, how many by chance, what was left out."""
        weights, left_out = self._weights()
        digest = hashlib.sha256()
        for entry, score, model in self._usable(Counter()):
            digest.update(f"{entry.id} {model} {score} {entry.decision.propensity}\n".encode())
        return {
            "entries": weights.rows,
            "sha256": digest.hexdigest(),
            "drawn_for_certain": weights.certain,
            "clipped": weights.clipped,
            "left_out": dict(sorted(left_out.items())),
        }

    def _weights(self) -> tuple[Importance, Counter[str]]:
        left_out: Counter[str] = Counter()
        found = Importance((model, entry.decision.propensity) for entry, _, model in self._usable(left_out))
        if not found.rows:
            why = "; ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none has feedback"
            raise FeedbackError(f"{', '.join(map(str, self.journals))}: no entry to learn from: {why}")
        return found, left_out

    def _usable(self, left_out: Counter[str]) -> Iterator[tuple[Entry, float, str]]:
        for entry, score in judged(self.journals, self.feedback):
            if not entry.served_model:
                left_out[NO_ANSWER] += 1
            elif entry.tier != entry.decision.tier:
                left_out[OTHER_TIER] += 1
            elif not entry.features.text.strip():
                left_out[NO_CONTENT] += 1
            else:
                yield entry, score, self.names.get(entry.backend) or normal(entry.served_model)


def valued(log: Log, loaded: Loaded, classifier: Classifier) -> dict[str, Any]:
    """What a policy would have been worth on the log: mean score with a 95% interval, beside what was scored.

    Each entry is decided again, by this policy and classifier, without exploration, in the world as it was then. The
    share of entries whose choice the log had no odds of is told: there the predictions alone speak.
    Raises `FeedbackError` where no entry is of use, or one was answered by a tier that the policy does not have.
    """
    columns: list[tuple[float, float, float, float, float]] = []
    strange = 0
    for entry, score in log.judged():
        signals = classifier.second_look(entry.features)
        tier = decide(loaded, entry.features, signals, replace(entry.view, draw=1.0)).tier
        if entry.tier not in signals.success or tier not in signals.success:
            known = ", ".join(loaded.policy.tiers)
            raise FeedbackError(
                f"entry {entry.id}: answered by {entry.tier!r}, sent to {tier!r}; the tiers are {known}"
            )
        taken, chosen = (signals.success[name].probability for name in (entry.tier, tier))
        columns.append((score, entry.decision.propensity, float(tier == entry.tier), taken, chosen))
        strange += tier != entry.tier and entry.decision.propensity >= 1
    table = np.array(columns, np.float64)
    value, low, high = doubly_robust(*table.T)
    return {
        "entries": len(table),
        "scored": float(table[:, 0].mean()),
        "value": {"value": value, "low": low, "high": high},
        "same_choice": float(table[:, 2].mean()),
        "without_odds": strange / len(table),
    }


def names_in(policy: Policy) -> dict[str, str]:
    """What each backend of a policy is to be called in training, so that its tiers find what was learnt of them."""
    return {
        backend.name: normal(backend.trained_as or tier.trained_as or tier.backends[0].model)
        for tier in policy.tiers.values()
        for backend in tier.backends
    }
