"""From an answer to a training row: feedback over HTTP, into the journal, out again with the odds of the choice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

from router.cli import main
from router.launch import running_proxy
from router.learning import Log
from router.ledger.feedback import FeedbackError
from router.ledger.ledger import JOURNAL_NAME
from tests.journeys.conftest import POLICY

LEARNING = POLICY + "logging: {content: true}\nexploration: 0.5\nauth: {required: true}\n"


def rows_when(journal: Path, count: int) -> Log:
    """The log once so many entries can be learnt from."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if len(list(Log([journal]).rows())) == count:
                return Log([journal])
        except FeedbackError:
            pass
        assert time.monotonic() < deadline, "the feedback never came to the journal"
        time.sleep(0.05)


def test_an_answer_becomes_a_row(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, data = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(LEARNING)
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, data, environ=environ) as proxy, httpx.Client(base_url=proxy.url, timeout=30) as client:
        keys = {}
        for name in ("asker", "other"):
            assert main(["keys", "create", name, "--data-dir", str(data)]) == 0
            keys[name] = {"authorization": f"Bearer {capsys.readouterr().out.split()[-1]}"}

        def ask(text: str) -> str:
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            for _ in range(100):
                answer = client.post("/v1/chat/completions", json=body, headers=keys["asker"])
                if answer.status_code != 401:  # a new key is known everywhere within a second
                    break
                time.sleep(0.05)
            return answer.raise_for_status().headers["x-tierwise-request-id"]

        def say(request_id: str, score: object, by: str = "asker") -> int:
            body = {"request_id": request_id, "score": score}
            return client.post("/v1/feedback", json=body, headers=keys[by]).status_code

        asked = [ask(f"What is {n} times {n}?") for n in range(6)]
        assert [say(name, n / 5) for n, name in enumerate(asked[:5])] == [202] * 5
        assert say(asked[5], 1.0, by="other") == 202
        assert say(asked[0], 1.5) == 400
        assert client.post("/v1/feedback", json={"request_id": asked[0], "score": 1}).status_code == 401
        found = list(rows_when(data / JOURNAL_NAME, 5).rows())
    assert [row.id for row in found] == asked[:5]
    assert [next(iter(row.scores.values())) for row in found] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert {name for row in found for name in row.scores} <= {"sim-small", "sim-large"}
    assert [row.features.text for row in found] == [f"What is {n} times {n}?" for n in range(5)]
    assert Log([data / JOURNAL_NAME]).about()["drawn_for_certain"] == 0
