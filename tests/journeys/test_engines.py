"""Engines seen through the real proxy: scraped, shown, chosen by, and unknown when they say nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from policies.schema import Simulation
from router.backends.simulator import Simulator
from router.launch import running_proxy
from tests.waiting import eventually

POLICY = """
version: 1
tiers:
  small:
    backends:
      - {name: one, kind: simulated, model: sim, cost: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}, context_window: 65536, precision: fp16, simulate: {ttft: 5ms, tokens_per_second: 2000}}
      - {name: two, kind: simulated, model: sim, cost: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}, context_window: 65536, precision: int4, simulate: {ttft: 5ms, tokens_per_second: 2000}}
      - {name: deaf, kind: vllm, model: sim, base_url: "http://127.0.0.1:9/v1", cost: {gpu_hour_usd: 1}, context_window: 65536}
session: {sticky: false}
scrape: {interval: 50ms, stale: 5s}
"""  # noqa: E501


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("engines")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    with running_proxy(policy, folder / "data", environ={**os.environ, "TIERWISE_CACHE_DIR": str(cache)}) as proxy:
        proxy.wait_until_ready()
        yield proxy.url


def ask(url: str, system: str, question: str, model: str = "tier/small") -> httpx.Response:
    messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": model, "messages": messages}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def shown(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/engines").json()
    return found


def test_what_engines_say_is_shown_and_what_they_do_not_is_absent(url: str) -> None:
    ask(url, "Be brief. " * 400, "Why?", model="one")
    ask(url, "Be brief. " * 400, "How?", model="one")
    eventually(lambda: shown(url)["one"]["view"].get("prefix_hit_rate"))
    engines = shown(url)
    assert 0 < engines["one"]["view"]["prefix_hit_rate"] < 1
    assert "kv_use" not in engines["one"]["view"]
    assert engines["one"]["models"] == [{"id": "sim", "window": 65536, "base": None}]
    assert engines["deaf"]["view"] == {}
    assert "does not accept connections" in engines["deaf"]["problem"]
    told = {
        (sample.name, sample.labels["backend"])
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        for sample in family.samples
        if sample.name.startswith("tierwise_engine_")
    }
    assert ("tierwise_engine_running", "one") in told
    assert ("tierwise_engine_kv_use", "one") not in told
    assert not [name for name, backend in told if backend == "deaf"]


def test_a_prefix_goes_where_it_is_warm(url: str) -> None:
    system = "You answer questions about the tide tables of Brest. " * 200
    ask(url, system, "When is high tide?", model="two")
    answer = ask(url, system, "And low tide?")
    assert answer.headers["x-tierwise-backend"] == "two"
    assert "tokens of it warm" in answer.headers["x-tierwise-reason"]
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 1_000
    route = httpx.post(
        f"{url}/v1/route", json={"model": "tier/small", "messages": [{"role": "system", "content": system}]}
    )
    assert route.json()["steps"][0]["backend"] == "two"


def test_the_report_keeps_precisions_apart(url: str) -> None:
    """The same model twice, at two precisions: cost, errors and latency are told for each."""
    for backend in ("one", "two"):
        ask(url, "Be brief.", "Which precision are you?", model=backend)

    def rows() -> dict[str, Any]:
        report = httpx.get(f"{url}/report", params={"by": "precision"}).json()
        return {row["precision"]: row for row in report["rows"]}

    eventually(lambda: {"fp16", "int4"} <= rows().keys())
    for row in rows().values():
        assert row["requests"] > 0
        assert row["cost_usd"] > 0


def test_a_window_that_the_policy_does_not_state_is_the_servers_own(tmp_path: Path, cache: Path) -> None:
    """Known once the server has told: what does not fit is not even sent there."""
    simulator = Simulator("sim", Simulation(), context_window=900)
    simulator.start()
    (tmp_path / "policy.yaml").write_text(WINDOWLESS.format(url=simulator.url))
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(tmp_path / "policy.yaml", tmp_path / "data", environ=environ) as proxy:
        proxy.wait_until_ready()
        eventually(lambda: all(shown(proxy.url)[name]["window"] == 900 for name in ("tells", "plain")))
        long = {"model": "tier/small", "messages": [{"role": "user", "content": "tide " * 1_000}], "max_tokens": 5}
        route = httpx.post(f"{proxy.url}/v1/route", json=long).json()
        assert [step["backend"] for step in route["steps"]] == ["big"]
        assert httpx.post(f"{proxy.url}/v1/chat/completions", json=long).headers["x-tierwise-attempts"] == "1"
        assert ask(proxy.url, "Be brief.", "Why?").headers["x-tierwise-tier"] == "small"
    simulator.stop()


WINDOWLESS = """
version: 1
tiers:
  small:
    backends:
      - {{name: tells, kind: vllm, model: sim, base_url: "{url}", cost: {{gpu_hour_usd: 1}}}}
      - {{name: plain, kind: openai, model: sim, base_url: "{url}", cost: {{gpu_hour_usd: 1}}}}
  large:
    backends: [{{name: big, kind: simulated, model: b, context_window: 65536, cost: {{gpu_hour_usd: 1}}}}]
fallback: {{small: [large]}}
scrape: {{interval: 50ms}}
"""
