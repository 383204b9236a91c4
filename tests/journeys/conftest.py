"""A real proxy on a real port, in front of simulated backends, on the embedded store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from router.launch import Proxy, running_proxy

POLICY = """
version: 1
tiers:
  small:
    trained_as: qwen2.5-7b-instruct
    backends:
      - name: small-1
        kind: simulated
        model: sim-small
        context_window: 8192
        cost: {input_usd_per_mtok: 0.10, output_usd_per_mtok: 0.20}
        simulate: {ttft: 2ms, tokens_per_second: 4000, output_tokens: 40}
  large:
    trained_as: llama3-70b-instruct
    backends:
      - name: large-1
        kind: simulated
        model: sim-large
        context_window: 131072
        supports: [tools, json_mode, json_schema, logprobs, vision]
        cost: {input_usd_per_mtok: 2.50, output_usd_per_mtok: 10.00}
        simulate: {ttft: 2ms, tokens_per_second: 4000, output_tokens: 60}
baseline: large
objective: {keep_quality: 0.9}
objectives:
  cheap: {tradeoff: 1}
aliases: {gpt-4o-mini: tier/small}
limits: {body_bytes: 200000}
classifier: {deadline: 20s}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy under test, with the ways to talk to it."""

    proxy: Proxy
    policy: Path
    data_dir: Path
    closing: ExitStack

    @property
    def url(self) -> str:
        return self.proxy.url

    def client(self, key: str = "sk-test-journeys") -> openai.OpenAI:
        return self.closing.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0))

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="sk-test-journeys", max_retries=0)

    def post(self, path: str, **options: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=30, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared encoder: the user's own cache when there is one, so that a second run need not prepare again."""
    from classifiers.prepare import prepare
    from router.cli import cache_dir

    prepare(cache_dir())
    return cache_dir()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("journey")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, folder / "data", environ=environ) as proxy:
        proxy.wait_until_ready(part="full")
        with ExitStack() as closing:
            yield Running(proxy, policy, folder / "data", closing)
