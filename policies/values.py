"""The frozen values that travel through a request's seven stops.

Every part of Tierwise speaks in these: ``classifiers`` turns a request into `Features` and `Signals`, ``policies``
turns those and a `View` of the world into a `Decision`, ``router`` carries it out as `Attempt`s and writes one `Entry`.
Nothing here is ever changed after it is made; use `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from policies.frozen import quick

Band: TypeAlias = Literal["simple", "moderate", "complex"]
Look: TypeAlias = Literal["lexical", "static", "full"]
Phase: TypeAlias = Literal["connect", "headers", "first_token", "stream", "done"]
Outcome: TypeAlias = Literal["ok", "error", "timeout", "cancelled", "rejected"]

DOMAINS = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law",
    "math", "philosophy", "physics", "psychology", "other", "code", "writing", "chat",
)  # fmt: skip
"""The domains every artifact knows: MMLU-Pro's fourteen categories (arXiv 2406.01574), plus code, writing and chat."""

CAPABILITIES = ("tools", "json_mode", "json_schema", "vision", "audio", "logprobs")
"""What a request may require of a backend and a backend may say that it supports."""


@quick
@dataclass(frozen=True, slots=True)
class Features:
    """Facts read off one request; nothing here is a guess about its difficulty.

    ``text`` is what users wrote, across turns, oldest first, without tool output or system text: what classifiers read.
    ``last_characters`` is the length of the last message, which is kept where its text is not, so that a decision can
    be replayed without content. ``input_tokens`` is an estimate over everything that would be sent. ``language`` is an
    ISO 639-1 code, or ``und``. ``requires`` holds the `CAPABILITIES` that the request cannot do without. ``headers``
    has lower-case names and only those that a policy may look at. ``conversation`` identifies the conversation (see
    `wire`). ``allowed`` is what the client's key may use, backends by name and whole tiers as ``tier/<name>``; None is
    all.
    """

    model: str = "auto"
    text: str = ""
    last_text: str = ""
    last_characters: int = 0
    system_text: str = ""
    turns: int = 1
    input_tokens: int = 0
    max_output_tokens: int | None = None
    choices: int = 1
    stream: bool = False
    language: str = "und"
    has_code: bool = False
    has_tools: bool = False
    has_images: bool = False
    requires: frozenset[str] = frozenset()
    conversation: str = ""
    key_id: str = "anonymous"
    headers: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] | None = None


KEPT = (0.8, 0.9, 0.95, 0.97, 0.99)
"""Shares of the baseline's quality that keeping is calibrated for; between them one interpolates."""


@quick
@dataclass(frozen=True, slots=True)
class Success:
    """A prediction that an answer will be right: ``probability`` in 0..1, with its ``standard_error``.

    Tiers err together, since a prompt that is harder than it looks is harder for all: ``shared`` is the part of the
    error, signed, that moves with every other tier's, so that the error of a difference is known (`gain_error`).
    ``enough`` says, for each share in `KEPT` of the baseline's quality, which share of the baseline's predicted success
    is enough to keep it, as held-out predictions showed; empty where they could not. ``source`` says where the
    prediction comes from: ``trained`` (the same model), ``quality`` (benchmark scores in the policy), ``onboarded`` (a
    calibration file), or ``size`` (a guess by size class).
    """

    probability: float
    standard_error: float
    source: Literal["trained", "quality", "onboarded", "size"] = "trained"
    shared: float = 0.0
    enough: tuple[float, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class Signals:
    """What the classifier says of a request. A signal never chooses a tier; a policy does.

    ``complexity`` is the predicted chance, 0..1, that a 7B-class model fails. ``success`` is keyed by tier name, by
    ``tier/backend`` for backends that state what they are, and empty when nothing is known. ``ood`` says that the
    request is far from everything the artifact was trained on.
    ``missing`` lists why something is absent or late; a policy then leans to the baseline (invariant 5). ``aside`` is
    how many characters around the question were left out of account: they ask nothing, and only made it look hard. None
    are where that could not matter.
    """

    domain: str = "other"
    domain_probs: Mapping[str, float] = field(default_factory=dict)
    complexity: float | None = None
    success: Mapping[str, Success] = field(default_factory=dict)
    ood: bool = False
    look: Look = "lexical"
    artifact: str = ""
    missing: tuple[str, ...] = ()
    aside: int = 0

    @property
    def knows_domain(self) -> bool:
        """Whether ``domain`` was read off the request, rather than left at its default because no classifier spoke."""
        return bool(self.domain_probs) or not self.missing

    @property
    def band(self) -> Band | None:
        """The complexity band, for rules and display: simple < 0.35 ≤ moderate < 0.65 ≤ complex."""
        if self.complexity is None:
            return None
        return "simple" if self.complexity < 0.35 else "moderate" if self.complexity < 0.65 else "complex"


@quick
@dataclass(frozen=True, slots=True)
class Session:
    """What is remembered of a conversation: the tier and backend of its last answer and the hardest turn so far.

    ``easier_turns`` counts the latest turns in a row that a lower tier would have done for; slow down means that a few
    of them must pass before the conversation moves down.
    """

    tier: str
    backend: str
    complexity: float = 0.0
    easier_turns: int = 0


@quick
@dataclass(frozen=True, slots=True)
class EngineView:
    """What an engine says of itself. None is unknown: absent, stale or not told yet; it is never zero.

    ``waiting`` and ``running`` count requests there, ``elsewhere`` those of them that this proxy did not send.
    ``kv_use`` is the share of its KV cache in use, ``kv_tokens`` the cache's size. ``prefix_hit_rate`` is the share of
    prompt tokens found in its prefix cache. ``draft_acceptance`` is accepted by proposed draft tokens, ``draft_length``
    the proposed ones of one pass, ``first_acceptance`` how often the first of them is accepted, ``tokens_per_pass``
    what a pass yields, the target model's own token included. ``requests_per_second`` counts those that began to be
    answered. Rates are over the last minute.
    """

    waiting: float | None = None
    running: float | None = None
    elsewhere: float | None = None
    kv_use: float | None = None
    kv_tokens: float | None = None
    prefix_hit_rate: float | None = None
    draft_acceptance: float | None = None
    draft_length: float | None = None
    first_acceptance: float | None = None
    tokens_per_pass: float | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    requests_per_second: float | None = None
    prefill_tokens_per_second: float | None = None


@quick
@dataclass(frozen=True, slots=True)
class View:
    """The world outside the request, read by the pipeline so that `decide` can stay pure.

    ``now`` carries its time zone. ``cooling`` names backends in cooldown. ``in_flight`` counts requests per backend,
    where any tier has more than one. ``exceeded`` names budgets that this request would overrun. ``spent_today`` is
    dollars since midnight. ``draw`` is a uniform number in [0, 1) for logged exploration. An exceeded budget of scope
    ``tier`` or ``model`` is named with what it limits, as ``name/target``. ``engines`` has what fresh metrics say, by
    backend. ``warm`` is how many of the request's leading tokens a backend probably has in its prefix cache.
    ``windows`` has the context windows, in tokens, that servers tell of themselves where the policy states none, by
    backend. ``looked_at`` names, by tier, the backends that were looked at where a tier has too many to look at all
    (`crowds`); nothing else here is about the others.
    """

    now: datetime
    cooling: frozenset[str] = frozenset()
    in_flight: Mapping[str, int] = field(default_factory=dict)
    exceeded: tuple[str, ...] = ()
    session: Session | None = None
    spent_today: Decimal = Decimal(0)
    draw: float = 1.0
    engines: Mapping[str, EngineView] = field(default_factory=dict)
    warm: Mapping[str, int] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    looked_at: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@quick
@dataclass(frozen=True, slots=True)
class Step:
    """One planned call."""

    tier: str
    backend: str


@quick
@dataclass(frozen=True, slots=True)
class Estimate:
    """What the decision knew of one tier: predicted success, expected cost in dollars, and why it was ruled out."""

    tier: str
    success: Success | None
    cost_usd: Decimal | None
    utility: float | None = None
    excluded: tuple[str, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no step could be planned, in the terms of an OpenAI error."""

    status: int
    code: str
    message: str
    param: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class Decision:
    """Chosen steps, in the order they will be tried, with the reasons that a person can read.

    ``steps`` is empty exactly when ``refusal`` is given. ``propensity`` is the probability with which this tier was
    chosen (1 unless the policy explores). ``estimates`` has every tier of the policy in policy order. ``rules`` names
    the rules that matched. ``wanted`` is the tier that this request asked for by itself, before its session was looked
    at; empty where it says too little to tell.
    """

    steps: tuple[Step, ...]
    reasons: tuple[str, ...]
    policy_hash: str
    propensity: float = 1.0
    estimates: tuple[Estimate, ...] = ()
    rules: tuple[str, ...] = ()
    wanted: str = ""
    refusal: Refusal | None = None

    @property
    def tier(self) -> str:
        """The chosen tier, or an empty string when the request is refused."""
        return self.steps[0].tier if self.steps else ""


@quick
@dataclass(frozen=True, slots=True)
class Plan:
    """What every decision on requests with one model name has in common, as long as nothing stands in their way."""

    steps: tuple[Step, ...]
    reasons: tuple[str, ...]


@quick
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt, as OpenAI counts them: ``input_tokens`` includes cached, written, audio and image ones,
    ``output_tokens`` reasoning, audio and image ones, ``cache_write_tokens`` those written for an hour.
    ``service_tier`` is what the answer says it was served as. ``measured`` is False for an estimate of ours."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    measured: bool = True
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    service_tier: str = ""
    image_input_tokens: int = 0
    image_output_tokens: int = 0

    @property
    def plain(self) -> bool:
        """Whether all tokens are of no special kind."""
        return not (
            self.cached_input_tokens
            or self.cache_write_tokens
            or self.reasoning_tokens
            or self.audio_input_tokens
            or self.audio_output_tokens
            or self.image_input_tokens
            or self.image_output_tokens
        )


@quick
@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What the baseline would have made of a request, given what was used for it; the baseline's cost follows from it.

    ``backend`` is the baseline's. It would have counted ``input_ratio`` times the tokens in, written ``output_ratio``
    times those out, and found ``cached_input_tokens`` of its own count in its prefix cache.
    ``assumed`` says that nothing is known of one of the ratios, which is 1 then.
    """

    backend: str
    input_ratio: float = 1.0
    output_ratio: float = 1.0
    cached_input_tokens: int = 0
    assumed: bool = False


@quick
@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that was made. ``cost_nanos`` is in nano-dollars, or None where the price is unknown (`unpriced`).

    ``error`` is a kind of failure (see `router.errors`), empty when it answered. Times are in milliseconds since the
    attempt began; ``ttft_ms`` is the time to first token, or to the whole body when not streaming.
    """

    backend: str
    tier: str
    model: str
    outcome: Outcome
    status: int | None = None
    error: str = ""
    phase: Phase = "done"
    usage: Usage | None = None
    cost_nanos: int | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    precision: str = ""
    """The backend's precision as the policy states it, so that the report can show cost and success by it."""


@quick
@dataclass(frozen=True, slots=True)
class Entry:
    """The one record of one request: what was asked, decided, done, and paid. The ledger is made of these.

    Costs are integer nano-dollars: ``cost_nanos`` sums all attempts, failed ones too; None means `unpriced`.
    ``baseline_nanos`` is what the baseline tier would have cost, worked out from ``counterfactual`` (None where nothing
    was used), and ``proxy_nanos`` what the proxy's own time on the request costs; savings pay for it. ``at`` is Unix
    time in seconds. ``features`` and ``signals`` are kept as the decision saw them (without content unless the policy
    logs it) so that it can be replayed.
    """

    id: str
    at: float
    key_id: str
    requested_model: str
    served_model: str
    tier: str
    backend: str
    status: int
    outcome: Outcome
    stream: bool
    decision: Decision
    features: Features
    signals: Signals | None
    view: View
    attempts: tuple[Attempt, ...]
    usage: Usage
    cost_nanos: int | None
    baseline_nanos: int | None
    classify_ms: float
    overhead_ms: float
    ttft_ms: float | None
    total_ms: float
    counterfactual: Counterfactual | None = None
    proxy_nanos: int = 0
