"""llama.cpp's server (github.com/ggml-org/llama.cpp, tools/server/README.md).

Tells its metrics only with a flag, and nothing of its KV cache. Streams carry ``timings`` beside usage. Speculative
counters exist only when a draft is loaded; the count of drafts and positions came later than the others. An answer
begins only when a slot is free: what waits is "deferred". The window is per slot: ``--ctx-size`` by ``--parallel``.
It promises to keep a connection alive and closes it after every stream; a request sent right after one would be lost.
"""

from router.engines.engine import Engine

ENGINE = Engine(
    base_url="http://127.0.0.1:8080/v1",
    health="/health",
    metrics="/metrics",
    names={
        "waiting": ("llamacpp:requests_deferred",),
        "running": ("llamacpp:requests_processing",),
        "prefix_hits": ("llamacpp:prompt_tokens_cached_total",),
        "prefix_misses": ("llamacpp:prompt_tokens_total",),
        "drafted": ("llamacpp:spec_decode_num_draft_tokens_total",),
        "accepted": ("llamacpp:spec_decode_num_accepted_tokens_total",),
        "accepted_first": ('llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"}',),
        "drafts": ("llamacpp:spec_decode_num_drafts_total",),
        "generated": ("llamacpp:tokens_predicted_total",),
        "prefilled": ("llamacpp:prompt_tokens_total",),
        "prefill_seconds": ("llamacpp:prompt_seconds_total",),
    },
    flags={"metrics": "--metrics"},
    reuses_connections=False,
    window=("meta.n_ctx", "meta.n_ctx_train"),
    context_errors=(
        "request (16023 tokens) exceeds the available context size (2048 tokens), try increasing it",
        "the request exceeds the available context size, try increasing it",
    ),
)
