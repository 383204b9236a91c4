"""Reading signals while serving: the first look at once, the second elsewhere and only where it could matter.

A classifier that is missing, late or broken never fails a request: its signals say what is missing, and the policy
leans to the baseline (invariant 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

from classifiers.artifact import default_artifact
from classifiers.classifier import Classifier
from classifiers.encoder import Encoder
from classifiers.static import StaticEncoder
from classifiers.targets import Target
from policies.decide import Weighed, weigh
from policies.document import Loaded
from policies.doubts import could_flip, could_sink
from policies.schema import Policy
from policies.values import Decision, Features, Signals, View
from policies.variants import name_of
from router.looks.client import Away, Busy
from router.looks.messages import Terms

log = logging.getLogger(__name__)


def load_classifier(policy: Policy, static: StaticEncoder | None, full: Encoder | None = None) -> Classifier:
    """The policy's classifier on the encoders at hand. Raises `ArtifactError` where artifact or encoders do not fit."""
    targets, domains = list(targets_of(policy)), policy.classifier.domains
    return Classifier.load(
        _artifact(policy), targets, static=static, full=full, domains=domains, baseline=policy.baseline
    )


def terms(policy: Policy, classifier: Classifier) -> Terms:
    """What second looks are taken under, to agree with a classifier that `load_classifier` made for the policy."""
    folder, targets = str(_artifact(policy).resolve()), tuple(targets_of(policy))
    return Terms(folder, classifier.artifact.id, targets, policy.classifier.domains, policy.baseline)


def _artifact(policy: Policy) -> Path:
    return default_artifact() if policy.classifier.artifact == "default" else Path(policy.classifier.artifact)


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


class Second(Protocol):
    """Who takes second looks: `router.looks.client.Looker`."""

    @property
    def problem(self) -> str:
        """Why there are none; empty while there are."""

    async def look(self, features: Features, patience: float) -> Signals:
        """The second look. Raises `Busy` or `Away`, `TimeoutError` after ``patience`` seconds, and what went wrong."""

    def close(self) -> None:
        """Look no more."""


def first_look(
    classifier: Classifier, loaded: Loaded, features: Features, view: View, *, again: bool
) -> tuple[Signals, Weighed | Decision, bool]:
    """A first look's signals, the request weighed with them, and whether to look ``again`` could change the choice.

    Gadgets are looked for where they could matter: not in a request that the cheapest tier surely gets as it stands.
    """
    signals = classifier.first_look(features)
    weighed = weigh(loaded, features, signals, view)
    doubtful = again and could_flip(weighed)
    if doubtful or could_sink(weighed):
        guarded = classifier.guarded(features, signals)
        if guarded is not signals:
            weighed = weigh(loaded, features, guarded, view)
            return guarded, weighed, again and could_flip(weighed)
    return signals, weighed, doubtful


class SignalReader:
    """Reads the signals of one request."""

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Start without a classifier; `use` brings one. ``tell`` hears of every request what came of its looks.

        ``sure``: the first look decides alone; ``second``; ``late``: the second
        was not there in time; ``busy``: it was not even begun; ``away``: nobody was there to take it; ``failed``;
        ``none``: there is no classifier.
        """
        self._classifier: Classifier | None = None
        self._second: Second | None = None
        self._problem = "the classifier is not loaded yet"
        self._tell = tell

    @property
    def looks(self) -> str:
        """The best look on offer: ``full``, ``static``, ``lexical``, or ``none``."""
        if self._classifier is None:
            return "none"
        return "full" if self._second is not None and not self._second.problem else self._classifier.looks

    @property
    def problem(self) -> str:
        """Why not every look is on offer; empty when all are."""
        return self._problem or (self._second.problem if self._second else "")

    def use(self, classifier: Classifier, second: Second | None = None) -> None:
        """Serve from this classifier from now on, and from ``second`` where its first look is in doubt."""
        self.close()
        self._classifier, self._second, self._problem = classifier, second, ""

    def without(self, problem: str) -> None:
        """Serve without a classifier, and say why."""
        self.close()
        self._classifier, self._second, self._problem = None, None, problem

    async def read(self, loaded: Loaded, features: Features, view: View) -> tuple[Signals, Weighed | Decision, float]:
        """The signals, the request weighed with them, and the milliseconds that took."""
        started = perf_counter()
        signals, weighed, doubtful = self._look(loaded, features, view)
        if doubtful and self._second is not None:
            signals, weighed = await self._look_again(self._second, loaded, features, signals), None
        return signals, weighed or weigh(loaded, features, signals, view), (perf_counter() - started) * 1e3

    def _look(self, loaded: Loaded, features: Features, view: View) -> tuple[Signals, Weighed | Decision | None, bool]:
        """The first look, the request weighed with it where there is a classifier, and whether to look again."""
        if self._classifier is None:
            self._tell("none")
            return Signals(missing=(self.problem,)), None, False
        again = self._second is not None and bool(loaded.policy.classifier.deadline)
        try:
            signals, weighed, doubtful = first_look(self._classifier, loaded, features, view, again=again)
        except Exception:
            log.exception("the classifier failed; the policy leans to its baseline")
            self._tell("failed")
            return Signals(missing=("the classifier failed",)), None, False
        if not doubtful:
            self._tell("sure")
        return signals, weighed, doubtful

    async def _look_again(self, second: Second, loaded: Loaded, features: Features, first: Signals) -> Signals:
        """The second look, or the first where it does not come in time."""
        try:
            signals = await second.look(features, loaded.policy.classifier.deadline.total_seconds())
        except Busy:
            outcome, why = "busy", "the encoder was too busy for a second look"
        except TimeoutError:
            outcome, why = "late", "the second look was late"
        except Away as error:
            outcome, why = "away", f"no second look: {error}"
        except Exception:
            log.exception("the second look failed; the first stands")
            outcome, why = "failed", "the second look failed"
        else:
            self._tell("second")
            return signals
        self._tell(outcome)
        return replace(first, missing=(*first.missing, why))

    def close(self) -> None:
        """Ask for no more second looks."""
        if self._second is not None:
            self._second.close()
