"""``tierwise advise``: what fits on a GPU, what it costs at a load, and where owning it beats a hosted price."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.sizing import Deployment, Service, Work


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--gpu", required=True, metavar="NAME", help="such as L4, A100, H100, H200, B200, RTX4090")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="that hold the model together (default: 1)")
    parser.add_argument("--gpu-hour-usd", type=float, metavar="USD", help="what one of them costs for an hour")
    parser.add_argument("--model-params", type=float, required=True, metavar="N", help="parameters, such as 70e9")
    parser.add_argument("--active-params", type=float, metavar="N", help="used for each token, where fewer (MoE)")
    parser.add_argument("--precision", default="bf16", help="of weights: bf16, fp8, int8, int4, fp4 (default: bf16)")
    parser.add_argument("--kv-precision", default="fp16", help="of the KV cache: fp16, fp8, int8 (default: fp16)")
    parser.add_argument("--layers", type=int, metavar="N", help="layers, (default: as published models of this size)")
    parser.add_argument("--kv-heads", type=int, metavar="N", help="heads of keys and values")
    parser.add_argument("--head-size", type=int, metavar="N", help="numbers in one head")
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS", help="of a conversation (default: 8192)")
    parser.add_argument("--input-tokens", type=int, default=1000, metavar="N", help="of a prompt (default: 1000)")
    parser.add_argument("--output-tokens", type=int, default=300, metavar="N", help="of an answer (default: 300)")
    parser.add_argument("--cached-share", type=float, default=0.0, metavar="0..1", help="of the prompt found in cache")
    parser.add_argument("--load", type=float, default=1.0, metavar="RPS", help="requests a second (default: 1)")
    parser.add_argument("--hosted-input-usd", type=float, metavar="USD", help="hosted price of a million input tokens")
    parser.add_argument("--hosted-output-usd", type=float, metavar="USD", help="the same of output tokens")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Advise; 1 when the model does not fit, 2 when an option makes no sense."""
    try:
        where, assumed = _deployment(args)
        work = _work(args)
    except ValueError as error:
        print(f"tierwise advise: {error}", file=sys.stderr)
        return 2
    figures = _figures(args, where, work)
    if args.json:
        print(json.dumps({**figures, "assumed": assumed}, indent=2))
    else:
        print(f"{where.parameters / 1e9:g}B parameters in {where.precision} on {where.gpus} × {where.gpu.name}")
        for label, text in (*_lines(args, figures), *([("assumed", assumed)] if assumed else [])):
            print(f"  {label:<16} {text}")
    return 0 if where.fits and figures["service"] is not None else 1


def _deployment(args: argparse.Namespace) -> tuple[Deployment, str]:
    """What is asked about, and what had to be assumed of it."""
    from policies.problems import listing, nearest
    from policies.sizing import BITS, CACHE_BYTES, GPUS, Deployment, Shape, shape_of

    gpu = GPUS.get(args.gpu.lower().replace(" ", ""))
    if gpu is None:
        names = [known.name for known in GPUS.values()]
        raise ValueError(f"the GPU {args.gpu!r} is not known. {nearest(args.gpu, names)} There are: {listing(names)}.")
    for option, value, known in (
        ("--precision", args.precision, BITS),
        ("--kv-precision", args.kv_precision, CACHE_BYTES),
    ):
        if value not in known:
            raise ValueError(f"{option} {value!r} is not known. There are: {listing(list(known))}.")
    if args.model_params <= 0 or args.gpus < 1 or (args.active_params is not None and args.active_params <= 0):
        raise ValueError("--model-params, --active-params and --gpus must be positive")
    size, published = shape_of(args.model_params)
    shape = Shape(
        args.layers or published.layers, args.kv_heads or published.kv_heads, args.head_size or published.head_size
    )
    assumed = f"layers and heads of published {size / 1e9:g}B models; state --layers, --kv-heads, --head-size"
    if args.layers and args.kv_heads and args.head_size:
        assumed = ""
    active = min(args.active_params, args.model_params) if args.active_params else None
    return Deployment(gpu, args.gpus, args.model_params, args.precision, shape, active, args.kv_precision), assumed


def _work(args: argparse.Namespace) -> Work:
    from policies.sizing import Work

    if min(args.input_tokens, args.output_tokens, args.context) < 1 or args.load <= 0 or not 0 <= args.cached_share < 1:
        raise ValueError("tokens and --load must be positive, --cached-share at least 0 and below 1")
    return Work(args.input_tokens, args.output_tokens, args.cached_share, args.load)


def _figures(args: argparse.Namespace, where: Deployment, work: Work) -> dict[str, Any]:
    from policies import sizing

    service: Service | None = sizing.serve(where, work) if where.fits else None
    hour = None if args.gpu_hour_usd is None else args.gpu_hour_usd * where.gpus
    hosted = None
    if args.hosted_input_usd is not None and args.hosted_output_usd is not None:
        hosted = sizing.hosted_usd(work, args.hosted_input_usd, args.hosted_output_usd)
    even = None if hour is None or hosted is None else sizing.break_even(hour, hosted)
    return {
        "fits": where.fits,
        "weights_gb": where.weights_bytes / 1e9,
        "memory_gb": where.gpus * where.gpu.memory_gb,
        "kv_bytes_per_token": where.cache_bytes_per_token,
        "kv_tokens": where.cache_tokens,
        "kv_gb_per_conversation": where.cache_bytes_per_token * args.context / 1e9,
        "sessions": where.sessions(args.context),
        "prefill_tokens_per_second": where.prefill_tokens_per_second,
        "service": asdict(service) if service else None,
        "hour_usd": hour,
        "usd_per_mtok": sizing.usd_per_mtok(hour, service.copies, work) if hour is not None and service else None,
        "usd_per_mtok_full": _full(hour, service, work),
        "hosted_usd_per_mtok": None if hosted is None else 1e6 * hosted / (work.input_tokens + work.output_tokens),
        "break_even_rps": even,
        "owning_wins": _cheaper(hour, service, work, hosted),
    }


def _full(hour: float | None, service: Service | None, work: Work) -> float | None:
    """Dollars a million tokens where one copy is loaded to its capacity."""
    from dataclasses import replace

    from policies.sizing import usd_per_mtok

    if hour is None or service is None:
        return None
    return usd_per_mtok(hour, 1, replace(work, requests_per_second=service.capacity))


def _cheaper(hour: float | None, service: Service | None, work: Work, hosted: float | None) -> bool | None:
    """Whether owning costs less than the hosted price at this very load; None where either price is unknown."""
    if hour is None or service is None or hosted is None:
        return None
    return hour * service.copies < 3600 * work.requests_per_second * hosted


def _lines(args: argparse.Namespace, f: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures for people, as labels and texts."""
    yield "weights", f"{f['weights_gb']:.1f} GB of {f['memory_gb']:.0f} GB"
    if not f["fits"]:
        yield "fits", "no: use more GPUs, a larger one, or a lower precision"
        return
    yield "KV cache", f"{f['kv_bytes_per_token'] / 1e3:.0f} kB a token, {f['kv_tokens']:,} tokens in all"
    each = f"{f['kv_gb_per_conversation']:.2f} GB each"
    yield "conversations", f"{f['sessions']:,} of {args.context:,} tokens at once, {each}"
    yield "prefill", f"{f['prefill_tokens_per_second']:,.0f} tokens/s when nothing else runs"
    service = f["service"]
    if service is None:
        yield "serves", "nothing: one request of this size does not fit into the KV cache"
        return
    yield "one copy", f"{service['capacity']:.2f} requests/s of {args.input_tokens:,}+{args.output_tokens:,} tokens"
    times = f"first token after {service['ttft_ms']:,.0f} ms, {service['tpot_ms']:.1f} ms a token"
    yield f"{args.load:g} requests/s", f"copies: {service['copies']}, {service['batch']:.1f} at once in each, {times}"
    if f["usd_per_mtok"] is None:
        yield "cost", "unpriced: state --gpu-hour-usd"
    else:
        full = f"${f['usd_per_mtok_full']:.3f} when full"
        yield "cost", f"${f['usd_per_mtok']:.3f} a million tokens at this load, {full}"
    if f["break_even_rps"] is not None:
        reach = f"{f['break_even_rps']:.3f} requests/s"
        least = f"owning one copy wins from {reach} on"
        never = f"owning never wins: it would take {reach}, more than a copy sustains"
        wins = least if f["break_even_rps"] <= service["capacity"] else never
        yield "hosted", f"${f['hosted_usd_per_mtok']:.3f} a million tokens; {wins}"
