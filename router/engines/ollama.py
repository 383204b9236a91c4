"""Ollama (github.com/ollama/ollama, docs/openai.md).

Has no metrics, states no cached tokens, and cuts an input that is longer than ``num_ctx`` without saying so: state
``context_window`` in the policy. Its health is that it lists its models.
"""

from router.engines.engine import Engine

ENGINE = Engine(base_url="http://127.0.0.1:11434/v1", health="models")
