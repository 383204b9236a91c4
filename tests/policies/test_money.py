from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import money
from policies.schema import Backend, GpuPrice, TokenPrice
from policies.values import Usage

PRICE = TokenPrice(
    input_usd_per_mtok=Decimal("2.5"),
    output_usd_per_mtok=Decimal(10),
    cached_input_usd_per_mtok=Decimal("1.25"),
    cache_write_usd_per_mtok=Decimal("3.125"),
    reasoning_usd_per_mtok=Decimal(12),
    request_usd=Decimal("0.001"),
)


def priced(cost: TokenPrice | GpuPrice | None) -> money.Price | None:
    return money.price_of(Backend(name="b", kind="openai", model="m", cost=cost))


def test_each_kind_of_token_has_its_rate() -> None:
    usage = Usage(
        input_tokens=1_000, cached_input_tokens=300, cache_write_tokens=200, output_tokens=100, reasoning_tokens=40
    )
    micros = 500 * Decimal("2.5") + 300 * Decimal("1.25") + 200 * Decimal("3.125") + 60 * 10 + 40 * 12
    assert money.cost(usage, priced(PRICE)) == micros / 1_000_000 + Decimal("0.001")


@given(
    st.decimals(0, 100, places=5), st.decimals(0, 100, places=5), st.decimals(0, 1, places=10),
    st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**6),
)  # fmt: skip
def test_nano_dollars_are_those_of_the_dollars(
    taken: Decimal, given: Decimal, once: Decimal, input_tokens: int, output_tokens: int, reasoning_tokens: int
) -> None:
    price = TokenPrice(input_usd_per_mtok=taken, output_usd_per_mtok=given, request_usd=once)
    for usage in (Usage(input_tokens, 0, 0, output_tokens), Usage(input_tokens, 0, 0, output_tokens, reasoning_tokens)):
        for rates in (priced(price), priced(PRICE)):
            dollars = money.cost(usage, rates)
            assert isinstance(dollars, Decimal)
            assert money.cost_nanos(usage, rates) == money.nanos(dollars)
    assert money.cost_nanos(Usage(), None) is None


def test_what_is_not_stated_falls_back_to_the_plain_price() -> None:
    plain = priced(TokenPrice(input_usd_per_mtok=Decimal(2), output_usd_per_mtok=Decimal(4)))
    usage = Usage(1_000, 300, 200, 100, 40)
    assert money.cost(usage, plain) == Decimal("0.0024")


def test_a_free_kind_is_free_and_not_the_plain_price() -> None:
    cached_free = PRICE.model_copy(update={"cached_input_usd_per_mtok": Decimal(0), "request_usd": Decimal(0)})
    assert money.cost(Usage(100, 100), priced(cached_free)) == 0


def test_an_unknown_price_is_never_zero() -> None:
    assert money.cost(Usage(), None) is money.UNPRICED
    assert money.expected_cost(None, 1, 1) is money.UNPRICED
    assert priced(None) is None
    assert money.cost(Usage(10), priced(TokenPrice(input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(0)))) == 0


@given(st.builds(Usage, *[st.integers(0, 10**6)] * 5))
def test_counts_that_contradict_each_other_never_cost_less_than_nothing(usage: Usage) -> None:
    cost = money.cost(usage, priced(PRICE))
    assert isinstance(cost, Decimal)
    most = (usage.input_tokens + usage.output_tokens) * Decimal(12) / 1_000_000
    assert Decimal("0.001") <= cost <= most + Decimal("0.001")


@given(st.integers(-(10**24), 10**24))
def test_nano_dollars_and_dollars_are_the_same_money(nano_dollars: int) -> None:
    assert money.nanos(money.usd(nano_dollars)) == nano_dollars


def test_halves_round_to_even() -> None:
    assert [money.nanos(Decimal(text)) for text in ("0.0000000005", "0.0000000015", "0.0000000025")] == [0, 2, 2]


def test_a_backend_is_estimated_to_answer_no_more_than_it_can() -> None:
    price = priced(PRICE)
    assert money.dearest([(price, 100)], 10, 900, 3) == money.expected_cost(price, 10, 300)
    assert money.dearest([(price, 400)], 10, 900, 3) == money.expected_cost(price, 10, 900)
    assert money.dearest([(price, 100), (price, None)], 10, 900, 3) == money.expected_cost(price, 10, 900)
    assert money.dearest([(price, None), (None, None)], 10, 900) is None


@given(st.decimals(0, 1_000, places=4, allow_nan=False), st.integers(0, 10**7), st.integers(0, 10**7))
def test_whole_nano_dollars_are_added_up_as_decimals_are(rate: Decimal, given: int, answered: int) -> None:
    price = priced(TokenPrice(input_usd_per_mtok=rate, output_usd_per_mtok=3 * rate, request_usd=Decimal("0.001")))
    assert isinstance(price, money.TokenRates)
    plain = price.input * given + price.output * answered + price.request
    assert price.plain(given, answered) == plain
    assert money.cost_nanos(Usage(given, output_tokens=answered), price) == money.nanos(plain)
    assert (price.nanos is None) == bool(rate * 1000 % 1)


def test_a_gpu_is_estimated_at_full_load() -> None:
    price = priced(GpuPrice(gpu_hour_usd=Decimal("3.6"), gpus=2, capacity=16, tokens_per_second=50))
    assert money.expected_cost(price, 1_000, 100) == Decimal("7.2") * 2 / 3600 / 16
    assert money.expected_cost(price, 1_000, 100) == money.cost(Usage(1_000, output_tokens=100), price)


def test_two_requests_never_both_pay_for_the_same_second() -> None:
    clock = money.GpuClock(Decimal(3600), 0.0)
    clock.start("a", 10.0, 100)
    clock.start("b", 20.0, 300)
    assert (clock.rate, clock.weight) == (3600 * 10**9, 400)
    shares = (clock.stop("a", 30.0), clock.stop("b", 40.0))
    second = 10**9
    assert shares == (10 * second + 10 * second // 4, 10 * second * 3 // 4 + 10 * second)
    clock.advance(50.0)
    assert clock.idle == 20 * second
    assert clock.paid + clock.idle == clock.billed == 50 * second


def test_what_others_have_in_flight_is_neither_ours_nor_idle() -> None:
    clock = money.GpuClock(Decimal(3600), 0.0)
    clock.start("a", 0.0, 100)
    clock.others(300, 0.0)
    assert clock.stop("a", 4.0) == 10**9
    clock.advance(5.0)
    assert (clock.elsewhere, clock.idle) == (4 * 10**9, 0)
    clock.others(0, 5.0)
    clock.advance(6.0)
    assert clock.idle == 10**9


def test_a_clock_that_runs_backwards_stands_still() -> None:
    clock = money.GpuClock(Decimal(3600), 100.0)
    clock.start("a", 90.0)
    assert clock.stop("a", 80.0) == 0
    assert clock.billed == 0


def test_misuse_is_told() -> None:
    clock = money.GpuClock(Decimal(1), 0.0)
    clock.start("a", 0.0)
    with pytest.raises(ValueError, match="already in flight"):
        clock.start("a", 1.0)
    with pytest.raises(KeyError):
        clock.stop("b", 1.0)


_steps = st.lists(
    st.tuples(st.floats(0, 1e4), st.sampled_from(["start", "stop", "others", "wait"]), st.integers(0, 10**6)),
    max_size=60,
)


@settings(deadline=None)
@given(st.decimals(0, 10**5, places=4), _steps)
def test_the_gpu_bill_closes_to_the_nano_dollar(rate: Decimal, steps: list[tuple[float, str, int]]) -> None:
    clock, now, flying, paid = money.GpuClock(rate, 0.0), 0.0, [], 0
    for number, (passed, event, weight) in enumerate(steps):
        now += passed
        if event == "start":
            clock.start(str(number), now, weight)
            flying.append(str(number))
        elif event == "stop" and flying:
            share = clock.stop(flying.pop(weight % len(flying)), now)
            assert share >= 0
            paid += share
        elif event == "others":
            clock.others(weight, now)
        else:
            clock.advance(now)
        assert clock.paid == paid
        assert clock.paid + clock.pending + clock.idle + clock.elsewhere == clock.billed
        assert clock.pending == 0 or flying
    for request_id in flying:
        clock.stop(request_id, now)
    assert clock.pending == 0
    assert clock.paid + clock.idle + clock.elsewhere == clock.billed


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 10**5)), min_size=2, max_size=20))
def test_shares_are_within_a_nano_dollar_or_two_of_exact_processor_sharing(flights: list[tuple[int, int]]) -> None:
    """All start at 0 with their weight; each ends after its seconds. Compared with exact rational arithmetic."""
    clock = money.GpuClock(Decimal("7.77"), 0.0)
    for number, (_, weight) in enumerate(flights):
        clock.start(str(number), 0.0, weight)
    exact = dict.fromkeys(range(len(flights)), Fraction(0))
    ends = sorted(range(len(flights)), key=lambda number: flights[number][0])
    left, before = set(exact), 0
    for number in ends:
        until = flights[number][0]
        total = sum(flights[other][1] for other in left)
        billed = 7_770_000_000 * until // 3600 - 7_770_000_000 * before // 3600
        for other in left:
            exact[other] += Fraction(billed * flights[other][1], total)
        before = until
        share = clock.stop(str(number), float(until))
        left.discard(number)
        assert abs(share - exact[number]) <= 2


STEPPED = TokenPrice.model_validate(
    {
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 10,
        "cached_input_usd_per_mtok": "0.1",
        "above": [
            {"input_tokens": 200_000, "input_usd_per_mtok": 2},
            {"input_tokens": 500_000, "input_usd_per_mtok": 4, "cached_input_usd_per_mtok": "0.4"},
        ],
        "service_tiers": {
            "batch": {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": 5},
            "priority": {
                "input_usd_per_mtok": 3,
                "above": [{"input_tokens": 200_000, "input_usd_per_mtok": 6, "output_usd_per_mtok": 60}],
            },
        },
    }
)


@pytest.mark.parametrize(
    ("usage", "micros"),
    [
        (Usage(200_000, output_tokens=10), 200_000 + 100),
        (Usage(200_001, 100_000, output_tokens=10), 2 * 100_001 + 10_000 + 100),
        (Usage(600_000, 100_000), 4 * 500_000 + 40_000),
        (Usage(1_000, 500, output_tokens=10, service_tier="batch"), 250 + 50 + 50),
        (Usage(300_000, output_tokens=10, service_tier="batch"), 150_000 + 50),
        (Usage(1_000, output_tokens=10, service_tier="priority"), 3_000 + 100),
        (Usage(300_000, output_tokens=10, service_tier="priority"), 1_800_000 + 600),
        (Usage(1_000, output_tokens=10, service_tier="default"), 1_000 + 100),
    ],
)
def test_long_inputs_and_service_tiers_have_prices_of_their_own(usage: Usage, micros: int) -> None:
    assert money.cost(usage, priced(STEPPED)) == Decimal(micros) / 1_000_000


def test_audio_and_hour_long_writes_are_parts_of_what_they_are_in() -> None:
    price = TokenPrice(
        input_usd_per_mtok=Decimal(1),
        output_usd_per_mtok=Decimal(2),
        cache_write_usd_per_mtok=Decimal(10),
        cache_write_1h_usd_per_mtok=Decimal(20),
        audio_input_usd_per_mtok=Decimal(100),
        audio_output_usd_per_mtok=Decimal(200),
    )
    usage = Usage(100, 10, 20, 50, 5, cache_write_1h_tokens=8, audio_input_tokens=30, audio_output_tokens=40)
    micros = 40 + 10 + 12 * 10 + 8 * 20 + 30 * 100 + 5 * 2 + 5 * 2 + 40 * 200
    assert money.cost(usage, priced(price)) == Decimal(micros) / 1_000_000


def test_images_have_a_price_of_their_own_where_one_is_stated() -> None:
    plain = TokenPrice(input_usd_per_mtok=Decimal(5), output_usd_per_mtok=Decimal(2))
    usage = Usage(100, output_tokens=10, image_input_tokens=80)
    assert money.cost(usage, priced(plain)) == Decimal(100 * 5 + 10 * 2) / 1_000_000
    seen = plain.model_copy(update={"image_input_usd_per_mtok": Decimal(8)})
    assert money.cost(usage, priced(seen)) == Decimal(20 * 5 + 80 * 8 + 10 * 2) / 1_000_000


def test_images_drawn_have_a_price_of_their_own_where_one_is_stated() -> None:
    plain = TokenPrice(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
    usage = Usage(10, output_tokens=100, reasoning_tokens=15, audio_output_tokens=20, image_output_tokens=60)
    assert money.cost(usage, priced(plain)) == Decimal(10 + 100 * 2) / 1_000_000
    drawn = plain.model_copy(update={"image_output_usd_per_mtok": Decimal(30)})
    assert money.cost(usage, priced(drawn)) == Decimal(10 + 40 * 2 + 60 * 30) / 1_000_000
