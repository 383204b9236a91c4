"""Hugging Face Text Generation Inference (its documentation, "Metrics").

Events are written ``data:{…}`` without a space. The model is called ``tgi`` whatever it is. A request that is too long
is a 422. Tells of its queue and batch, not of its cache; its speculation (Medusa, n-gram) tells the tokens it skipped.
"""

from router.engines.engine import Engine

ENGINE = Engine(
    base_url="http://127.0.0.1:3000/v1",
    health="/health",
    metrics="/metrics",
    names={
        "waiting": ("tgi_queue_size",),
        "running": ("tgi_batch_current_size",),
        "generated": ("tgi_request_generated_tokens_sum",),
        "prefilled": ("tgi_request_input_length_sum",),
    },
    context_errors=(
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and "
        "100 `max_new_tokens`",
        "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
    ),
)
