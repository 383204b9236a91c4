"""Budgets through the real server: many clients at once never spend more than there is (invariant 6)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from router.launch import running_proxy
from tests.journeys.conftest import POLICY

HELLO = [{"role": "user", "content": "Hello there!"}]


@pytest.mark.anyio
async def test_many_clients_never_overrun_a_budget(tmp_path: Path) -> None:
    limit_usd = 0.0004
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}budgets: [{{name: all, per: day, usd: {limit_usd}, store_away: fail_closed}}]\n")
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        async with httpx.AsyncClient(base_url=proxy.url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:

            async def ask() -> httpx.Response:
                body = {"model": "tier/small", "messages": HELLO, "max_tokens": 60}
                return await client.post("/v1/chat/completions", json=body)

            answers = [answer for _ in range(4) for answer in await asyncio.gather(*(ask() for _ in range(64)))]
    spent = sum(float(answer.headers["x-tierwise-cost-usd"]) for answer in answers if answer.status_code == 200)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert limit_usd * 0.5 < spent <= limit_usd
    assert refused
    for answer in refused:
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "budget_exceeded"
        assert int(answer.headers["retry-after"]) > 0


def test_a_spent_budget_downgrades(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}budgets: [{{name: calls, per: day, requests: 2, on_exceeded: downgrade}}]\n")
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        tiers = []
        for _ in range(4):
            body = {"model": "tier/large", "messages": HELLO}
            response = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30)
            tiers.append(response.headers["x-tierwise-tier"])
    assert tiers == ["large", "large", "small", "small"]


def test_each_key_has_a_budget_of_its_own(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}budgets: [{{name: each, per: day, scope: key, requests: 1}}]\n")
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()

        def ask(key: str) -> int:
            body = {"model": "tier/small", "messages": HELLO}
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code

        assert [ask("ann"), ask("bob"), ask("ann"), ask("bob")] == [200, 200, 429, 429]
