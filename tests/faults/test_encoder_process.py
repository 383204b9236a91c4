"""The encoder's process dies, hangs or is left alone: requests are answered all the same, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import classifiers
from router.launch import Proxy, running_proxy
from tests.journeys.conftest import POLICY
from tests.journeys.conftest import cache as cache
from tests.waiting import LONG, eventually

DEADLINE_MS = 3000.0
DATA = Path(classifiers.__path__[0]) / "data" / "domain_prompts.jsonl"
PROMPTS = [json.loads(line)["prompt"] for line in DATA.read_text().splitlines()[::9]]


@pytest.fixture
def proxy(tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy of two workers, in front of simulated backends, that waits three seconds for a second look."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("deadline: 20s", f"deadline: {DEADLINE_MS:g}ms"))
    environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
    with running_proxy(policy, tmp_path / "data", "--workers", "2", environ=environ) as proxy:
        eventually(lambda: all(state(proxy)["classifier"] == "full" for _ in range(10)))
        yield proxy


def state(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{proxy.url}/readyz").json()
    return found


def ask(proxy: Proxy, text: str) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=LONG)


def family(pid: int) -> dict[int, str]:
    """A process and all that come from it, with their command lines."""
    told = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    found = {pid: ""}
    for _ in range(4):
        found |= {int(child): args for child, parent, args in rows if int(parent) in found}
    return found


def encoders(proxy: Proxy) -> list[int]:
    return [pid for pid, args in family(proxy.process.pid).items() if "router.looks.server" in args]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Load(threading.Thread):
    """Asks one prompt after the other, each made new, until it is told to stop."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        super().__init__()
        self._proxy, self._number = proxy, number
        self.stopped = threading.Event()
        self.answers: list[httpx.Response] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        count = 0
        while not self.stopped.is_set():
            count += 1
            try:
                self.answers.append(ask(self._proxy, f"{PROMPTS[count % len(PROMPTS)]} [{self._number}.{count}]"))
            except httpx.HTTPError as error:
                self.failures.append(error)


def reasons(loads: list[Load]) -> str:
    return "\n".join(answer.headers["x-tierwise-reason"] for load in loads for answer in load.answers)


def test_requests_are_answered_while_it_hangs_and_dies_and_come_back(proxy: Proxy) -> None:
    (encoder,) = encoders(proxy)
    loads = [Load(proxy, number) for number in range(8)]
    for load in loads:
        load.start()
    try:
        eventually(lambda: sum(len(load.answers) for load in loads) > 50)
        os.kill(encoder, signal.SIGSTOP)
        eventually(lambda: "late" in reasons(loads))
        os.kill(encoder, signal.SIGKILL)
        eventually(lambda: "no second look: the encoder's process ended" in reasons(loads))
        eventually(lambda: encoders(proxy) not in ([], [encoder]) and state(proxy)["classifier"] == "full")
        seen = len(loads[0].answers)
        eventually(lambda: len(loads[0].answers) > seen + 20)
    finally:
        for load in loads:
            load.stopped.set()
        for load in loads:
            load.join()
    answers = [answer for load in loads for answer in load.answers]
    assert not [failure for load in loads for failure in load.failures]
    assert {answer.status_code for answer in answers} == {200}
    assert max(float(answer.headers["x-tierwise-classify-ms"]) for answer in answers) < 2 * DEADLINE_MS
    assert len(encoders(proxy)) == 1


def test_it_is_said_while_it_is_away(proxy: Proxy) -> None:
    (encoder,) = encoders(proxy)
    os.kill(encoder, signal.SIGKILL)
    eventually(lambda: 'tierwise_ready{part="classifier"} 0.0' in httpx.get(f"{proxy.url}/metrics").text)
    told = eventually(lambda: (found := state(proxy))["classifier"] == "static" and found)
    assert told["ready"]
    assert "started again" in told["classifier_problem"]
    eventually(lambda: all(state(proxy)["classifier_problem"] == "" for _ in range(10)))


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_parent_is_gone(proxy: Proxy, ends: signal.Signals) -> None:
    started = family(proxy.process.pid)
    assert len([args for args in started.values() if "router.looks.server" in args]) == 1
    proxy.process.send_signal(ends)
    proxy.process.wait(LONG)
    eventually(lambda: not [pid for pid in started if lives(pid)])


def test_a_worker_that_is_killed_leaves_the_others_their_second_looks(proxy: Proxy) -> None:
    started = family(proxy.process.pid)
    (encoder,) = encoders(proxy)
    parent = int(Path(f"/proc/{encoder}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent in started
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: not lives(parent))
    eventually(lambda: all(state(proxy)["classifier"] == "full" for _ in range(10)))
    assert lives(encoder)
    os.kill(encoder, signal.SIGKILL)
    eventually(lambda: encoders(proxy))
    eventually(lambda: all(state(proxy)["classifier"] == "full" for _ in range(10)))


def test_a_changed_policy_is_agreed_on_with_the_same_process(proxy: Proxy, tmp_path: Path) -> None:
    before, policy = state(proxy)["policy"], tmp_path / "policy.yaml"
    (encoder,) = encoders(proxy)
    policy.write_text(policy.read_text().replace("keep_quality: 0.9", "keep_quality: 0.8"))
    changed = {"classifier": "full", "classifier_problem": ""}
    eventually(
        lambda: all((told := state(proxy))["policy"] != before and told.items() >= changed.items() for _ in range(10))
    )
    assert encoders(proxy) == [encoder]
