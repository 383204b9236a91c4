"""Money: what a call costs, and who pays for a GPU's time.

Decimal dollars in arithmetic, integer nano-dollars at rest. An unknown price is the state `UNPRICED`, never zero; a
declared price of zero is a price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from enum import Enum
from typing import Final, TypeAlias

from policies.schema import Backend, GpuPrice, Rates, ServiceRates, TokenPrice
from policies.values import Usage

NANOS_PER_USD: Final = 1_000_000_000
_MTOK = Decimal(1_000_000)
_NANO = Decimal("1E-9")
_KINDS = (
    "input", "output", "cached_input", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output",
    "image_input", "image_output",
)  # fmt: skip
_MICROSECONDS_PER_HOUR = 3_600_000_000
_FRACTION_BITS = 64


class Unpriced(Enum):
    """The cost of a call whose price nobody stated."""

    UNPRICED = "unpriced"


UNPRICED: Final = Unpriced.UNPRICED


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Dollars per token of each kind, and per request.

    ``above`` has the rates of longer inputs, the longest first, and ``service_tiers`` those of other service tiers.
    ``nanos`` are the rates of input, of output and of a request in nano-dollars, where those are whole numbers, as they
    nearly always are: integers are added up in a fraction of the time.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    reasoning: Decimal
    audio_input: Decimal
    audio_output: Decimal
    image_input: Decimal
    image_output: Decimal
    request: Decimal
    nanos: tuple[int, int, int] | None = None
    above: tuple[tuple[int, TokenRates], ...] = ()
    service_tiers: Mapping[str, TokenRates] = field(default_factory=dict)

    def of(self, service_tier: str, input_tokens: int) -> TokenRates:
        """The rates that one call is billed at."""
        tier = self.service_tiers.get(service_tier, self) if service_tier else self
        return next((rates for tokens, rates in tier.above if input_tokens > tokens), tier) if tier.above else tier

    def plain(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Dollars for tokens of no special kind."""
        if self.nanos is not None:
            per_input, per_output, once = self.nanos
            return (per_input * input_tokens + per_output * output_tokens + once) * _NANO
        return self.input * input_tokens + self.output * output_tokens + self.request


@dataclass(frozen=True, slots=True)
class GpuRates:
    """Dollars per hour of all a backend's GPUs, and what it serves when full, which an estimate needs."""

    hour: Decimal
    capacity: int
    tokens_per_second: Decimal


Price: TypeAlias = TokenRates | GpuRates

Tariff: TypeAlias = tuple[Price | None, int | None]
"""What a backend's cost is estimated by: its price, and the most tokens that it answers with."""


def price_of(backend: Backend) -> Price | None:
    """The price that a backend declares, or None where it declares none (`unpriced`)."""
    match backend.cost:
        case TokenPrice() as price:
            return _token_rates(price)
        case GpuPrice() as price:
            return GpuRates(price.gpu_hour_usd * price.gpus, price.capacity, Decimal(str(price.tokens_per_second)))
    return None


def _token_rates(price: TokenPrice) -> TokenRates:
    stated = _stated(price)
    tiers: dict[str, TokenRates] = {
        name: _with_above({**stated, **_stated(tier)}, price, tier) for name, tier in price.service_tiers.items()
    }
    return replace(_with_above(stated, price, price), service_tiers=tiers)


def _stated(rates: Rates) -> dict[str, Decimal]:
    """What is stated, in dollars per token. The kinds are the fields of `TokenRates`."""
    found = ((name, getattr(rates, f"{name}_usd_per_mtok")) for name in _KINDS)
    return {name: rate / _MTOK for name, rate in found if rate is not None}


def _with_above(stated: Mapping[str, Decimal], price: TokenPrice, tier: ServiceRates) -> TokenRates:
    longest_first = sorted(tier.above, key=lambda step: -step.input_tokens)
    above = tuple((step.input_tokens, _rates({**stated, **_stated(step)}, price)) for step in longest_first)
    return replace(_rates(stated, price), above=above)


def _rates(stated: Mapping[str, Decimal], price: TokenPrice) -> TokenRates:
    plain_in, plain_out = stated["input"], stated["output"]
    write = stated.get("cache_write", plain_in)
    often = [rate * NANOS_PER_USD for rate in (plain_in, plain_out, price.request_usd)]
    whole = all(rate == rate.to_integral_value() for rate in often)
    return TokenRates(
        input=plain_in,
        output=plain_out,
        cached_input=stated.get("cached_input", plain_in),
        cache_write=write,
        cache_write_1h=stated.get("cache_write_1h", write),
        reasoning=stated.get("reasoning", plain_out),
        audio_input=stated.get("audio_input", plain_in),
        audio_output=stated.get("audio_output", plain_out),
        image_input=stated.get("image_input", plain_in),
        image_output=stated.get("image_output", plain_out),
        request=price.request_usd,
        nanos=(int(often[0]), int(often[1]), int(often[2])) if whole else None,
    )


def cost(usage: Usage, price: Price | None) -> Decimal | Unpriced:
    """Dollars for one call. A GPU's price gives the share of a full GPU; `GpuClock` gives the share as it came out."""
    match price:
        case TokenRates():
            return _token_cost(usage, price)
        case GpuRates():
            return _gpu_cost(usage.output_tokens, price)
    return UNPRICED


def cost_nanos(usage: Usage, price: Price | None) -> int | None:
    """The same in nano-dollars; None where it is `UNPRICED`."""
    if isinstance(price, TokenRates) and usage.plain:
        special = usage.service_tier or price.above
        rates = price.of(usage.service_tier, usage.input_tokens) if special else price
        if rates.nanos is not None:
            per_input, per_output, once = rates.nanos
            return per_input * usage.input_tokens + per_output * usage.output_tokens + once
    dollars = cost(usage, price)
    return None if dollars is UNPRICED else nanos(dollars)


def _token_cost(usage: Usage, price: TokenRates) -> Decimal:
    """Kinds that overlap in what is reported are billed once: cached, written, audio, image; reasoning first."""
    rates = price.of(usage.service_tier, usage.input_tokens)
    if usage.plain:
        return rates.plain(usage.input_tokens, usage.output_tokens)
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    written_1h = min(usage.cache_write_1h_tokens, written)
    heard = min(usage.audio_input_tokens, usage.input_tokens - cached - written)
    seen = min(usage.image_input_tokens, usage.input_tokens - cached - written - heard)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    spoken = min(usage.audio_output_tokens, usage.output_tokens - reasoning)
    drawn = min(usage.image_output_tokens, usage.output_tokens - reasoning - spoken)
    return (
        rates.input * (usage.input_tokens - cached - written - heard - seen)
        + rates.cached_input * cached
        + rates.cache_write * (written - written_1h)
        + rates.cache_write_1h * written_1h
        + rates.audio_input * heard
        + rates.image_input * seen
        + rates.output * (usage.output_tokens - reasoning - spoken - drawn)
        + rates.reasoning * reasoning
        + rates.audio_output * spoken
        + rates.image_output * drawn
        + rates.request
    )


def _gpu_cost(output_tokens: int, rates: GpuRates) -> Decimal:
    seconds = output_tokens / rates.tokens_per_second
    return rates.hour * seconds / 3600 / rates.capacity


def expected_cost(price: Price | None, input_tokens: int, output_tokens: int) -> Decimal | Unpriced:
    """Dollars that a call would cost, before the fact."""
    if isinstance(price, TokenRates):
        return (price.of("", input_tokens) if price.above else price).plain(input_tokens, output_tokens)
    return UNPRICED if price is None else _gpu_cost(output_tokens, price)


def tariffs(backends: Iterable[Backend], prices: Mapping[str, Price | None]) -> tuple[Tariff, ...]:
    """The tariffs of some backends, each once: one stands for all that have it."""
    found = ((prices[backend.name], backend.max_output_tokens) for backend in backends)
    return tuple({repr(tariff): tariff for tariff in found}.values())


def dearest(found: Iterable[Tariff], input_tokens: int, output_tokens: int, choices: int = 1) -> Decimal | None:
    """Dollars that a call would cost at the dearest of some tariffs; None if one has no price.

    ``output_tokens`` are those of all its ``choices`` together, where nothing caps them.
    """
    most = None
    for price, cap in found:
        output = output_tokens if cap is None else min(output_tokens, cap * max(1, choices))
        cost = expected_cost(price, input_tokens, output)
        if cost is UNPRICED:
            return None
        if most is None or cost > most:
            most = cost
    return most


def nanos(usd: Decimal) -> int:
    """Dollars as whole nano-dollars, half to even."""
    return int((usd * NANOS_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def usd(nano_dollars: int) -> Decimal:
    """Nano-dollars as dollars, exactly."""
    return Decimal(nano_dollars).scaleb(-9)


class GpuClock:
    """Shares a GPU's price over the requests in flight on it, by weighted processor sharing, in exact integers.

    At every moment each request in flight accrues its weight's share of the rate; when none is in flight the time is
    idle. ``paid + pending + idle + elsewhere`` equals `billed` at every event, to the nano-dollar, and ``pending``
    is 0 when nothing is in flight. The clock is pure: times (Unix seconds) are given to it, and one that runs
    backwards counts as standing still. Each event is O(1): the cost accrued per unit of weight is one running
    fixed-point number (virtual time, as in generalised processor sharing, Parekh and Gallager 1993).
    """

    __slots__ = (
        "_accrued", "_at", "_began", "_dust", "_elsewhere_weight", "_in_flight", "_rate", "_remainder", "_weight",
        "elsewhere", "idle", "paid", "pending",
    )  # fmt: skip

    def __init__(self, hour_usd: Decimal, at: float) -> None:
        self._rate = nanos(hour_usd)
        self._began = self._at = _microseconds(at)
        self._accrued = 0
        self._remainder = 0
        self._dust = 0
        self._weight = 0
        self._elsewhere_weight = 0
        self._in_flight: dict[str, tuple[int, int]] = {}
        self.idle = 0
        self.paid = 0
        self.pending = 0
        self.elsewhere = 0

    @property
    def billed(self) -> int:
        """Nano-dollars from the clock's beginning to its last event: time × rate, rounded down."""
        return self._billed_until(self._at)

    @property
    def rate(self) -> int:
        """Nano-dollars per hour."""
        return self._rate

    @property
    def weight(self) -> int:
        """The weight now in flight here, which other proxies need to know."""
        return self._weight

    def start(self, request_id: str, at: float, weight: int = 1) -> None:
        """Put a request in flight. ``weight`` is the tokens it has in work. Raises `ValueError` when it already is."""
        if request_id in self._in_flight:
            raise ValueError(f"request {request_id!r} is already in flight")
        self.advance(at)
        weight = max(1, weight)
        self._in_flight[request_id] = (weight, self._accrued)
        self._weight += weight

    def stop(self, request_id: str, at: float) -> int:
        """Take a request out of flight and return its share in nano-dollars. Raises `KeyError` when it is not in it."""
        self.advance(at)
        weight, accrued_before = self._in_flight.pop(request_id)
        self._weight -= weight
        owed = weight * (self._accrued - accrued_before) + self._dust
        if self._in_flight:
            share = owed >> _FRACTION_BITS
            self._dust = owed - (share << _FRACTION_BITS)
        else:
            share = self.pending
            self._dust = self._remainder = 0
        self.paid += share
        self.pending -= share
        return share

    def advance(self, at: float) -> None:
        """Let time pass."""
        moment = max(self._at, _microseconds(at))
        passed = self._billed_until(moment) - self._billed_until(self._at)
        self._at = moment
        total = self._weight + self._elsewhere_weight
        if not total:
            self.idle += passed
            return
        here = passed * self._weight // total
        self.elsewhere += passed - here
        self.pending += here
        if self._weight:
            accrued, self._remainder = divmod((here << _FRACTION_BITS) + self._remainder, self._weight)
            self._accrued += accrued

    def others(self, weight: int, at: float) -> None:
        """Say how much weight other proxies have in flight on the same GPU; their part is neither ours nor idle."""
        self.advance(at)
        self._elsewhere_weight = max(0, weight)

    def _billed_until(self, moment: int) -> int:
        return self._rate * (moment - self._began) // _MICROSECONDS_PER_HOUR


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
