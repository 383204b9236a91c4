"""What the policy's baseline tier would have done with a request that something else may have answered.

Four things differ from what was done. The text is counted by another tokenizer, and another model writes more or less:
both are ratios, learned from what the books of all proxies say that backends and tiers used. A conversation that had
been the baseline's from its beginning would have its prefix in the cache there. And it would have been asked once:
retries, escalations, hedges and the proxy's own time are in what was spent, never in the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from policies.frozen import maker
from policies.schema import Backend, Policy
from policies.values import Counterfactual, Features, Signals, Usage, View
from router.ledger.lengths import TAKEN, WRITTEN, stratum
from router.ledger.ratios import Ratios
from router.ledger.sums import SEEN_FIELD, unpack_vector
from router.usage import CHARACTERS_PER_TOKEN

_usage = maker(Usage)

_PRIOR_TOKENS = 2_000.0
_PRIOR_ANSWERS = 20.0

SMALLEST_PREFIX = 1_024
"""Tokens below which hosted models keep no prefix (OpenAI, "Prompt caching")."""


def baseline_backend(policy: Policy) -> Backend:
    """The backend that the baseline is priced by: the baseline tier's first."""
    return policy.tiers[policy.baseline].backends[0]


def baseline_usage(usage: Usage, counterfactual: Counterfactual) -> Usage:
    """The tokens that the baseline would have used, from those that were used. Audio and images are as many to all."""
    as_many = counterfactual.input_ratio == counterfactual.output_ratio == 1.0
    if as_many and counterfactual.cached_input_tokens == usage.cached_input_tokens:
        return usage
    if usage.plain:
        taken = round(usage.input_tokens * counterfactual.input_ratio)
        return _usage(
            measured=usage.measured,
            service_tier=usage.service_tier,
            input_tokens=taken,
            cached_input_tokens=min(taken, counterfactual.cached_input_tokens),
            output_tokens=round(usage.output_tokens * counterfactual.output_ratio),
        )
    heard = min(usage.audio_input_tokens + usage.image_input_tokens, usage.input_tokens)
    taken = heard + round((usage.input_tokens - heard) * counterfactual.input_ratio)
    spoken = min(usage.audio_output_tokens + usage.image_output_tokens, usage.output_tokens)
    cached = min(taken, counterfactual.cached_input_tokens)
    written = min(round(usage.cache_write_tokens * counterfactual.input_ratio), taken - cached)
    return Usage(
        measured=usage.measured,
        audio_input_tokens=usage.audio_input_tokens,
        audio_output_tokens=usage.audio_output_tokens,
        service_tier=usage.service_tier,
        image_input_tokens=usage.image_input_tokens,
        image_output_tokens=usage.image_output_tokens,
        input_tokens=taken,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(round(usage.cache_write_1h_tokens * counterfactual.input_ratio), written),
        output_tokens=spoken + round((usage.output_tokens - spoken) * counterfactual.output_ratio),
        reasoning_tokens=round(usage.reasoning_tokens * counterfactual.output_ratio),
    )


def lost_prefix(features: Features, view: View, served: str, baseline: str) -> int:
    """Tokens, as we estimate them, of a conversation's prefix that is warm nowhere because it moved between backends.

    All but the last message, where the answer or the one before it was not the baseline's. How long ago that was is
    not asked: this errs in the baseline's favour.
    """
    if features.turns < 2 or (served == baseline and (view.session is None or view.session.backend == baseline)):
        return 0
    prefix = features.input_tokens - features.last_characters // CHARACTERS_PER_TOKEN
    return prefix if prefix >= SMALLEST_PREFIX else 0


class Baseline:
    """How models count and how much they write, as far as the books tell; it outlives a policy."""

    def __init__(self) -> None:
        self.learned = False
        self._taken, self._written = Ratios(_PRIOR_TOKENS, {}), Ratios(_PRIOR_ANSWERS, {})
        self._alike: dict[tuple[str, str, str, str, str], Counterfactual] = {}

    def learn(self, sums: Iterable[tuple[int, str, bytes]]) -> None:
        """Forget what was known and learn from packed sums under `SEEN_FIELD`; others are passed over."""
        seen: dict[str, dict[str, dict[tuple[str, str], tuple[float, float]]]] = {TAKEN: {}, WRITTEN: {}}
        for _, name, packed in sums:
            if name.startswith(SEEN_FIELD):
                _, measure, subject, domain, kind = name.split("\x1f")
                strata = seen.setdefault(measure, {}).setdefault(subject, {})
                used, given = strata.get((domain, kind), (0.0, 0.0))
                more, out_of = unpack_vector(packed)
                strata[domain, kind] = used + more, given + out_of
        self.learned = True
        self._taken = Ratios(_PRIOR_TOKENS, seen[TAKEN])
        self._written = Ratios(_PRIOR_ANSWERS, seen[WRITTEN])
        self._alike = {}

    def counterfactual(
        self, policy: Policy, features: Features, signals: Signals | None, view: View, served: tuple[str, str],
        usage: Usage,
    ) -> Counterfactual:  # fmt: skip
        """What the baseline would have done with a request that used this much at ``served``, a tier and a backend."""
        (tier, backend), baseline = served, baseline_backend(policy).name
        domain, _ = stratum(features, signals)
        alike = self._alike.get((baseline, policy.baseline, tier, backend, domain))
        if alike is None:
            alike = self._usual(baseline, policy.baseline, tier, backend, domain)
        limit, written = features.max_output_tokens, alike.output_ratio
        if written > 1.0 and limit is not None and usage.output_tokens:
            written = min(written, max(1.0, limit * features.choices / usage.output_tokens))
        cached = usage.cached_input_tokens
        if lost := lost_prefix(features, view, backend, baseline):
            cached = max(cached, round(lost / features.input_tokens * usage.input_tokens))
        if not cached and written == alike.output_ratio:
            return alike
        return replace(alike, output_ratio=written, cached_input_tokens=round(cached * alike.input_ratio))

    def _usual(self, baseline: str, baseline_tier: str, tier: str, backend: str, domain: str) -> Counterfactual:
        """What many requests have in common: nothing is in the cache, and no limit cuts the answer short."""
        taken = self._taken.ratio(baseline, backend, domain)
        written = self._written.ratio(baseline_tier, tier, domain)
        usual = Counterfactual(baseline, taken or 1.0, written or 1.0, assumed=taken is None or written is None)
        self._alike[baseline, baseline_tier, tier, backend, domain] = usual
        return usual
