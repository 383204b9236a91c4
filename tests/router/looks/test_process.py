"""The encoder's process itself: a real one, with the real encoder, asked by workers of this one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from classifiers import prepare
from classifiers.artifact import default_artifact
from classifiers.artifact import load as load_artifact
from classifiers.classifier import Classifier
from classifiers.features import extract, from_text
from classifiers.targets import Target
from policies.values import Features
from router.encoders import EncoderSettings
from router.looks import client
from router.looks.client import Away, Looker, SecondLooks
from router.looks.messages import Terms
from router.looks.start import EncoderProcess
from router.meeting import taken
from tests.waiting import LONG, until

TARGETS = (Target("small", "qwen2.5-7b-instruct"), Target("large", "llama3-70b-instruct"))
LOCAL = EncoderSettings("local", "", None, "cpu", 1.0)
TURNS = [{"role": "user", "content": text} for text in ("What is a group?", "And a ring? \ud83d")]
ASKED = [
    *map(from_text, ("Hello", "Prove that there are infinitely many primes. Then list ten.", "什么是群？", "a" * 9000)),
    extract({"messages": TURNS}),
]


def terms(folder: Path | None = None) -> Terms:
    folder = folder or default_artifact()
    return Terms(str(folder), load_artifact(folder).id, TARGETS, {"refunds": ("give me my money back",)}, "large")


@pytest.fixture
def process(tmp_path: Path, encoder_cache: Path) -> EncoderProcess:
    return EncoderProcess(tmp_path, encoder_cache, LOCAL)


def lives(process: EncoderProcess) -> bool:
    with process._file("lock").open("ab") as lock:
        return not taken(lock)


@asynccontextmanager
async def worker(process: EncoderProcess, under: Terms | None = None) -> AsyncIterator[Looker]:
    looks = SecondLooks(process)
    looker = looks.take(under or terms())
    keeping = asyncio.create_task(looks.keep())
    try:
        await until(lambda: looker.ready or keeping.done())
        yield looker
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.anyio
async def test_what_it_says_is_what_would_be_said_in_this_process(process: EncoderProcess, encoder_cache: Path) -> None:
    both, under = prepare.load(encoder_cache), terms()
    here = Classifier.load(
        default_artifact(), TARGETS, full=both.full, static=both.static, domains=under.domains, baseline="large"
    )
    async with worker(process) as looker:
        for features in ASKED:
            assert await looker.look(features, LONG) == here.second_look(features)


@pytest.mark.anyio
async def test_two_workers_share_it_and_it_ends_with_the_last(process: EncoderProcess) -> None:
    async with worker(process) as one:
        async with worker(process) as other:
            assert [process.begin()] == children()
            both = await asyncio.gather(*(looker.look(from_text("Hello"), LONG) for looker in (one, other)))
            assert both[0] == both[1]
        assert await one.look(from_text("Hello again"), LONG)
        assert lives(process)
    await until(lambda: not lives(process))


@pytest.mark.anyio
async def test_killed_it_is_started_again_and_nobody_waits_for_it(process: EncoderProcess) -> None:
    async with worker(process) as looker:
        (killed,) = children()
        os.kill(killed, signal.SIGSTOP)
        asked = asyncio.create_task(looker.look(from_text("What is a prime?"), LONG))
        await asyncio.sleep(0.01)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(Away, match="ended"):
            await asked
        with pytest.raises(Away, match="started again"):
            await looker.look(from_text("What is a prime?"), LONG)
        await until(lambda: looker.ready)
        assert not looker.problem
        assert await looker.look(from_text("What is a prime?"), LONG)
        assert children() != [killed]
    await until(lambda: not lives(process))


@pytest.mark.anyio
async def test_one_that_hangs_is_said_to_and_killed_by_whoever_waits_in_vain(
    process: EncoderProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "_SILENT_SECONDS", 2)
    async with worker(process) as looker, worker(process) as other:
        (hung,) = children()
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await other.look(from_text("What is a prime?"), 0.1)
        await until(lambda: other.problem)
        assert "does not answer" in caplog.text
        await until(lambda: hung not in children())
        await until(lambda: looker.ready and other.ready and not looker.problem + other.problem)
        for each in (other, looker):
            assert await each.look(from_text("What is a prime?"), LONG)
        await until(lambda: not Path(f"/proc/{hung}").exists())
    await until(lambda: not lives(process))


@pytest.mark.anyio
async def test_one_that_hung_before_anybody_met_it_is_ended_too(
    process: EncoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_UNMET_SECONDS", 8)
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", _STARTER, process.data_dir, process.cache_dir)
    await starter.wait()
    hung = process.begin()
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    async with worker(process) as looker:
        assert process.begin() != hung
        assert await looker.look(from_text("What is a prime?"), LONG)


_STARTER = """
import sys
from pathlib import PosixPath
from router.looks.start import EncoderProcess, EncoderSettings
EncoderProcess(PosixPath(sys.argv[1]), PosixPath(sys.argv[2]), EncoderSettings("local", "", None, "cpu", 1.0)).begin()
"""


def test_what_has_the_id_of_one_that_ended_is_not_killed(process: EncoderProcess) -> None:
    (process.data_dir / "encoder").mkdir()
    with subprocess.Popen(["sleep", "60"]) as somebody, process._file("lock").open("wb") as lock:
        for number in (somebody.pid, 2**22 + 1):
            process.end(number)
        assert taken(lock)
        assert somebody.poll() is None
        somebody.kill()


@pytest.mark.anyio
async def test_it_holds_no_file_of_the_worker_that_started_it(process: EncoderProcess) -> None:
    theirs = [os.pipe() for _ in range(3)]
    for end in (end for pipe in theirs for end in pipe):
        os.set_inheritable(end, True)
    names = {os.readlink(f"/proc/self/fd/{end}") for end, _ in theirs}
    async with worker(process):
        (child,) = children()
        held = {os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")}
    for end in (end for pipe in theirs for end in pipe):
        os.close(end)
    assert not held & names


@pytest.mark.anyio
async def test_an_artifact_that_was_replaced_is_refused(process: EncoderProcess, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(default_artifact(), folder)
    stale = terms(folder)
    async with worker(process) as looker:
        (folder / "manifest.json").write_text("{}")
        refused = looker._looks.take(stale)
        await until(lambda: refused.refused)
        assert not refused.ready
        assert "manifest.json" in refused.problem
        other = looker._looks.take(Terms(str(default_artifact()), "another", TARGETS, {}, "large"))
        await until(lambda: "another" in other.problem)
        assert (await looker.look(Features(text="Hello"), LONG)).look == "full"


@pytest.mark.anyio
async def test_nobody_else_may_speak_to_it_or_read_its_key(process: EncoderProcess) -> None:
    process = replace(process, settings=replace(LOCAL, key="sk-secret"))
    async with worker(process):
        assert stat.S_IMODE(process.socket.parent.stat().st_mode) == 0o700
        assert [line for line in command_lines() if "looks.server" in line and "secret" not in line]
        assert not [line for line in command_lines() if "sk-secret" in line]


@pytest.mark.anyio
async def test_left_while_the_encoder_is_brought_up_it_ends_as_it_should(process: EncoderProcess) -> None:
    for mib in range(50, 100, 4):
        child = process.begin()
        assert child is not None
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(str(process.socket))
            await until(lambda child=child, mib=mib: resident_mib(child) >= mib)  # type: ignore[misc]
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"at {mib} MiB"


@pytest.mark.anyio
async def test_without_an_encoder_it_says_why_and_ends(tmp_path: Path) -> None:
    (cache := tmp_path / "cache").write_text("no folder")
    process = EncoderProcess(tmp_path, cache, LOCAL)
    async with worker(process) as looker:
        assert str(cache) in looker.problem
    await until(lambda: not lives(process))


class Endpoint(BaseHTTPRequestHandler):
    """Embeds every text alike, in as many numbers as the artifact expects."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["authorization"] == "Bearer sk-theirs"
        rows = [{"index": at, "embedding": [1.0] * 384} for at in range(len(asked["input"]))]
        body = json.dumps({"data": rows}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.anyio
async def test_an_embeddings_endpoint_is_asked_by_the_process(tmp_path: Path, encoder_cache: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{endpoint.server_port}/v1"
        settings = EncoderSettings(url, prepare.MINILM.name, "sk-theirs", "auto", 5.0)
        async with worker(EncoderProcess(tmp_path, encoder_cache, settings)) as looker:
            assert (await looker.look(from_text("Hello"), LONG)).look == "full"
        endpoint.shutdown()


@pytest.mark.anyio
async def test_an_endpoint_that_is_down_at_first_is_asked_again(
    tmp_path: Path, encoder_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint, bind_and_activate=False)
    endpoint.server_bind()  # nobody else has the port, and nobody listens yet
    url = f"http://127.0.0.1:{endpoint.server_address[1]}/v1"
    settings = EncoderSettings(url, prepare.MINILM.name, "sk-theirs", "auto", 5.0)
    process = EncoderProcess(tmp_path, encoder_cache, settings)

    def come_up() -> None:
        endpoint.server_activate()
        endpoint.serve_forever()

    async def while_it_is_down() -> None:
        await until(lambda: f"the embeddings endpoint {url}" in caplog.text)
        threading.Thread(target=come_up, daemon=True).start()

    with endpoint:
        down = asyncio.create_task(while_it_is_down())
        async with worker(process) as looker:
            assert down.done()
            assert not looker.problem
            assert (await looker.look(from_text("Hello"), LONG)).look == "full"
        endpoint.shutdown()


def children() -> list[int]:
    threads = Path(f"/proc/{os.getpid()}/task").iterdir()
    found = [child for thread in threads for child in (thread / "children").read_text().split()]
    return [int(child) for child in found if "looks.server" in Path(f"/proc/{child}/cmdline").read_text()]


def resident_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def command_lines() -> list[str]:
    return [Path(f"/proc/{child}/cmdline").read_text() for child in children()]
