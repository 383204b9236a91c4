"""Several workers, one account of what they counted: whichever answers, after deaths too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router import telemetry, workers
from router.launch import Proxy, running_proxy
from router.telemetry import Telemetry
from router.workers import Worker, meeting_place
from tests.journeys.conftest import POLICY
from tests.router.ledger.entries import entry
from tests.waiting import eventually

ASKED = {"model": "tier/small", "messages": [{"role": "user", "content": "Hello!"}]}


def totals(text: str) -> dict[str, float]:
    """Every counter and gauge, over all its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def scraped(proxy: Proxy) -> dict[str, float]:
    return totals(httpx.get(f"{proxy.url}/metrics").text)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    with running_proxy(tmp_path / "policy.yaml", tmp_path / "data", "--workers", "2") as proxy:
        proxy.wait_until_ready()
        yield proxy


def served(data: Path) -> dict[int, float]:
    """Requests by worker, as they last told."""
    files = data.glob("workers-*/*.json")
    told = {int(file.name.partition("-")[0]): orjson.loads(file.read_bytes())["growing"][0] for file in files}
    return {worker: sum(total for _, total in counted) for worker, counted in told.items()}


def test_any_worker_speaks_for_all_and_for_the_dead(proxy: Proxy, tmp_path: Path) -> None:
    asked, seen = 0, 0.0
    while len([worker for worker, count in served(tmp_path / "data").items() if count]) < 2:
        for _ in range(20):
            assert httpx.post(f"{proxy.url}/v1/chat/completions", json=ASKED, timeout=30).status_code == 200
            asked += 1
        told = scraped(proxy)["tierwise_requests_total"]
        assert seen <= told <= asked, "a counter never falls, whoever answers"
        seen = told
    eventually(lambda: scraped(proxy)["tierwise_requests_total"] == asked)
    for _ in range(20):
        told_by_any = scraped(proxy)
        assert told_by_any["tierwise_requests_total"] == told_by_any["tierwise_attempts_total"] == asked
        assert told_by_any["gen_ai_server_request_duration_seconds_count"] == asked
        assert told_by_any["tierwise_in_flight"] == 0
    before = served(tmp_path / "data")
    eventually(lambda: sum(served(tmp_path / "data").values()) == asked)
    os.kill(next(iter(before)), signal.SIGKILL)
    eventually(lambda: len(served(tmp_path / "data")) == 3)
    eventually(lambda: proxy.wait_until_ready()["ready"] is True)
    for _ in range(10):
        assert scraped(proxy)["tierwise_requests_total"] == asked
    assert httpx.post(f"{proxy.url}/v1/chat/completions", json=ASKED, timeout=30).status_code == 200
    eventually(lambda: scraped(proxy)["tierwise_requests_total"] == asked + 1)


def test_what_a_dead_worker_had_under_way_is_not_under_way_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Telemetry(worker=Worker(tmp_path)), Telemetry(worker=Worker(tmp_path))
    for told in (one, other):
        for _ in range(3):
            told.arrived()
        told.left(entry(total_ms=7.0))
        told.share()
    found = totals(one.exposition().decode())
    assert (found["tierwise_in_flight"], found["tierwise_requests_total"]) == (4, 2)
    assert found["gen_ai_server_request_duration_seconds_sum"] == pytest.approx(0.014)
    later = time.time() + 6
    monkeypatch.setattr(workers, "time", lambda: later)
    found = totals(one.exposition().decode())
    assert (found["tierwise_in_flight"], found["tierwise_requests_total"]) == (2, 2)


@pytest.mark.anyio
async def test_a_worker_tells_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_SHARE_SECONDS", 0.001)
    one, other = Telemetry(worker=Worker(tmp_path)), Telemetry(worker=Worker(tmp_path))
    sharing = asyncio.create_task(one.keep_sharing())
    one.left(entry())
    while not totals(other.exposition().decode()).get("tierwise_requests_total"):  # noqa: ASYNC110 it tells nobody else
        await asyncio.sleep(0)
    sharing.cancel()
    await Telemetry().keep_sharing()


def test_a_killed_proxys_folder_goes_with_the_next(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from router.workers import meeting_place\n"
        "with meeting_place(Path(sys.argv[1])) as folder: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    (left,) = tmp_path.glob("workers-*")
    with meeting_place(tmp_path) as mine:
        assert not left.exists()
        with meeting_place(tmp_path) as beside:
            assert mine.exists()
            assert beside != mine
    assert not list(tmp_path.iterdir())
