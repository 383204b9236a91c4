"""Any other server that speaks OpenAI's protocol: nothing more is known of it."""

from router.engines.engine import Engine

ENGINE = Engine(base_url="https://api.openai.com/v1", health="models")
