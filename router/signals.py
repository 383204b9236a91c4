"""Reading signals while serving: the first look at once, the second in a thread and only where it could matter.

A classifier that is missing, late or broken never fails a request: its signals say what is missing, and the policy
leans to the baseline (invariant 5).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

log = logging.getLogger(__name__)


def load_classifier(policy: Policy, static: StaticEncoder | None, full: Encoder | None) -> Classifier:
    """The policy's classifier on the encoders at hand. Raises `ArtifactError` where artifact or encoders do not fit."""
    settings = policy.classifier
    artifact = default_artifact() if settings.artifact == "default" else Path(settings.artifact)
    targets = list(targets_of(policy))
    return Classifier.load(artifact, targets, static=static, full=full, domains=settings.domains)


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

    def __init__(self) -> None:
        """Start without a classifier; `use` brings one."""
        self._classifier: Classifier | None = None
        self.problem = "the classifier is not loaded yet"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

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
            return Signals(missing=(self.problem,))
        try:
            first = classifier.first_look(features)
        except Exception:
            log.exception("the classifier failed; the policy leans to its baseline")
            return Signals(missing=("the classifier failed",))
        deadline = loaded.policy.classifier.deadline.total_seconds()
        if classifier.looks != "full" or deadline <= 0 or not could_flip(loaded, features, first, view):
            return first
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._thread, classifier.second_look, features)
        except TimeoutError:
            return replace(first, missing=(*first.missing, "the second look was late"))
        except Exception:
            log.exception("the second look failed; the first stands")
            return replace(first, missing=(*first.missing, "the second look failed"))

    def close(self) -> None:
        """Stop the encoder thread; what waits in it is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
