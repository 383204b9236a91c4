"""Reading signals while serving: the first look at once, the second in a thread and only where it could matter.

A classifier that is missing, late or broken never fails a request: its signals say what is missing, and the policy
leans to the baseline (invariant 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from classifiers.artifact import default_artifact
from classifiers.classifier import Classifier
from classifiers.encoder import Encoder
from classifiers.static import StaticEncoder
from classifiers.targets import Target
from policies.decide import could_flip
from policies.document import Loaded
from policies.schema import Policy
from policies.values import Features, Signals, View
from policies.variants import name_of
from router.second_look import Busy, SecondLooks

log = logging.getLogger(__name__)


def load_classifier(policy: Policy, static: StaticEncoder | None, full: Encoder | None) -> Classifier:
    """The policy's classifier on the encoders at hand. Raises `ArtifactError` where artifact or encoders do not fit."""
    settings = policy.classifier
    artifact = default_artifact() if settings.artifact == "default" else Path(settings.artifact)
    targets = list(targets_of(policy))
    return Classifier.load(
        artifact, targets, static=static, full=full, domains=settings.domains, baseline=policy.baseline
    )


def targets_of(policy: Policy) -> Iterator[Target]:
    """What success is predicted of: every tier, and every backend that states what it is among others of its tier."""
    for name, tier in policy.tiers.items():
        model = tier.trained_as or tier.backends[0].model
        yield Target(name, model, tier.quality, tier.size_b)
        for backend in tier.backends if tier.told_apart else ():
            own = name_of(name, backend.name)
            if backend.trained_as:
                yield Target(own, backend.trained_as, backend.quality, tier.size_b)
            elif backend.quality:
                yield Target(own, model if tier.quality else None, backend.quality, tier.size_b, beside=tier.quality)


class SignalReader:
    """Reads the signals of one request. One encoder thread beside the event loop serves the second looks."""

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Start without a classifier; `use` brings one. ``tell`` hears of every request what came of its looks.

        ``sure``: the first look decides alone; ``second``; ``late``: the second
        was not there in time; ``busy``: it was not even begun; ``failed``; ``none``: there is no classifier.
        """
        self._classifier: Classifier | None = None
        self.problem = "the classifier is not loaded yet"
        self._tell = tell
        self._second = SecondLooks()

    @property
    def looks(self) -> str:
        """The best look on offer: ``full``, ``static``, ``lexical``, or ``none``."""
        return self._classifier.looks if self._classifier else "none"

    def use(self, classifier: Classifier) -> None:
        """Serve from this classifier from now on."""
        self._classifier, self.problem = classifier, ""

    def without(self, problem: str) -> None:
        """Serve without a classifier, and say why."""
        self._classifier, self.problem = None, problem

    async def read(self, loaded: Loaded, features: Features, view: View) -> tuple[Signals, float]:
        """The signals and the milliseconds they took."""
        started = perf_counter()
        signals = await self._read(loaded, features, view)
        return signals, (perf_counter() - started) * 1e3

    async def _read(self, loaded: Loaded, features: Features, view: View) -> Signals:
        classifier = self._classifier
        if classifier is None:
            self._tell("none")
            return Signals(missing=(self.problem,))
        try:
            first = classifier.first_look(features)
        except Exception:
            log.exception("the classifier failed; the policy leans to its baseline")
            self._tell("failed")
            return Signals(missing=("the classifier failed",))
        patience = loaded.policy.classifier.deadline.total_seconds()
        if classifier.looks != "full" or patience <= 0 or not could_flip(loaded, features, first, view):
            self._tell("sure")
            return first
        try:
            second = await self._second.look(classifier.second_look, features, patience)
        except Busy:
            outcome, why = "busy", "the encoder was too busy for a second look"
        except TimeoutError:
            outcome, why = "late", "the second look was late"
        except Exception:
            log.exception("the second look failed; the first stands")
            outcome, why = "failed", "the second look failed"
        else:
            self._tell("second")
            return second
        self._tell(outcome)
        return replace(first, missing=(*first.missing, why))

    def close(self) -> None:
        """Stop the encoder's thread; what waits for it is dropped."""
        self._second.close()
