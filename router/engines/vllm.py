"""vLLM (docs.vllm.ai, "Production Metrics", "OpenAI-Compatible Server").

Streams state usage in a last chunk without choices when asked to. Cached tokens are null in it unless the server was
started with the flag below. V1 renamed the cache gauge and turned hit rates into counters of tokens. LoRA adapters are
listed beside their base model, which they name as ``parent``. Data-parallel engines differ in the label ``engine``.
"""

from router.engines.engine import Engine

ENGINE = Engine(
    base_url="http://127.0.0.1:8000/v1",
    health="/health",
    metrics="/metrics",
    names={
        "waiting": ("vllm:num_requests_waiting",),
        "running": ("vllm:num_requests_running",),
        "kv_use": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "prefix_hits": ("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits"),
        "prefix_queries": ("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries"),
        "prefix_hit_rate": ("vllm:gpu_prefix_cache_hit_rate",),
        "drafted": ("vllm:spec_decode_num_draft_tokens",),
        "accepted": ("vllm:spec_decode_num_accepted_tokens",),
        "accepted_first": ('vllm:spec_decode_num_accepted_tokens_per_pos{position="0"}',),
        "drafts": ("vllm:spec_decode_num_drafts",),
        "draft_acceptance": ("vllm:spec_decode_draft_acceptance_rate",),
        "ttft_seconds": ("vllm:time_to_first_token_seconds_sum",),
        "ttft_count": ("vllm:time_to_first_token_seconds_count",),
        "generated": ("vllm:generation_tokens",),
        "prefilled": ("vllm:prompt_tokens",),
        "prefill_seconds": ("vllm:request_prefill_time_seconds_sum",),
    },
    cache_info=("vllm:cache_config_info", ("num_gpu_blocks", "block_size")),
    flags={"cached tokens": "--enable-prompt-tokens-details", "prefix cache": "--enable-prefix-caching"},
    window=("max_model_len",),
    context_errors=(
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, "
        "100 in the completion). Please reduce the length of the messages or completion.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    ),
)
