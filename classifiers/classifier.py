"""The serving object: features in, signals out. Pure numpy over an artifact's heads; the encoders are given to it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import hypot, isfinite, tanh
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from classifiers.artifact import Artifact, ArtifactError
from classifiers.artifact import load as load_artifact
from classifiers.custom import CustomDomains
from classifiers.defence import cores
from classifiers.features import looks_like_code, reading
from classifiers.heads import Array
from classifiers.language import detect
from classifiers.lexical import lexical
from classifiers.ngrams import ngrams
from classifiers.scorer import Prediction, Scorer
from classifiers.targets import SMALL, Mapped, Source, enough_beside, map_targets
from classifiers.targets import Target as Target
from policies.frozen import maker, replacer
from policies.values import DOMAINS, Features, Look, Signals, Success

if TYPE_CHECKING:
    from classifiers.encoder import Encoder
    from classifiers.static import StaticEncoder

CACHED = 4096
"""Looks whose signals are remembered: of each text one, or two where it would go up."""

AT_STAKE = 0.02
"""Difference in success between tiers up to which a prompt is not looked at again."""

READ_AGAIN = 2
"""Cores of a prompt that the full look reads: those that demand least at the first look."""

_NO_DOMAINS: Mapping[str, Sequence[str]] = {}
_success, _signals = maker(Success), maker(Signals)
_said = replacer(Features, "text", "last_text", "language", "has_code")


class Classifier:
    """Signals for a policy's targets, at two looks: static vectors at once, the full encoder where it matters.

    Thread-safe. A prompt's signals never depend on its batch-mates or on what was asked before.
    """

    def __init__(
        self,
        artifact: Artifact,
        targets: Sequence[Target],
        *,
        full: Encoder | None = None,
        static: StaticEncoder | None = None,
        domains: Mapping[str, Sequence[str]] = _NO_DOMAINS,
        baseline: str = "",
    ) -> None:
        """Serve ``targets`` from ``artifact``; see `load`."""
        self.artifact = artifact
        self._encoders: dict[Look, Encoder | StaticEncoder] = {}
        for look, encoder in (("static", static), ("full", full)):
            if encoder is not None:
                _check_space(artifact, look, encoder.name)
                self._encoders[look] = encoder  # type: ignore[index]
        mapped = map_targets(targets, artifact.models, artifact.about)
        counts = np.any(mapped.weights != 0.0, axis=0) | (np.array(artifact.models) == SMALL)
        self._models = np.flatnonzero(counts).tolist()
        self._small = self._models.index(artifact.models.index(SMALL)) if SMALL in artifact.models else None
        self._asked = {
            look: _asked(mapped, self._models, enough_beside(mapped, heads.enough, baseline))
            for look, heads in artifact.heads.items()
        }
        self._custom = {look: CustomDomains(domains, e) for look, e in self._encoders.items()} if domains else {}
        self._scorers: dict[Look, Scorer] = {}
        self._cache: OrderedDict[int, Signals] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        artifact: Path | str,
        targets: Sequence[Target],
        *,
        full: Encoder | None,
        static: StaticEncoder | None,
        domains: Mapping[str, Sequence[str]] = _NO_DOMAINS,
        baseline: str = "",
    ) -> Classifier:
        """Read and verify the artifact's folder, and check that the encoders are of the spaces it was trained on.

        ``domains`` adds domains of the user's own, each from a handful of example prompts. ``baseline`` names the
        target beside which the others get their `Success.enough`. With neither encoder the classifier still serves, on
        lexical features, and its signals say so. Raises `ArtifactError`.
        """
        return cls(load_artifact(Path(artifact)), targets, full=full, static=static, domains=domains, baseline=baseline)

    @property
    def looks(self) -> Look:
        """The best look on offer."""
        return "full" if "full" in self._encoders else "static" if "static" in self._encoders else "lexical"

    @property
    def _first(self) -> Look:
        return "static" if "static" in self._encoders else "lexical"

    def first_look(self, features: Features) -> Signals:
        """Signals from static vectors (lexical features where there are none): cheap enough for an event loop.

        The request is read as it stands, gadgets and all: `guarded` sets them aside, where it matters.
        """
        return self._kept("first", features, lambda: self.read([features], look=self._first)[0])

    def guarded(self, features: Features, first: Signals) -> Signals:
        """The first look with gadgets set aside, as `classify` does: for a request that would go up by it."""
        return self._kept("guarded", features, lambda: self._defended(features, first))

    def second_look(self, features: Features) -> Signals:
        """Signals from the best look there is. Milliseconds of computing: call it off the event loop."""
        return self._kept("second", features, lambda: self.classify([features], look=self.looks)[0])

    def classify(self, batch: Sequence[Features], *, look: Look | None = None) -> list[Signals]:
        """Signals of each request at ``look``, by default the best there is, with gadgets set aside.

        Where tiers' success would differ, or a request is unlike anything trained on, the look is taken again of what
        is left of the newest turn without a first or a last part that could be a gadget (`defence.cores`), and the
        success and complexity of what demands least count; the domain is the whole's. Raises `ValueError` when that
        look's encoder was not given.
        """
        whole = self.read(batch, look=look)
        return [self._defended(features, signals) for features, signals in zip(batch, whole, strict=True)]

    def _defended(self, features: Features, whole: Signals) -> Signals:
        parts = cores(features.last_text) if whole.ood or stake(whole) > AT_STAKE else ()
        if not parts:
            return whole
        rests = [_with_last_text(features, core) for core in parts]
        if whole.look == "full" and len(rests) > READ_AGAIN:
            stakes = [stake(signals) for signals in self.read(rests, look=self._first)]
            rests = [rests[at] for at in np.argsort(stakes, kind="stable")[:READ_AGAIN]]
        found = self.read(rests, look=whole.look)
        stakes = [stake(signals) for signals in found]
        least = stakes.index(min(stakes))
        foreign = whole.ood and not found[least].ood
        if not foreign and stakes[least] >= stake(whole):
            return whole
        core, aside = found[least], len(features.last_text) - len(rests[least].last_text)
        return replace(whole, complexity=core.complexity, success=core.success, ood=core.ood, aside=aside)

    def read(self, batch: Sequence[Features], *, look: Look | None = None) -> list[Signals]:
        """Signals of each request as it stands, gadgets and all; otherwise as `classify`."""
        chosen: Look = look or self.looks
        if chosen != "lexical" and chosen not in self._encoders:
            raise ValueError(f"the {chosen} look needs its encoder, which was not given")
        if not batch:
            return []
        texts = [reading(features) for features in batch]
        vectors = self._vectors(texts, chosen)
        # By number, since whoever goes through an array learns by an error that it ends.
        return [self._signals(chosen, features, texts[row], vectors[row]) for row, features in enumerate(batch)]

    def _kept(self, asked: str, features: Features, look: Callable[[], Signals]) -> Signals:
        """What was found when the same was asked of the same text, or else what ``look`` finds."""
        # Not the text, which may be long: of so many, another one has the same hash once in 4 * 10 ** 15 times.
        key = hash((asked, features.language, len(features.last_text), reading(features)))
        signals = self._cache.get(key) or look()
        with self._lock:
            self._cache[key] = signals
            self._cache.move_to_end(key)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return signals

    def _vectors(self, texts: Sequence[str], look: Look) -> Array:
        if look == "lexical":
            return np.zeros((len(texts), 0), np.float32)
        return np.asarray(self._encoders[look].encode(texts), np.float32)

    def _signals(self, look: Look, features: Features, text: str, vector: Array) -> Signals:
        if not text.strip():
            return Signals(look=look, artifact=self.artifact.id, missing=("no user text to read",))
        scorer = self._scorer(look)
        prediction = scorer.score(vector, lexical(features), ngrams(text) if scorer.reads_grams else None)
        if (trust := _trust(features)) < 1.0:
            prediction = _temper(prediction, trust)
        domains = prediction.domains
        if not isfinite(domains[0]):
            raise ValueError(f"the {look} encoder {self._encoders[look].name} gave NaN or infinity")
        probabilities, domain = dict(zip(DOMAINS, domains, strict=True)), DOMAINS[domains.index(max(domains))]
        if look in self._custom:
            mine = self._custom[look].probabilities(vector)
            rest = 1.0 - max(mine.values())
            total = sum(mine.values())
            probabilities = {k: p * rest for k, p in probabilities.items()}
            probabilities |= {k: p / total * (1.0 - rest) if total else 0.0 for k, p in mine.items()}
            domain = max(probabilities, key=probabilities.__getitem__)
        return _signals(
            domain,
            probabilities,
            None if self._small is None else _probability(-prediction.logits[self._small]),
            {asked.tier: asked.success(prediction) for asked in self._asked[look]},
            prediction.far,
            look,
            self.artifact.id,
            ("no encoder: lexical features only",) if look == "lexical" else (),
        )

    def _scorer(self, look: Look) -> Scorer:
        if look not in self._scorers:
            self._scorers[look] = Scorer(self.artifact.heads, look, self._models)
        return self._scorers[look]


class _Asked(NamedTuple):
    """A target in terms of the models that are asked about: the share of each, by its place among them."""

    tier: str
    shares: tuple[tuple[int, float], ...]
    offset: float
    doubt: float
    source: Source
    enough: tuple[float, ...]

    def success(self, prediction: Prediction) -> Success:
        """The success predicted of it; errors within a mixture of models are taken as one error."""
        logit, shared, own = self.offset, 0.0, 0.0
        for model, share in self.shares:
            logit += share * prediction.logits[model]
            shared += share * prediction.shared[model]
            own += abs(share) * prediction.errors[model]
        total = hypot(shared, own, self.doubt)
        high, low = tanh(0.5 * (logit + total)), tanh(0.5 * (logit - total))
        error = 0.25 * (high - low)  # as `heads.probability_error` has it
        return _success(_probability(logit), error, self.source, error * shared / total, self.enough)


def _asked(mapped: Mapped, models: Sequence[int], enough: Sequence[tuple[float, ...]]) -> list[_Asked]:
    shares = [
        tuple((place, share) for place, share in enumerate(row) if share) for row in mapped.weights[:, models].tolist()
    ]
    rows = zip(
        mapped.tiers, shares, mapped.offsets.tolist(), mapped.doubt.tolist(), mapped.sources, enough, strict=True
    )
    return [_Asked(*row) for row in rows]


def _probability(logit: float) -> float:
    return 0.5 + 0.5 * tanh(0.5 * logit)


def stake(signals: Signals) -> float:
    """How much the choice of tier matters: the span of the tiers' success, or with one tier what it lacks."""
    found = [success.probability for success in signals.success.values()]
    return max(found) - min(found) if len(found) > 1 else 1.0 - found[0] if found else 0.0


def _with_last_text(features: Features, last: str) -> Features:
    """The features of the same request with another newest turn."""
    text = features.text.removesuffix(features.last_text) + last
    language = detect(last if len(last) > 20 else text)
    return _said(features, text, last, language, looks_like_code(text))


_ENGLISH = frozenset({"en", "und"})
_OTHER_SCRIPTS = frozenset("zh ja ko ru uk ar fa ur he el hi bn pa gu ta te kn ml th ka hy am".split())  # noqa: SIM905


def _trust(features: Features) -> float:
    """How far the encoder, trained on English, is to be believed: 1 for English, less for others by script."""
    if features.language in _ENGLISH:
        return 1.0
    return 0.4 if features.language in _OTHER_SCRIPTS else 0.7


def _temper(prediction: Prediction, trust: float) -> Prediction:
    """Draw logits to even odds, and widen what is shared of their errors, where the encoder is not to be believed."""
    logits = [logit * trust for logit in prediction.logits]
    return replace(prediction, logits=logits, shared=[hypot(one, 1.5 * (1.0 - trust)) for one in prediction.shared])


def _check_space(artifact: Artifact, look: str, name: str) -> None:
    expected = artifact.encoders.get(look)
    if expected is None:
        raise ArtifactError(f"artifact {artifact.id} has no {look} head; it cannot use the encoder {name}")
    if expected != name:
        raise ArtifactError(
            f"artifact {artifact.id} reads {look} vectors of {expected}, not of {name}: "
            f"use that encoder, or train an artifact with this one (tierwise train)"
        )
