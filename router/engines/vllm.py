"""vLLM (its documentation, "Production Metrics", v0.5 to v0.32, and "OpenAI-Compatible Server").

Streams state usage in a last chunk without choices when asked to. Cached tokens are null in it unless the server was
started with the flag below. V1 renamed the cache gauge and turned hit rates into counters of tokens; ``prompt_tokens``
count cached ones too, so what was computed is queries minus hits. LoRA adapters are listed beside their base model,
which they name as ``parent``. Data-parallel engines differ in the label ``engine``.
"""

from router.engines.engine import Engine, prefixed

ENGINE = Engine(
    base_url="http://127.0.0.1:8000/v1",
    health="/health",
    metrics="/metrics",
    names=prefixed(
        "vllm:",
        waiting="num_requests_waiting",
        running="num_requests_running",
        kv_use=("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        prefix_hits=("prefix_cache_hits", "gpu_prefix_cache_hits"),
        prefix_queries=("prefix_cache_queries", "gpu_prefix_cache_queries"),
        prefix_hit_rate="gpu_prefix_cache_hit_rate",
        drafted="spec_decode_num_draft_tokens",
        accepted="spec_decode_num_accepted_tokens",
        accepted_first='spec_decode_num_accepted_tokens_per_pos{position="0"}',
        drafts="spec_decode_num_drafts",
        draft_acceptance="spec_decode_draft_acceptance_rate",
        ttft_seconds="time_to_first_token_seconds_sum",
        ttft_count="time_to_first_token_seconds_count",
        generated="generation_tokens",
        prefill_seconds="request_prefill_time_seconds_sum",
    ),
    cache_info=("vllm:cache_config_info", ("num_gpu_blocks", "block_size")),
    flags={"cached tokens": "--enable-prompt-tokens-details", "prefix cache": "--enable-prefix-caching"},
    window=("max_model_len",),
    context_errors=(
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, "
        "100 in the completion). Please reduce the length of the messages or completion.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    ),
)
