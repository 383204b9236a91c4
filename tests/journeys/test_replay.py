"""A decision can be replayed: an entry and the policy it names give the same decision again (invariant 7)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx

from policies.decide import decide
from router.launch import running_proxy
from router.ledger.codec import decode
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.settings import load_policy
from tests.journeys.conftest import POLICY

RULES = """
rules:
  - {name: code, when: {domain: code}, prefer: large}
  - {name: team, when: {header: {x-team: blue}}, tier: large}
exploration: 0.3
budgets: [{name: calls, per: day, requests: 15, on_exceeded: downgrade}]
"""
TURNS = (
    ("Implement a lock-free queue in C++ and prove that it is linearisable.", "commit it", "Thanks! Tell me a joke."),
    ("What is the capital of Peru?", "And how many people live there?", "And in 1900, by which census?"),
    ("Hi", "Prove that there is no rational square root of two.", "Prove it once more, without contradiction."),
)


def test_entries_without_content_replay_to_the_same_decision(tmp_path: Path, cache: Path) -> None:
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(POLICY.replace("keep_quality: 0.9", "tradeoff: 0.97") + RULES)
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, data, environ=environ) as proxy, httpx.Client(base_url=proxy.url, timeout=30) as client:
        proxy.wait_until_ready(part="full")
        for number, turns in enumerate(TURNS * 2):
            messages: list[dict[str, str]] = []
            for turn in turns:
                headers = {"x-team": "red" if messages else "blue", "x-session-id": str(number)}
                messages.append({"role": "user", "content": turn})
                response = client.post(
                    "/v1/chat/completions", json={"model": "auto", "messages": messages}, headers=headers
                )
                messages.append(response.raise_for_status().json()["choices"][0]["message"])
    journal = JournalFile(data / JOURNAL_NAME, create=False)
    entries = [decode(body) for body in journal.bodies(0, time.time() + 1)]
    journal.close()
    assert len(entries) == 18
    loaded = load_policy(policy)
    for entry in entries:
        assert entry.decision.policy_hash == loaded.hash
        assert entry.signals is None or entry.signals.artifact
        assert not entry.features.text
        assert decide(loaded, entry.features, entry.signals, entry.view) == entry.decision
    assert sum(entry.signals is not None for entry in entries) >= 12
    assert {entry.tier for entry in entries} == {"small", "large"}
    assert any("calls" in reason for entry in entries for reason in entry.decision.reasons)
    assert any("stays on" in reason for entry in entries for reason in entry.decision.reasons)
