"""Starting, reloading, draining, crashing: what operators do to a proxy, and what users must not notice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from classifiers import artifact
from classifiers.artifact import default_artifact
from router.errors import STOPPED
from router.launch import Proxy, running_proxy
from router.ledger import codec
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from tests.journeys.conftest import POLICY
from tests.waiting import eventually

HELLO = {"model": "tier/small", "messages": [{"role": "user", "content": "Hello there!"}]}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def proxy(policy: Path, tmp_path: Path) -> Iterator[Proxy]:
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        yield proxy


def ready(proxy: Proxy) -> dict[str, Any]:
    state: dict[str, Any] = httpx.get(f"{proxy.url}/readyz", verify=False).json()
    return state


def ask(proxy: Proxy, **changes: Any) -> httpx.Response:
    return httpx.post(f"{proxy.url}/v1/chat/completions", json={**HELLO, **changes}, timeout=30)


def report(data_dir: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "router.cli", "report", "--json", "--data-dir", str(data_dir), *options]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(made)
    return found


def test_a_changed_policy_is_taken_up_without_a_restart(proxy: Proxy, policy: Path) -> None:
    before = ready(proxy)["policy"]
    policy.write_text(POLICY.replace("aliases: {", "aliases: {mini: tier/small, "))
    eventually(lambda: ready(proxy)["policy"] != before)
    assert ask(proxy, model="mini").headers["x-tierwise-tier"] == "small"


def test_a_bad_policy_keeps_the_last_good_one_and_says_so(proxy: Proxy, policy: Path) -> None:
    before = ready(proxy)["policy"]
    policy.write_text(POLICY.replace("baseline: large", "baseline: lrage"))
    problem = eventually(lambda: ready(proxy)["policy_problem"])
    assert "lrage" in problem
    assert "large" in problem
    assert ready(proxy)["policy"] == before
    assert ask(proxy).status_code == 200
    policy.write_text(POLICY)
    eventually(lambda: not ready(proxy)["policy_problem"])


def test_sighup_reloads(proxy: Proxy, policy: Path) -> None:
    before = ready(proxy)["policy"]
    policy.write_text(POLICY.replace("keep_quality: 0.9", "keep_quality: 0.8"))
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: ready(proxy)["policy"] != before)


def test_an_artifact_that_was_trained_anew_is_taken_up_on_sighup(policy: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(default_artifact(), folder)
    settings = json.dumps({"artifact": str(folder), "deadline": "0s"})
    policy.write_text(POLICY.replace("classifier: {deadline: 20s}", f"classifier: {settings}"))
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, tmp_path / "data", environ=environ) as proxy:
        proxy.wait_until_ready(part="full")

        def used() -> str:
            decided = httpx.post(f"{proxy.url}/v1/route", json={**HELLO, "model": "auto"}).json()
            return str(decided["signals"]["artifact"])

        old = artifact.load(folder)
        assert used() == old.id
        new = artifact.save(replace(old, about={**old.about, "trained": "anew"}), folder)
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: used() == new.id)
        proxy.wait_until_ready(part="full")


def test_a_secret_that_changed_is_taken_up(policy: Path, tmp_path: Path) -> None:
    told: list[str | None] = []

    class Backend(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            told.append(self.headers["authorization"])
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        backend = {
            "name": "one", "kind": "openai", "model": "m", "base_url": f"http://127.0.0.1:{server.server_port}/v1",
            "api_key": "sk-old", "cost": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1},
        }  # fmt: skip
        text = json.dumps({"version": 1, "tiers": {"small": {"backends": [backend]}}, "baseline": "small"})
        policy.write_text(text)
        with running_proxy(policy, tmp_path / "data") as proxy:
            proxy.wait_until_ready()
            assert ask(proxy).status_code == 200
            policy.write_text(text.replace("sk-old", "sk-new"))
            eventually(lambda: ask(proxy).status_code == 200 and told[-1] == "Bearer sk-new")
            assert told[0] == "Bearer sk-old"
        server.shutdown()


def test_a_reload_does_not_touch_streams_in_flight(policy: Path, tmp_path: Path) -> None:
    slow = POLICY.replace("tokens_per_second: 4000, output_tokens: 40", "tokens_per_second: 40, output_tokens: 80")
    policy.write_text(slow)
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        before = ready(proxy)["policy"]
        with httpx.stream(
            "POST", f"{proxy.url}/v1/chat/completions", json={**HELLO, "stream": True}, timeout=30
        ) as response:
            lines = response.iter_lines()
            next(lines)
            policy.write_text(slow.replace("keep_quality: 0.9", "keep_quality: 0.8"))
            eventually(lambda: ready(proxy)["policy"] != before)
            assert [line for line in lines if line][-1] == "data: [DONE]"


def test_shutdown_drains_streams_and_flushes_the_ledger(policy: Path, tmp_path: Path) -> None:
    slow = "tokens_per_second: 40, output_tokens: 60"
    policy.write_text(POLICY.replace("tokens_per_second: 4000, output_tokens: 40", slow))
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
        with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            proxy.process.terminate()
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        usage = json.loads(events[-2].removeprefix("data: "))["usage"]
        assert proxy.process.wait(timeout=20) == 0
    total = report(tmp_path / "data")["total"]
    assert total["requests"] == 1
    assert total["output_tokens"] == usage["completion_tokens"]
    assert total["cost_usd"] == pytest.approx(usage["cost"])


ASIDE = {"sec-fetch-site": "none"}
"""A browser's header, with which a request goes the way of all others."""


@pytest.mark.parametrize("headers", [{}, ASIDE], ids=["express", "asgi"])
def test_what_a_drain_has_no_time_left_for_is_told_so(policy: Path, tmp_path: Path, headers: dict[str, str]) -> None:
    slow = POLICY.replace("tokens_per_second: 4000, output_tokens: 40", "tokens_per_second: 5, output_tokens: 600")
    policy.write_text(slow.replace("limits: {", "limits: {drain: 1s, "))
    with running_proxy(policy, tmp_path / "data") as proxy, ThreadPoolExecutor() as pool:
        proxy.wait_until_ready()
        url = f"{proxy.url}/v1/chat/completions"
        whole = pool.submit(httpx.post, url, json=HELLO, headers=headers, timeout=30)
        body = {**HELLO, "stream": True}
        with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            eventually(lambda: "tierwise_in_flight 2.0" in httpx.get(f"{proxy.url}/metrics").text)
            proxy.process.terminate()
            events = [line for line in lines if line]
        assert proxy.process.wait(timeout=20) == 0
    refused = whole.result()
    assert refused.status_code == 503
    for told in (json.loads(events[-1].removeprefix("data: ")), refused.json()):
        assert told["error"] == {
            "message": STOPPED.message, "type": "server_error", "param": None, "code": "shutting_down",
        }  # fmt: skip
    assert "data: [DONE]" not in events
    with closing(JournalFile(tmp_path / "data" / JOURNAL_NAME, create=False)) as journal:
        entries = {entry.stream: entry for entry in map(codec.decode, journal.bodies(0, time.time()))}
    assert [(entries[stream].outcome, entries[stream].status) for stream in (True, False)] == [
        ("error", 200), ("error", 503),
    ]  # fmt: skip
    (attempt,) = entries[True].attempts
    assert (attempt.outcome, attempt.error, attempt.phase) == ("error", "stopped", "stream")
    assert attempt.usage is not None
    assert report(tmp_path / "data")["total"]["errors"] == 2


def test_a_client_that_leaves_is_billed_for_what_was_used(policy: Path, tmp_path: Path) -> None:
    policy.write_text(POLICY.replace("tokens_per_second: 4000, output_tokens: 40", "tokens_per_second: 20"))
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        url = f"{proxy.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**HELLO, "stream": True}, timeout=30) as response:
            next(response.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=HELLO, timeout=0.5)
        eventually(lambda: "tierwise_in_flight 0.0" in httpx.get(f"{proxy.url}/metrics").text)
    total = report(tmp_path / "data")["total"]
    assert total["requests"] == total["cancelled"] == 2
    assert total["cost_nanos"] > 0
    assert total["estimated"] == 2


def test_a_killed_proxy_loses_at_most_its_commit_window(policy: Path, tmp_path: Path) -> None:
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        tokens = sum(ask(proxy).json()["usage"]["total_tokens"] for _ in range(20))
        eventually(lambda: report(tmp_path / "data")["total"]["requests"] == 20)
        proxy.process.kill()
        proxy.process.wait()
    with running_proxy(policy, tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        tokens += ask(proxy).json()["usage"]["total_tokens"]
    total = report(tmp_path / "data")["total"]
    assert total["requests"] == 21
    assert total["input_tokens"] + total["output_tokens"] == tokens


def test_workers_share_the_store_and_the_books(policy: Path, tmp_path: Path) -> None:
    with running_proxy(policy, tmp_path / "data", "--workers", "2") as proxy:
        proxy.wait_until_ready()
        costs: list[int] = []

        def client() -> None:
            for _ in range(15):
                response = ask(proxy)
                costs.append(round(float(response.headers["x-tierwise-cost-usd"]) * 1e9))

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(costs) == 60
    total = report(tmp_path / "data")["total"]
    assert total["requests"] == 60
    assert total["cost_nanos"] == sum(costs)


def test_without_an_encoder_it_serves_on_lexical_features_and_says_so(policy: Path, tmp_path: Path) -> None:
    encoder = {"encoder": "no-such-model"}
    policy.write_text(POLICY.replace("classifier: {deadline: 20s}", f"classifier: {json.dumps(encoder)}"))
    with running_proxy(policy, tmp_path / "data", environ={**os.environ, "HF_HUB_OFFLINE": "1"}) as proxy:
        proxy.wait_until_ready()
        state = eventually(
            lambda: (found := ready(proxy))["classifier_problem"] != "the encoder is warming up" and found, 180
        )
        assert state["classifier"] == "lexical"
        assert "no-such-model" in state["classifier_problem"]
        response = ask(proxy, model="auto")
        assert response.status_code == 200
        assert response.headers["x-tierwise-tier"] == "large"


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("baseline: large", "baseline: lrage"), 1, "large"),
        (("version: 1", "version: 1\nredis: ftp://nowhere"), 1, "redis"),
    ],
)
def test_a_bad_start_says_why(policy: Path, tmp_path: Path, change: tuple[str, str], code: int, told: str) -> None:
    policy.write_text(POLICY.replace(*change))
    command = [sys.executable, "-m", "router.cli", "serve", str(policy), "--data-dir", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_does_not_listen_beyond_loopback_unasked(policy: Path) -> None:
    command = [sys.executable, "-m", "router.cli", "serve", str(policy), "--host", "0.0.0.0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert ended.returncode == 2
    assert "--open" in ended.stderr


def test_a_policy_behind_kubernetes_links_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    for version in range(3):
        (folder / f"..v{version}").mkdir(parents=True)
        changed = POLICY.replace("keep_quality: 0.9", f"keep_quality: 0.{9 - version}")
        (folder / f"..v{version}" / "policy.yaml").write_text(changed)
    (folder / "..data").symlink_to("..v0")
    (folder / "policy.yaml").symlink_to("..data/policy.yaml")
    with running_proxy(folder / "policy.yaml", tmp_path / "data") as proxy:
        proxy.wait_until_ready()
        for version in (1, 2):
            before = ready(proxy)["policy"]
            (folder / "..new").symlink_to(f"..v{version}")
            (folder / "..new").rename(folder / "..data")
            eventually(lambda before=before: ready(proxy)["policy"] != before)
