"""A tier of two hundred backends through the real proxy: a request looks at a few, and everything else still holds."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from policies.crowds import LOOKED_AT
from policies.decide import decide
from policies.schema import Simulation
from router.backends.simulator import Simulator
from router.launch import running_proxy
from router.ledger.codec import decode
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.settings import load_policy

ALIVE, DEAD = 150, 50
_BACKEND = """
      - {{name: {name}, kind: openai, model: sim, base_url: "{url}", cost: {{gpu_hour_usd: 1}}}}"""


def a_policy(url: str) -> str:
    alive = (_BACKEND.format(name=f"small-{place}", url=url) for place in range(ALIVE))
    dead = (_BACKEND.format(name=f"dead-{place}", url="http://127.0.0.1:9/v1") for place in range(DEAD))
    last = _BACKEND.format(name="last", url=url)
    return (
        f"version: 1\ntiers:\n  small:\n    backends:{''.join((*alive, *dead))}\n"
        f"  large:\n    backends:{last}\nfallback: {{small: [large]}}\ncooldown: {{failures: 1, rest: 10m}}\n"
    )


def test_a_large_tier_is_served_by_all_of_it_and_every_decision_replays(tmp_path: Path) -> None:
    simulator = Simulator("sim", Simulation())
    simulator.start()
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(a_policy(simulator.url))
    served: Counter[str] = Counter()
    with running_proxy(policy, data) as proxy, httpx.Client(base_url=proxy.url, timeout=30) as client:
        proxy.wait_until_ready()

        def ask(model: str, messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
            answer = client.post("/v1/chat/completions", json={"model": model, "messages": messages}).raise_for_status()
            return answer.headers["x-tierwise-backend"], answer.json()["choices"][0]["message"]

        for number in range(60):
            opening = {"role": "user", "content": f"Question {number}. " + "The tide tables of Brest. " * 60}
            backend, said = ask("tier/small", [opening])
            served[backend] += 1
            again, _ = ask("tier/small", [opening, said, {"role": "user", "content": "And the next one?"}])
            assert again == backend, "a conversation stays where its prefix is warm"
        assert ask("small-77", [{"role": "user", "content": "Hi"}])[0] == "small-77"
    simulator.stop()
    assert len(served) > 30
    assert all(name.startswith("small-") for name in served)
    journal = JournalFile(data / JOURNAL_NAME, create=False)
    entries = [decode(body) for body in journal.bodies(0, time.time() + 1)]
    journal.close()
    loaded = load_policy(policy)
    assert len(entries) == 121
    for entry in entries:
        assert decide(loaded, entry.features, entry.signals, entry.view) == entry.decision
        seen = entry.view.looked_at["small"]
        assert LOOKED_AT <= len(seen) <= 2 * LOOKED_AT
        assert set(entry.view.in_flight) == {*seen, "last"}
        assert len(entry.decision.steps) <= len(seen) + 1
    assert len({name for entry in entries for name in entry.view.looked_at["small"]}) > ALIVE
    tried = Counter(attempt.backend for entry in entries for attempt in entry.attempts)
    assert sum(count for name, count in tried.items() if name.startswith("dead-")) <= DEAD, (
        "one that failed is not looked at again"
    )
