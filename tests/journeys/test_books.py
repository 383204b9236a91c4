"""From requests to the report: totals equal the sum of entries, and the entries equal what upstream said."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from router.launch import running_proxy
from router.ledger.codec import decode
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from tests.journeys.conftest import POLICY

PROMPTS = (
    "Hi!",
    "What is the capital of France?",
    "Prove that every finite integral domain is a field.",
    "Write a Python function that merges two sorted lists.",
    "Tell me a joke.",
)


def run_report(data_dir: Path, *options: str) -> str:
    command = [sys.executable, "-m", "router.cli", "report", "--data-dir", str(data_dir), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_totals_equal_the_sum_of_entries(tmp_path: Path, cache: Path) -> None:
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(POLICY)
    spent, tokens = 0, 0
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, data, environ=environ) as proxy, httpx.Client(base_url=proxy.url, timeout=30) as client:
        proxy.wait_until_ready(part="full")
        for number in range(3):
            for prompt in PROMPTS:
                body = {"model": "auto", "messages": [{"role": "user", "content": f"{prompt} ({number})"}]}
                response = client.post("/v1/chat/completions", json=body)
                usage = response.raise_for_status().json()["usage"]
                tokens += usage["total_tokens"]
                spent += round(float(response.headers["x-tierwise-cost-usd"]) * 1e9)
        assert (
            client.post("/v1/chat/completions", json={"model": "nope", "messages": body["messages"]}).status_code == 404
        )
    journal = JournalFile(data / JOURNAL_NAME, create=False)
    entries = [decode(body) for body in journal.bodies(0, time.time() + 1)]
    journal.close()
    assert len(entries) == 16
    assert all(not entry.features.text for entry in entries)
    found: dict[str, Any] = json.loads(run_report(data, "--json"))
    total = found["total"]
    assert total["requests"] == 16
    assert total["cost_nanos"] == sum(entry.cost_nanos or 0 for entry in entries) == spent
    assert total["input_tokens"] + total["output_tokens"] == tokens
    assert sum(row["cost_nanos"] for row in found["rows"]) == spent
    assert total["saving_nanos"] == sum(
        (entry.baseline_nanos or 0) - (entry.cost_nanos or 0) - entry.proxy_nanos for entry in entries
    )
    assert all(entry.proxy_nanos > 0 for entry in entries)
    assert json.loads(run_report(data, "--json", "--journal", str(data / JOURNAL_NAME)))["total"] == total


def test_the_report_speaks_every_format_and_dimension(tmp_path: Path) -> None:
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(POLICY)
    with running_proxy(policy, data) as proxy:
        proxy.wait_until_ready()
        for model in ("tier/small", "tier/large"):
            body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
            assert httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
        deadline = time.monotonic() + 10
        served = httpx.get(f"{proxy.url}/report", params={"by": "tier,backend"}).json()
        while served["total"]["requests"] < 2 and time.monotonic() < deadline:
            served = httpx.get(f"{proxy.url}/report", params={"by": "tier,backend"}).json()
    for by in ("tier", "model", "backend", "domain", "key", "hour", "day"):
        assert sum(row["requests"] for row in json.loads(run_report(data, "--json", "--by", by))["rows"]) == 2
    assert served["total"]["requests"] == 2
    rows = list(csv.DictReader(io.StringIO(run_report(data, "--format", "csv"))))
    assert {row["tier"] for row in rows} >= {"small", "large"}
    assert "| small" in run_report(data, "--format", "markdown")
    assert "small" in run_report(data)


def test_an_unpriced_backend_is_counted_and_never_zero(tmp_path: Path) -> None:
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(POLICY.replace("        cost: {input_usd_per_mtok: 0.10, output_usd_per_mtok: 0.20}\n", ""))
    with running_proxy(policy, data) as proxy:
        proxy.wait_until_ready()
        body = {"model": "tier/small", "messages": [{"role": "user", "content": "Hello!"}]}
        response = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30)
        assert response.status_code == 200
        assert "x-tierwise-cost-usd" not in response.headers
    total = json.loads(run_report(data, "--json"))["total"]
    assert total["unpriced"] == 1
    assert "unpriced" in run_report(data)
