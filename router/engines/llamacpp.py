"""llama.cpp's server (its tools/server/README.md, master at 00dc8057; builds before and after August 2026).

Tells its metrics only with a flag, and nothing of its KV cache. Prompt tokens are those computed; those reused are
counted beside them since August 2026. Streams carry ``timings`` beside usage. Speculative
counters exist only when a draft is loaded; the count of drafts and positions came later than the others. An answer
begins only when a slot is free: what waits is "deferred". The window is per slot: ``--ctx-size`` by ``--parallel``.
It promises to keep a connection alive and closes it after every stream; a request sent right after one would be lost.
"""

from router.engines.engine import Engine, prefixed

ENGINE = Engine(
    base_url="http://127.0.0.1:8080/v1",
    health="/health",
    metrics="/metrics",
    names=prefixed(
        "llamacpp:",
        waiting="requests_deferred",
        running="requests_processing",
        prefix_hits="prompt_tokens_cached",
        prefix_misses="prompt_tokens",
        drafted="spec_decode_num_draft_tokens",
        accepted="spec_decode_num_accepted_tokens",
        accepted_first='spec_decode_num_accepted_tokens_per_pos{position="0"}',
        drafts="spec_decode_num_drafts",
        generated="tokens_predicted",
        prefill_seconds="prompt_seconds",
    ),
    flags={"metrics": "--metrics"},
    reuses_connections=False,
    window=("meta.n_ctx", "meta.n_ctx_train"),
    context_errors=(
        "request (16023 tokens) exceeds the available context size (2048 tokens), try increasing it",
        "the request exceeds the available context size, try increasing it",
    ),
)
