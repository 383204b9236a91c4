"""Sizing against published figures, and against itself."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.sizing import (
    BITS,
    GPUS,
    Deployment,
    Shape,
    Work,
    break_even,
    capacity,
    hosted_usd,
    seconds_per_request,
    serve,
    shape_of,
    usd_per_mtok,
)

LLAMA_70B = Deployment(GPUS["h200"], 1, 70.6e9, "int4", Shape(80, 8, 128))
CHAT = Work(1_000, 300, requests_per_second=1.0)


def test_kv_cache_of_a_token_as_published() -> None:
    """OPT-13B: 800 KB a token (Kwon et al. 2023, section 3); Llama 3 70B: 320 KiB."""
    opt = Deployment(GPUS["a100"], 1, 13e9, "fp16", Shape(40, 40, 128))
    assert opt.cache_bytes_per_token == 819_200
    assert LLAMA_70B.cache_bytes_per_token == 320 * 1024
    assert replace(LLAMA_70B, cache_precision="fp8").cache_bytes_per_token == 160 * 1024


def test_what_fits_as_everybody_knows() -> None:
    whole = replace(LLAMA_70B, precision="bf16")
    assert whole.weights_bytes == pytest.approx(141e9, rel=0.01)
    assert not whole.fits
    assert replace(whole, gpus=2).fits
    assert LLAMA_70B.fits
    assert Deployment(GPUS["rtx4090"], 1, 7.6e9, "int4", Shape(28, 4, 128)).sessions(8_192) > 20
    assert serve(whole, CHAT) is None


def test_decoding_alone_is_bound_by_bandwidth() -> None:
    """One sequence: at most bandwidth / weights, about 120 tokens/s for 40 GB on an H200; less in practice."""
    assert 1 / LLAMA_70B.step_seconds(1, 500) == pytest.approx(0.65 * 4_800e9 / 39.8e9, rel=0.02)
    large = LLAMA_70B.step_seconds(10_000, 0)
    assert large == pytest.approx(10_000 / LLAMA_70B.prefill_tokens_per_second)


def test_low_precision_computes_as_the_hardware_does() -> None:
    h100, b200, a100 = GPUS["h100"], GPUS["b200"], GPUS["a100"]
    assert (h100.tflops("int4"), h100.tflops("fp8"), h100.tflops("fp4")) == (989, 1979, 1979)
    assert (b200.tflops("fp4"), a100.tflops("fp8"), a100.tflops("int8")) == (9000, 312, 624)


def test_experts_are_read_as_they_are_used() -> None:
    mixture = replace(LLAMA_70B, active=7e9)
    assert mixture.step_seconds(1, 0) < LLAMA_70B.step_seconds(1, 0) / 5
    assert mixture.step_seconds(64, 0) == pytest.approx(LLAMA_70B.step_seconds(1, 0))


def test_a_price_against_a_hosted_one() -> None:
    request = hosted_usd(CHAT, 0.6, 0.7)
    assert request == pytest.approx(0.00081)
    load = break_even(3.5, request)
    assert load == pytest.approx(1.2, abs=0.01)
    same = usd_per_mtok(3.5, 1, replace(CHAT, requests_per_second=load))
    assert same == pytest.approx(1e6 * request / 1_300)
    assert break_even(3.5, 0.0) is None
    assert usd_per_mtok(3.5, 1, replace(CHAT, requests_per_second=0.0)) is None


@pytest.mark.parametrize(
    ("parameters", "size"), [(7e9, 7.62e9), (8e9, 8.03e9), (70e9, 70.6e9), (1e9, 1.54e9), (1e12, 405e9)]
)
def test_a_shape_is_assumed_from_the_nearest_published_size(parameters: float, size: float) -> None:
    assert shape_of(parameters)[0] == size


deployments = st.builds(
    lambda gpu, gpus, size, precision: Deployment(gpu, gpus, size, precision, shape_of(size)[1]),
    st.sampled_from(list(GPUS.values())), st.integers(1, 8), st.floats(0.5e9, 400e9), st.sampled_from(sorted(BITS)),
)  # fmt: skip
works = st.builds(Work, st.integers(1, 20_000), st.integers(1, 4_000), st.floats(0, 0.95), st.floats(0.001, 200))


@given(deployments, works)
def test_a_load_is_sustained_by_the_copies_that_it_is_given(where: Deployment, work: Work) -> None:
    service = serve(where, work)
    most, batch = capacity(where, work)
    assert (service is None) == (batch < 1)
    assume(service is not None)
    assert work.requests_per_second <= service.copies * service.capacity * (1 + 1e-6)
    assert service.copies == 1 or work.requests_per_second > (service.copies - 1) * most
    rate = work.requests_per_second / service.copies
    assert service.batch == pytest.approx(rate * seconds_per_request(where, work, service.batch), rel=1e-3, abs=1e-6)
    assert service.ttft_ms > 0
    assert service.tpot_ms > 0


@given(deployments, works, st.floats(1, 4))
def test_more_load_never_answers_sooner(where: Deployment, work: Work, more: float) -> None:
    now, later = serve(where, work), serve(where, replace(work, requests_per_second=more * work.requests_per_second))
    assume(now is not None and later is not None and now.copies == later.copies)
    assert later.ttft_ms >= now.ttft_ms * (1 - 1e-6)
    assert later.batch >= now.batch * (1 - 1e-6)


@given(deployments, works)
def test_a_warm_prefix_never_costs_capacity(where: Deployment, work: Work) -> None:
    assume(capacity(where, work)[0])
    assert (
        capacity(where, replace(work, cached_share=min(0.99, work.cached_share + 0.04)))[0] >= capacity(where, work)[0]
    )
