"""What fits on a GPU, how fast it answers, and where owning it beats a hosted price. Pure arithmetic, formulas cited.

- Weights: parameters × bits of the precision, scales included.
- KV cache of one token: 2 × layers × KV heads × head size × bytes (Kwon et al. 2023, arXiv 2309.06180, section 1).
- Prefill: 2 floating-point operations a parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), at a
  share of the peak that is reached in practice.
- One decoding step of a batch: the longer of reading all weights and the batch's KV cache, and of computing one token a
  sequence (Pope et al. 2022, arXiv 2211.05102, section 2; the roofline model).
- Waiting for other prefills: one server, equal service times (Pollaczek 1930; Khinchine 1932).
- Requests at once: arrivals a second × seconds in the system (Little 1961, doi 10.1287/opre.9.3.383), solved for the
  batch whose own speed sustains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30

MEMORY_SHARE = 0.9
"""Memory that an engine takes for weights and KV cache: vLLM's long-standing ``--gpu-memory-utilization``."""

ACTIVATIONS_GIB = 1.5
"""Kept for activations and graphs on each GPU."""

BANDWIDTH_REACHED = 0.65
"""Share of the peak bandwidth that decoding reaches in practice."""

COMPUTE_REACHED = 0.45
"""Share of the peak arithmetic that prefill reaches in practice."""

BITS: Mapping[str, float] = MappingProxyType({"fp16": 16, "bf16": 16, "fp8": 8, "int8": 8.5, "int4": 4.5, "fp4": 4.5})
"""Bits of one weight with its share of scales: blocks of 32 (GGUF's Q8_0 and Q4_0) or 16 (NVFP4)."""

CACHE_BYTES: Mapping[str, float] = MappingProxyType({"fp16": 2, "bf16": 2, "fp8": 1, "int8": 1})
"""Bytes of one number in the KV cache."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its maker states it: memory in GB (10^9 bytes), bandwidth in GB/s, dense TFLOP/s by number format."""

    name: str
    memory_gb: float
    bandwidth_gbs: float
    bf16_tflops: float
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    int8_tops: float | None = None

    def tflops(self, precision: str) -> float:
        """What it computes in at this precision of weights; 4-bit integers are computed in 16 bits (W4A16)."""
        by = {"fp8": self.fp8_tflops, "fp4": self.fp4_tflops or self.fp8_tflops, "int8": self.int8_tops}
        return by.get(precision) or self.bf16_tflops


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name.lower(): gpu
        for gpu in (
            Gpu("T4", 16, 320, 65, int8_tops=130),
            Gpu("L4", 24, 300, 121, 242, int8_tops=242),
            Gpu("A10", 24, 600, 125, int8_tops=250),
            Gpu("L40S", 48, 864, 362, 733, int8_tops=733),
            Gpu("RTX4090", 24, 1008, 165, 330, int8_tops=661),
            Gpu("RTX5090", 32, 1792, 210, 419, 838, 838),
            Gpu("A100-40", 40, 1555, 312, int8_tops=624),
            Gpu("A100", 80, 2039, 312, int8_tops=624),
            Gpu("H100", 80, 3350, 989, 1979, int8_tops=1979),
            Gpu("H200", 141, 4800, 989, 1979, int8_tops=1979),
            Gpu("B200", 180, 8000, 2250, 4500, 9000, 4500),
            Gpu("MI300X", 192, 5300, 1307, 2614, int8_tops=2614),
        )
    }
)
"""By name in lower case, from the makers' data sheets; without sparsity."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's architecture sizes its KV cache."""

    layers: int
    kv_heads: int
    head_size: int


SHAPES: Mapping[float, Shape] = MappingProxyType(
    {
        0.49e9: Shape(24, 2, 64),
        1.54e9: Shape(28, 2, 128),
        3.09e9: Shape(36, 2, 128),
        7.62e9: Shape(28, 4, 128),
        8.03e9: Shape(32, 8, 128),
        14.8e9: Shape(48, 8, 128),
        32.8e9: Shape(64, 8, 128),
        70.6e9: Shape(80, 8, 128),
        405e9: Shape(126, 8, 128),
    }
)
"""Published shapes of Qwen2.5 and Llama 3.1 models by parameters: what is assumed of a model whose own is not given."""


@dataclass(frozen=True, slots=True)
class Work:
    """A load: tokens of a typical prompt and answer, how much of the prompt is cached, requests a second."""

    input_tokens: int = 1_000
    output_tokens: int = 300
    cached_share: float = 0.0
    requests_per_second: float = 1.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model on one group of GPUs. ``active`` is parameters used for each token, where they differ (MoE)."""

    gpu: Gpu
    gpus: int
    parameters: float
    precision: str
    shape: Shape
    active: float | None = None
    cache_precision: str = "fp16"

    @property
    def weights_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * BITS[self.precision] / 8

    @property
    def cache_bytes_per_token(self) -> float:
        """Bytes of one token in the KV cache."""
        return 2 * self.shape.layers * self.shape.kv_heads * self.shape.head_size * CACHE_BYTES[self.cache_precision]

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds; 0 where not even the weights fit."""
        usable = self.gpus * (self.gpu.memory_gb * 1e9 * MEMORY_SHARE - ACTIVATIONS_GIB * GIB)
        return max(0, int((usable - self.weights_bytes) / self.cache_bytes_per_token))

    @property
    def fits(self) -> bool:
        """Whether the weights fit with some room for a cache."""
        return self.cache_tokens > 0

    def sessions(self, tokens: int) -> int:
        """Conversations of this length that the cache holds at once."""
        return self.cache_tokens // max(1, tokens)

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens computed in a second when nothing else runs."""
        flops = self.gpus * self.gpu.tflops(self.precision) * 1e12 * COMPUTE_REACHED
        return flops / (2 * (self.active or self.parameters))

    def step_seconds(self, batch: float, tokens: float) -> float:
        """One decoding step of ``batch`` sequences with ``tokens`` each in the cache; experts are read as used."""
        experts = min(1.0, batch * (self.active or self.parameters) / self.parameters)
        read = self.weights_bytes * experts + batch * tokens * self.cache_bytes_per_token
        reading = read / (self.gpus * self.gpu.bandwidth_gbs * 1e9 * BANDWIDTH_REACHED)
        return max(reading, batch / self.prefill_tokens_per_second)


@dataclass(frozen=True, slots=True)
class Service:
    """How a deployment serves a load: ``copies`` of it are needed, each with ``batch`` requests at once.

    ``capacity`` is the requests a second that one copy sustains. ``ttft_ms`` is the prompt's own prefill, the wait for
    those before it, and a step; ``tpot_ms`` is a step and the prefills that interrupt it. Both are in milliseconds.
    """

    copies: int
    batch: float
    capacity: float
    ttft_ms: float
    tpot_ms: float


def seconds_per_request(where: Deployment, work: Work, batch: float) -> float:
    """Seconds of one request among ``batch``: its prefill, the prefills that interrupt it, and its steps."""
    prefill = work.input_tokens * (1 - work.cached_share) / where.prefill_tokens_per_second
    steps = work.output_tokens * where.step_seconds(batch, work.input_tokens + work.output_tokens / 2)
    return batch * prefill + steps


def capacity(where: Deployment, work: Work) -> tuple[float, float]:
    """The most requests a second that one copy sustains, and how many are then at once; both 0 where it cannot.

    Throughput batch / seconds grows with the batch, so the largest batch that fits is the best.
    """
    batch = float(min(where.sessions(work.input_tokens + work.output_tokens), 1_024))
    return (batch / seconds_per_request(where, work, batch), batch) if batch >= 1 else (0.0, 0.0)


def serve(where: Deployment, work: Work) -> Service | None:
    """How the load is served, with as many copies as it takes; None where one request does not fit."""
    most, largest = capacity(where, work)
    if not most:
        return None
    copies = max(1, math.ceil(work.requests_per_second / most - 1e-9))
    rate = work.requests_per_second / copies
    low, high = 0.0, largest
    for _ in range(60):
        middle = (low + high) / 2
        if middle < rate * seconds_per_request(where, work, middle):
            low = middle
        else:
            high = middle
    prefill = work.input_tokens * (1 - work.cached_share) / where.prefill_tokens_per_second
    step = where.step_seconds(max(1.0, high), work.input_tokens + work.output_tokens / 2)
    interrupted = high * prefill / max(1, work.output_tokens)
    busy = min(rate * prefill, 0.999)
    wait = busy * prefill / (2 * (1 - busy))
    return Service(copies, high, most, 1e3 * (prefill + wait + step), 1e3 * (step + interrupted))


def usd_per_mtok(hour_usd: float, copies: int, work: Work) -> float | None:
    """Dollars for a million tokens, in and out together, at this load; None without load."""
    tokens = 3600 * work.requests_per_second * (work.input_tokens + work.output_tokens)
    return 1e6 * hour_usd * copies / tokens if tokens else None


def hosted_usd(work: Work, input_usd_per_mtok: float, output_usd_per_mtok: float) -> float:
    """Dollars of one request at a hosted price."""
    return (work.input_tokens * input_usd_per_mtok + work.output_tokens * output_usd_per_mtok) / 1e6


def break_even(hour_usd: float, request_usd: float) -> float | None:
    """Requests a second from which on one copy costs less than a hosted price; None where hosted requests are free."""
    return hour_usd / 3600 / request_usd if request_usd else None


def shape_of(parameters: float) -> tuple[float, Shape]:
    """The published shape nearest in size, and the size that it belongs to."""
    size = min(SHAPES, key=lambda known: abs(math.log(known / parameters)))
    return size, SHAPES[size]
