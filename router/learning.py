"""What a journal teaches: its entries with feedback as rows to train on, weighted by the odds of their choices."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classifiers.datasets import Row
from classifiers.offpolicy import Importance
from classifiers.targets import normal
from policies.schema import Policy
from policies.values import Entry
from router.ledger.feedback import FeedbackError, judged

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


def names_in(policy: Policy) -> dict[str, str]:
    """What each backend of a policy is to be called in training, so that its tiers find what was learnt of them."""
    return {
        backend.name: normal(backend.trained_as or tier.trained_as or tier.backends[0].model)
        for tier in policy.tiers.values()
        for backend in tier.backends
    }
