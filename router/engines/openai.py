"""Any other server that speaks OpenAI's protocol: nothing more is known of it.

Some tell a model's window beside its name: engines behind another front as they do themselves, Groq as
``context_window``, OpenRouter as ``context_length``, Mistral as ``max_context_length`` (each one's API reference).
"""

from router.engines.engine import Engine

ENGINE = Engine(
    base_url="https://api.openai.com/v1",
    health="models",
    window=("max_model_len", "context_window", "context_length", "max_context_length", "meta.n_ctx"),
)
