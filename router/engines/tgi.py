"""Hugging Face Text Generation Inference (its documentation, "Metrics").

Events are written ``data:{…}`` without a space. The model is called ``tgi`` whatever it is. A request that is too long
is a 422. Tells of its queue and batch, not of its cache; its speculation (Medusa, n-gram) tells the tokens it skipped.
"""

from router.engines.engine import Engine, prefixed

ENGINE = Engine(
    base_url="http://127.0.0.1:3000/v1",
    health="/health",
    metrics="/metrics",
    names=prefixed(
        "tgi_",
        waiting="queue_size",
        running="batch_current_size",
        generated="request_generated_tokens_sum",
    ),
    context_errors=(
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and "
        "100 `max_new_tokens`",
        "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
    ),
)
