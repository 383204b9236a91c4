"""The policy document, version 1: its shape and its defaults, in one place.

`policies.document` reads YAML into these models and turns what pydantic finds into errors with file, line and column;
`policies.conditions` owns the ``when:`` predicates. All models are frozen and refuse unknown keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    model_validator,
)

from policies.conditions import Names, When, one_or_many
from policies.durations import Duration, parse

Kind: TypeAlias = Literal[
    "openai", "vllm", "sglang", "tensorrt-llm", "llamacpp", "ollama", "tgi", "transformers", "hosted", "simulated"
]  # fmt: skip
Precision: TypeAlias = Literal["fp16", "bf16", "fp8", "int8", "int4", "fp4"]
Capability: TypeAlias = Literal["tools", "json_mode", "json_schema", "vision", "audio", "logprobs"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Usd: TypeAlias = Annotated[Decimal, Field(ge=0)]


Capabilities: TypeAlias = Annotated[
    tuple[Capability, ...], BeforeValidator(one_or_many, json_schema_input_type=Capability | tuple[Capability, ...])
]
Precisions: TypeAlias = Annotated[
    tuple[Precision, ...], BeforeValidator(one_or_many, json_schema_input_type=Precision | tuple[Precision, ...])
]
Kinds: TypeAlias = Annotated[
    tuple[Kind, ...], BeforeValidator(one_or_many, json_schema_input_type=Kind | tuple[Kind, ...])
]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(BaseModel):
    """A mapping in the document: frozen, and an unknown key is an error.

    What may be a URL with a password in it is left out of the repr.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Rates(Section):
    """Prices per million tokens, in US dollars, that stand in for others; what is not stated stays as it was."""

    input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd | None = None
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None
    cache_write_1h_usd_per_mtok: Usd | None = None
    reasoning_usd_per_mtok: Usd | None = None
    audio_input_usd_per_mtok: Usd | None = None
    audio_output_usd_per_mtok: Usd | None = None
    image_input_usd_per_mtok: Usd | None = None
    image_output_usd_per_mtok: Usd | None = None


class RatesAbove(Rates):
    """The prices of a request whose input is longer than so many tokens."""

    input_tokens: Annotated[int, Field(ge=1)]


class ServiceRates(Rates):
    """The prices of a service tier, as answers name theirs."""

    above: tuple[RatesAbove, ...] = ()


class TokenPrice(ServiceRates):
    """A price per million tokens, in US dollars. What is not stated falls back to the plain input or output price."""

    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    request_usd: Usd = Decimal(0)
    service_tiers: Mapping[Literal["batch", "flex", "priority"], ServiceRates] = {}


class GpuPrice(Section):
    """A price by time: what one GPU costs for an hour, and how many GPUs the backend holds.

    Requests share it by time in flight. ``capacity`` is the number of requests the backend serves at once when full; an
    estimate before the fact needs it.
    """

    gpu_hour_usd: Usd
    gpus: Annotated[int, Field(ge=1)] = 1
    capacity: Annotated[int, Field(ge=1)] = 16
    tokens_per_second: Annotated[float, Field(gt=0)] = 40.0


def _priced_by(cost: object) -> str:
    if isinstance(cost, Mapping):
        return "by time" if GpuPrice.model_fields.keys() & cost.keys() else "by token"
    return "by time" if isinstance(cost, GpuPrice) else "by token"


Cost: TypeAlias = Annotated[
    Annotated[TokenPrice, Tag("by token")] | Annotated[GpuPrice, Tag("by time")], Discriminator(_priced_by)
]


class Timeouts(Section):
    """How long to wait for one attempt: a connection, the first token (headers included), between tokens, and in all.

    ``answer`` stands in for first token and between tokens where an answer is not streamed, and so shows nothing before
    its end. ``deadline`` is over all attempts of a request together; only the policy's own is used.
    """

    connect: Duration = timedelta(seconds=2)
    first_token: Duration = timedelta(seconds=30)
    between_tokens: Duration = timedelta(seconds=20)
    answer: Duration = timedelta(minutes=3)
    total: Duration = timedelta(minutes=10)
    deadline: Duration = timedelta(minutes=15)


class Simulation(Section):
    """How a ``simulated`` backend behaves: speed, and how much it says. It answers real HTTP on loopback."""

    ttft: Duration = timedelta(milliseconds=20)
    tokens_per_second: Annotated[float, Field(gt=0)] = 400.0
    output_tokens: Annotated[int, Field(ge=1)] = 80
    seed: int = 0


class Backend(Section):
    """One configured upstream: a model at an address.

    ``trained_as`` and ``quality`` are those of its tier unless it answers differently, at a lower precision, say.
    ``quality`` is then compared with the tier's own, so both must come from the same benchmark runs.
    """

    name: Name
    kind: Kind
    model: str
    base_url: Annotated[str | None, Field(repr=False)] = None
    api_key: SecretStr | None = None
    headers: Mapping[str, SecretStr] = {}
    precision: Precision | None = None
    trained_as: str | None = None
    quality: Mapping[str, Share] = {}
    cost: Cost | None = None
    context_window: Annotated[int, Field(ge=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    supports: Capabilities = ("tools", "json_mode", "json_schema", "logprobs")
    max_in_flight: Annotated[int, Field(ge=1)] = 256
    timeouts: Timeouts | None = None
    simulate: Simulation | None = None


Check: TypeAlias = Literal["refusal", "truncated", "json", "tool_arguments", "repetition", "language"]


class Escalate(Section):
    """When an answer of this tier is not good enough, so that the next tier of its fallback is asked instead.

    Both answers are paid for. A streamed answer can be checked only if it is held back until it is complete:
    ``hold_streams`` says so; otherwise streams pass unchecked. Where no other tier answers, this one's answer is given.
    """

    checks: Annotated[
        tuple[Check, ...], BeforeValidator(one_or_many, json_schema_input_type=Check | tuple[Check, ...])
    ] = ("refusal", "truncated", "json", "tool_arguments", "repetition")
    min_mean_logprob: Annotated[float, Field(le=0)] | None = None
    hold_streams: bool = False


class Tier(Section):
    """An ordered class of interchangeable backends, how much they take together, and how good their answers are.

    ``trained_as`` names the model of the artifact that stands for this tier; ``quality`` states benchmark scores;
    ``size_b`` is billions of parameters. Whichever is known first is used, in that order.
    """

    backends: Annotated[tuple[Backend, ...], Field(min_length=1)]
    trained_as: str | None = None
    quality: Mapping[str, Share] = {}
    size_b: Annotated[float, Field(gt=0)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    escalate: Escalate | None = None

    @property
    def told_apart(self) -> bool:
        """Whether some of its backends answer differently well from others."""
        return len(self.backends) > 1 and any(each.trained_as or each.quality for each in self.backends)


class Objective(Section):
    """Quality against cost: exactly one of the four.

    ``keep_quality`` is the least share of the baseline's predicted success to keep. ``tradeoff`` runs from 0 (quality
    alone) to 1 (cost alone). ``usd_per_day`` paces spend to arrive there at midnight. ``large_share`` is the share of
    requests that may go to the baseline tier.
    """

    keep_quality: Annotated[float, Field(gt=0, le=1)] | None = None
    tradeoff: Share | None = None
    usd_per_day: Annotated[Decimal, Field(gt=0)] | None = None
    large_share: Share | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Objective:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            stated = " and ".join(given) if given else "none"
            raise ValueError(f"state exactly one of keep_quality, tradeoff, usd_per_day, large_share (found {stated})")
        return self


class Exclude(Section):
    """What a rule takes out of the choice: tiers, backends, or every backend of a precision or kind."""

    tier: Names = ()
    backend: Names = ()
    precision: Precisions = ()
    kind: Kinds = ()


class Rule(Section):
    """When its conditions hold, a rule takes one action.

    ``tier`` settles the choice; ``prefer`` takes the tier if it is eligible and keeps the quality floor; ``exclude``
    takes backends out. The first matching ``tier`` rule wins, then the first matching ``prefer``; excludes add up.
    """

    name: str
    when: When = When()
    tier: str | None = None
    prefer: str | None = None
    exclude: Exclude | None = None

    @model_validator(mode="after")
    def _one_action(self) -> Rule:
        if sum(action is not None for action in (self.tier, self.prefer, self.exclude)) != 1:
            raise ValueError("state exactly one action: tier, prefer or exclude")
        return self


class SessionSettings(Section):
    """Whether a conversation stays where it is: fast up, slow down.

    A conversation is known by the request header named here, by ``user``, or by a hash of system prompt and first
    message.
    """

    sticky: bool = True
    ttl: Duration = timedelta(hours=1)
    header: str = "x-session-id"
    down_after: Annotated[int, Field(ge=1)] = 3


class Retries(Section):
    """How often the same backend is tried again, and how long to wait: exponential with full jitter, up to a cap."""

    attempts: Annotated[int, Field(ge=0, le=10)] = 1
    base: Duration = timedelta(milliseconds=200)
    cap: Duration = timedelta(seconds=5)


class Cooldown(Section):
    """When a failing backend rests: after this many consecutive failures, for this long, before one probe is let in.

    ``ask`` is how often every backend is asked whether it is well, so that none has to fail a request first; None is
    never.
    """

    failures: Annotated[int, Field(ge=1)] = 3
    rest: Duration = timedelta(seconds=15)
    ask: Duration | None = None


CALENDAR = ("minute", "hour", "day", "month")
"""Windows of budgets that begin and end by the clock; others roll."""

_SPAN = r"^(minute|hour|day|month|\d+(\.\d+)?(ms|s|m|h|d))$"


def _span(per: str) -> str:
    try:
        fits = per in CALENDAR or timedelta(minutes=1) <= parse(per) <= timedelta(days=90)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("expected minute, hour, day or month, or a duration from 1m to 90d that rolls (such as 24h)")
    return per


class Budget(Section):
    """A limit on dollars, tokens or requests per window, for the whole policy or for each key or tier or model."""

    name: str
    per: Annotated[str, AfterValidator(_span), Field(json_schema_extra={"pattern": _SPAN})]
    scope: Literal["policy", "key", "tier", "model"] = "policy"
    usd: Annotated[Decimal, Field(gt=0)] | None = None
    tokens: Annotated[int, Field(gt=0)] | None = None
    requests: Annotated[int, Field(gt=0)] | None = None
    when: When = When()
    on_exceeded: Literal["downgrade", "reject"] = "reject"
    store_away: Literal["fail_open", "fail_closed", "local_share"] = "fail_open"

    @model_validator(mode="after")
    def _some_limit(self) -> Budget:
        if self.usd is None and self.tokens is None and self.requests is None:
            raise ValueError("state at least one limit: usd, tokens or requests")
        return self

    @property
    def rolling(self) -> timedelta | None:
        """How long the window is, where it rolls; None where it goes by the clock."""
        return None if self.per in CALENDAR else parse(self.per)


class ClassifierSettings(Section):
    """Where signals come from.

    ``artifact`` is ``default`` or a folder. ``encoder`` is ``local``, a sentence-transformers model by name or path
    (extra ``torch``), or the URL of an OpenAI-compatible embeddings endpoint with ``encoder_model``. ``device`` is
    where an encoder of this machine runs: ``auto`` takes a GPU where there is one and the extra ``torch``. ``deadline``
    is how long a decision waits for the second look. ``domains`` adds domains of your own from example prompts.
    """

    artifact: str = "default"
    encoder: Annotated[str, Field(repr=False)] = "local"
    encoder_model: str | None = None
    encoder_key: SecretStr | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deadline: Duration = timedelta(milliseconds=25)
    domains: Mapping[str, tuple[str, ...]] = {}


class Auth(Section):
    """Who may ask, and whose requests may steer by header.

    ``trust`` names keys by id, or all of them as ``*``: from others the session's header and those that conditions look
    at are not read. Where no key is required everybody is trusted.
    """

    required: bool = False
    trust: Names = ()
    public_metrics: bool = False

    def trusts(self, key_id: str) -> bool:
        """Say whether a client's headers count."""
        return not self.required or key_id in self.trust or "*" in self.trust


class Limits(Section):
    """What the proxy refuses from a client.

    ``head`` and ``request`` are how long a request's head, and all of it, may take to arrive; ``idle`` is how long a
    connection is kept without one.
    """

    body_bytes: Annotated[int, Field(ge=1024)] = 20 * 1024 * 1024
    head: Duration = timedelta(seconds=10)
    request: Duration = timedelta(minutes=1)
    idle: Duration = timedelta(seconds=75)
    connections: Annotated[int, Field(ge=1)] = 10_000
    drain: Duration = timedelta(seconds=30)


class Scrape(Section):
    """How often engines are asked what they are doing, how long that may take, and from which age on it is unknown.

    Only kinds of backend with metrics are asked; ``enabled: false`` asks none.
    """

    enabled: bool = True
    interval: Duration = timedelta(seconds=2)
    timeout: Duration = timedelta(seconds=1)
    stale: Duration = timedelta(seconds=10)


class LedgerSettings(Section):
    """How long the books are kept.

    Whole ``entries`` stay in each proxy's journal so long, and while it is no bigger than ``entries_mib``; then only
    what they add up to. In the store, days older than ``hours`` are kept as days, and all is gone after ``rollups``.
    ``proxy_hour_usd`` is what the proxy's machine costs: savings pay for the time that the proxy adds to a request.
    """

    entries: Duration = timedelta(days=90)
    entries_mib: Annotated[int, Field(ge=1)] = 4096
    hours: Duration = timedelta(days=35)
    rollups: Duration = timedelta(days=400)
    proxy_hour_usd: Annotated[Decimal, Field(ge=0)] = Decimal("0.05")


class Logging(Section):
    """What the ledger may keep. Content is kept only when ``content`` says so (invariant 9)."""

    content: bool = False


STORES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
"""Schemes of the store's URL."""


def _store_url(url: str) -> str:
    if url and url.partition("://")[0] not in STORES:
        raise ValueError(f"not the URL of a store: expected one that begins with {'://, '.join(STORES)}://")
    return url


class Policy(Section):
    """A whole policy document. ``baseline`` defaults to the last tier."""

    version: Literal[1]
    description: str = ""
    tiers: Annotated[Mapping[Name, Tier], Field(min_length=1)]
    baseline: str = ""
    objective: Objective = Objective(keep_quality=0.97)
    objectives: Mapping[Name, Objective] = {}
    rules: tuple[Rule, ...] = ()
    aliases: Mapping[str, str] = {}
    session: SessionSettings = SessionSettings()
    fallback: Mapping[str, Names] = {}
    hedge: Mapping[str, Duration] = {}
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    cooldown: Cooldown = Cooldown()
    budgets: tuple[Budget, ...] = ()
    classifier: ClassifierSettings = ClassifierSettings()
    exploration: Share = 0.0
    auth: Auth = Auth()
    limits: Limits = Limits()
    scrape: Scrape = Scrape()
    ledger: LedgerSettings = LedgerSettings()
    logging: Logging = Logging()
    timezone: str = "UTC"
    redis: Annotated[
        str, BeforeValidator(lambda url: "" if url is None else url), AfterValidator(_store_url), Field(repr=False)
    ] = ""
