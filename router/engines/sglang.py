"""SGLang (docs.sglang.io, "Production Metrics").

Tells its metrics only with a flag. Cached tokens stand in usage only with another. ``cache_hit_rate`` is of the latest
prefill batch. Each rank of a tensor-parallel group may report the same numbers under its own ``tp_rank``. Some versions
write the prefix ``sglang_`` in place of ``sglang:``.
"""

from router.engines.engine import Engine


def _both(name: str) -> tuple[str, ...]:
    return (f"sglang:{name}", f"sglang_{name}")


ENGINE = Engine(
    base_url="http://127.0.0.1:30000/v1",
    health="/health",
    metrics="/metrics",
    names={
        "waiting": _both("num_queue_reqs"),
        "running": _both("num_running_reqs"),
        "kv_use": _both("token_usage"),
        "kv_tokens": _both("max_total_num_tokens"),
        "prefix_hit_rate": _both("cache_hit_rate"),
        "draft_acceptance": _both("spec_accept_rate"),
        "tokens_per_pass": _both("spec_accept_length"),
        "tokens_per_second": _both("gen_throughput"),
        "ttft_seconds": _both("time_to_first_token_seconds_sum"),
        "ttft_count": _both("time_to_first_token_seconds_count"),
        "generated": _both("generation_tokens"),
        "prefilled": _both("prompt_tokens"),
    },
    flags={"metrics": "--enable-metrics", "cached tokens": "--enable-cache-report"},
    window=("max_model_len",),
    context_errors=(
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
        "4200 tokens: 4100 tokens from the input messages and 100 tokens for the completion.",
    ),
)
