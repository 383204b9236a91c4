"""Inference engines: one module for each kind, with what Tierwise knows of it; one registry.

A new engine is one module with an `Engine`, one line here, and its kind in the policy's schema.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.engines import llamacpp, ollama, openai, sglang, tensorrt_llm, tgi, transformers, vllm
from router.engines.engine import Engine

ENGINES: Mapping[str, Engine] = {
    "openai": openai.ENGINE,
    "vllm": vllm.ENGINE,
    "sglang": sglang.ENGINE,
    "tensorrt-llm": tensorrt_llm.ENGINE,
    "llamacpp": llamacpp.ENGINE,
    "ollama": ollama.ENGINE,
    "tgi": tgi.ENGINE,
    "transformers": transformers.ENGINE,
    "simulated": vllm.ENGINE,
}
"""Engines by a backend's kind. A simulated backend speaks as vLLM does."""


def engine_of(kind: str) -> Engine:
    """The engine of a backend's kind; kinds of which nothing more is known are plain ``openai``."""
    return ENGINES.get(kind, openai.ENGINE)
