"""TensorRT-LLM behind ``trtllm-serve`` (its documentation, "trtllm-serve"; metrics collector of main at 050f80de).

``/metrics`` is JSON of the latest iterations; Prometheus' text is at another path. Requests' own figures (tokens,
times) need one setting, those of iterations (queue, cache, drafts) another; version 1.1 had the first alone. The
acceptance length counts the target's own token, and is 0 where nothing was drafted. ``trtllm:`` in place of
``trtllm_`` is what Dynamo up to 0.7 wrote. ``/v1/models`` tells no window.
"""

from router.engines.engine import Engine, prefixed

ENGINE = Engine(
    base_url="http://127.0.0.1:8000/v1",
    health="/health",
    metrics="/prometheus/metrics",
    names=prefixed(
        "trtllm_",
        "trtllm:",
        waiting="num_requests_waiting",
        running="num_requests_running",
        kv_use="kv_cache_utilization",
        kv_blocks="kv_cache_max_blocks",
        block_tokens="kv_cache_tokens_per_block",
        prefix_hits="prompt_cached_tokens",
        prefix_queries="prompt_tokens",
        prefix_hit_rate="kv_cache_hit_rate",
        drafted="spec_decode_num_draft_tokens",
        accepted="spec_decode_num_accepted_tokens",
        accepted_first='spec_decode_accepted_tokens{token_position="0"}',
        drafts='spec_decode_drafted_tokens{token_position="0"}',
        tokens_per_pass="spec_decode_acceptance_length",
        ttft_seconds="time_to_first_token_seconds_sum",
        ttft_count="time_to_first_token_seconds_count",
        generated="generation_tokens",
        prefill_seconds="request_prefill_time_seconds_sum",
    ),
    flags={"metrics": "return_perf_metrics: true and enable_iter_perf_stats: true in --config"},
    context_errors=(
        "prompt length (3000) should not exceed max_num_tokens (2048)",
        "The sum of prompt length (5000.0) and query length (1.0) should not exceed max_num_tokens (4096)",
    ),
)
