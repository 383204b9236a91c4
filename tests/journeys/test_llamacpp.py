"""A real engine behind the real proxy: llama.cpp on a tiny model with a draft, from request to bill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.launch import running_proxy
from tests.journeys.llamacpp import make_model, running_server
from tests.waiting import eventually

HOUR_USD = 3.6
POLICY = """
version: 1
tiers:
  small:
    backends:
      - name: tiny
        kind: llamacpp
        model: tiny
        base_url: {url}
        precision: int8
        context_window: 4096
        cost: {{gpu_hour_usd: {hour}}}
  large:
    backends:
      - name: big
        kind: simulated
        model: sim
        context_window: 100000
        cost: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
fallback: {{small: [large]}}
scrape: {{interval: 50ms}}
"""
HELLO: Any = [{"role": "user", "content": "Tell me about the tides of Brest."}]


@dataclass(frozen=True, slots=True)
class Models:
    """The same weights thrice, and a draft that is right about half of the time."""

    plain: Path
    int8: Path
    draft: Path


@dataclass(frozen=True, slots=True)
class Setup:
    url: str
    engine: str
    data: Path
    client: openai.OpenAI

    def view(self) -> dict[str, float]:
        found: dict[str, float] = httpx.get(f"{self.url}/engines").json()["tiny"]["view"]
        return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        make_model(folder / "plain.gguf"),
        make_model(folder / "int8.gguf", precision="Q8_0"),
        make_model(folder / "draft.gguf", precision="Q8_0", blend=0.05),
    )


@pytest.fixture(scope="module")
def setup(models: Models, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("proxy")
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_server(models.int8, models.draft) as engine:
        policy = folder / "policy.yaml"
        policy.write_text(POLICY.format(url=engine, hour=HOUR_USD))
        with running_proxy(policy, folder / "data", environ=environ) as proxy:
            proxy.wait_until_ready()
            with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk-test", max_retries=0) as client:
                yield Setup(proxy.url, engine, folder / "data", client)


def test_it_answers_and_is_billed_by_the_gpu_hour(setup: Setup) -> None:
    raw = setup.client.chat.completions.with_raw_response.create(
        model="tier/small", messages=HELLO, max_tokens=40, temperature=0
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert raw.headers["x-tierwise-backend"] == "tiny"
    assert 0 < float(raw.headers["x-tierwise-cost-usd"]) < HOUR_USD / 3600 * 30


def test_it_streams_with_usage_and_reuses_its_prefix(setup: Setup) -> None:
    asked: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0, "stream": True}
    for _ in range(2):
        chunks = list(setup.client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 5
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 40
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens > 20
    assert usage.model_dump()["cost"] > 0


def test_its_speculation_is_watched(setup: Setup) -> None:
    setup.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=100, temperature=0)
    acceptance = eventually(lambda: setup.view().get("draft_acceptance"))
    assert 0 < acceptance < 1
    view = setup.view()
    assert 1 < view["tokens_per_pass"] < 4
    assert view["draft_length"] == pytest.approx(3, abs=0.5)
    told = httpx.get(f"{setup.url}/engines").json()["tiny"]
    assert told["speculation"]["theory"] == pytest.approx(view["tokens_per_pass"], rel=0.5)
    assert told["models"] == [{"id": "tiny", "window": 4096, "base": None}]
    assert told["differences"] == []
    metrics = httpx.get(f"{setup.url}/metrics").text
    assert 'tierwise_engine_draft_acceptance{backend="tiny"}' in metrics
    assert 'tierwise_speculation_theory{backend="tiny"}' in metrics
    assert 'tierwise_engine_kv_use{backend="tiny"}' not in metrics


def engine_says(setup: Setup, metric: str) -> float:
    page = httpx.get(setup.engine.replace("/v1", "/metrics")).text
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"llamacpp:{metric} "))


def test_a_client_that_leaves_stops_the_engine(setup: Setup) -> None:
    before = engine_says(setup, "tokens_predicted_total")
    asked: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 3_500, "stream": True}
    with setup.client.chat.completions.create(**asked, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        eventually(lambda: engine_says(setup, "requests_processing") == 1)
    eventually(lambda: engine_says(setup, "requests_processing") == 0, seconds=5)
    assert engine_says(setup, "tokens_predicted_total") - before < 3_000


def test_an_input_too_long_for_it_goes_on_to_the_next_tier(setup: Setup) -> None:
    """By our estimate it fits, so the engine itself must refuse it, in its own words."""
    odd: Any = [{"role": "user", "content": "ab" * 2_500}]
    raw = setup.client.chat.completions.with_raw_response.create(model="tier/small", messages=odd, max_tokens=8)
    assert raw.headers["x-tierwise-backend"] == "big"
    assert raw.headers["x-tierwise-attempts"] == "2"


def command(*arguments: str) -> Any:
    made = subprocess.run(
        [sys.executable, "-m", "router.cli", *arguments, "--json"], check=True, capture_output=True, text=True
    )
    return json.loads(made.stdout)


def test_the_bill_closes(setup: Setup) -> None:
    """What requests paid and what nobody used are what the hour costs."""

    def report() -> Any:
        return command("report", "--data-dir", str(setup.data), "--by", "precision")

    setup.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10)
    made = eventually(lambda: (found := report()) and found.get("gpus") and found)
    [bill] = made["gpus"]
    assert bill["backend"] == "tiny"
    assert bill["paid_usd"] + bill["idle_usd"] == pytest.approx(bill["billed_usd"])
    assert bill["billed_usd"] == pytest.approx(HOUR_USD * bill["hours"])
    assert "int8" in json.dumps(made["rows"])


def test_bench_compares_quantised_with_not_and_drafted_with_not(models: Models, tmp_path: Path) -> None:
    few = ("--concurrency", "1,2", "--rounds", "3", "--requests", "2", "--max-tokens", "48")
    plot = tmp_path / "bench.png"
    with running_server(models.plain) as plain, running_server(models.int8) as int8:
        made = command("bench", plain, "--vs", int8, *few, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [(s["target"], s["concurrency"]) for s in made["summaries"]] == [
        (plain, 1), (int8, 1), (plain, 2), (int8, 2)
    ]  # fmt: skip
    for summary in made["summaries"]:
        assert summary["errors"] == {}
        assert summary["requests"] == 6
        for figure in ("ttft_p50", "tpot_p50", "tokens_per_second"):
            value = summary[figure]
            assert 0 < value["low"] <= value["value"] <= value["high"]
    assert [d["concurrency"] for d in made["differences"]] == [1, 2]
    for difference in made["differences"]:
        for figure in ("ttft_p50", "tpot_p50", "tokens_per_second"):
            ratio = difference[figure]
            assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    with running_server(models.int8) as alone, running_server(models.int8, models.draft) as drafted:
        made = command("bench", alone, "--vs", drafted, *few)
    speculation = made["engines"][drafted]["speculation"]
    assert 1 < speculation["tokens_per_pass"] < 4
    assert 0 < made["engines"][drafted]["draft_acceptance"] < 1
    assert "speculation" not in made["engines"][alone]
    ratio = made["differences"][0]["tokens_per_second"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
