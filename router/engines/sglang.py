"""SGLang (its documentation, "Production Metrics", main at 004813e1; metrics collector of v0.5.5 to main).

Tells its metrics only with a flag. Cached tokens stand in usage only with another. ``cache_hit_rate`` is of the latest
prefill batch, so counters of tokens come first where there are any: ``prompt_tokens`` counts cached ones too, and
``cached_tokens`` has one sample for each place they came from. Each rank of a tensor-parallel group may report the same
numbers under its own ``tp_rank``. Without a draft it tells an acceptance length of 0. Some versions write the prefix
``sglang_`` in place of ``sglang:``.
"""

from router.engines.engine import Engine, prefixed

ENGINE = Engine(
    base_url="http://127.0.0.1:30000/v1",
    health="/health",
    metrics="/metrics",
    names=prefixed(
        "sglang:",
        "sglang_",
        waiting="num_queue_reqs",
        running="num_running_reqs",
        kv_use="token_usage",
        kv_tokens="max_total_num_tokens",
        prefix_hits="cached_tokens",
        prefix_queries="prompt_tokens",
        prefix_hit_rate="cache_hit_rate",
        draft_acceptance="spec_accept_rate",
        tokens_per_pass="spec_accept_length",
        tokens_per_second="gen_throughput",
        ttft_seconds="time_to_first_token_seconds_sum",
        ttft_count="time_to_first_token_seconds_count",
        generated="generation_tokens",
    ),
    flags={"metrics": "--enable-metrics", "cached tokens": "--enable-cache-report"},
    window=("max_model_len",),
    context_errors=(
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
        "4200 tokens: 4100 tokens from the input messages and 100 tokens for the completion.",
    ),
)
