"""A scraper against a real socket: fresh, late, gone, back again, wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from policies.schema import Scrape, Timeouts
from policies.values import EngineView
from router.backends.openai import OpenAI
from router.engines import ENGINES
from router.engines.discovery import Discovery
from router.engines.scrape import Scraper, views
from tests.contracts import engines_pages as pages
from tests.contracts.test_backends import config
from tests.waiting import until

pytestmark = pytest.mark.anyio
SETTINGS = Scrape(interval=timedelta(milliseconds=5), timeout=timedelta(milliseconds=250), stale=timedelta(seconds=10))


@dataclass
class Server:
    """An engine that says what it is told to: ``page`` at its metrics path, after ``delay`` seconds."""

    page: bytes = pages.VLLM.encode()
    status: int = 200
    delay: float = 0.0
    cut: bool = False
    asked: list[str] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    url: str = ""
    answering: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.answering.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            body = b'{"data": [{"id": "other", "max_model_len": 128}]}' if path.endswith("models") else self.page
            body = body if self.status == 200 else b"no"
            await asyncio.sleep(self.delay)
            answer = f"HTTP/1.1 {self.status} x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            writer.write(answer + (body[: len(body) // 2] if self.cut else body))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.answering.discard(task)

    async def stop(self) -> None:
        for task in tuple(self.answering):
            task.cancel()
        await asyncio.gather(*self.answering, return_exceptions=True)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}/v1"
    async with listening:
        yield server
        await server.stop()


@dataclass
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def scraper(server: Server, time: Time) -> AsyncIterator[Scraper]:
    backend = OpenAI(config("vllm", server.url), Timeouts())
    engine = ENGINES["vllm"]
    yield Scraper("b", engine, backend.fetch, SETTINGS, lambda: 4, time, Discovery(backend.config, engine))
    await backend.aclose()


async def test_a_reading_is_known_until_it_is_stale(scraper: Scraper, time: Time) -> None:
    assert scraper.view is None
    assert views({"b": scraper}) == {}
    await scraper.scrape()
    assert (scraper.view or EngineView()).elsewhere == 7
    assert views({"b": scraper}) == {"b": scraper.view}
    time.now += 10
    assert scraper.view is not None
    time.now += 0.1
    assert scraper.view is None


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"delay": 60.0}, "within 0.25 s"),
        ({"status": 500}, "no metrics at /metrics"),
        ({"status": 404}, "no metrics at /metrics"),
        ({"cut": True}, "broke off"),
        ({"page": b"<html>\n"}, "not a metrics page"),
        ({"page": b"# TYPE up gauge\nup 1\n"}, "none of this engine's metrics"),
        ({"page": pages.VLLM.encode()[:-4]}, "cut off"),
    ],
)
async def test_what_goes_wrong_leaves_the_reading_before_until_it_is_stale(
    scraper: Scraper, server: Server, time: Time, wrong: dict[str, object], problem: str
) -> None:
    await scraper.scrape()
    before = scraper.view
    for name, value in wrong.items():
        setattr(server, name, value)
    time.now += 5
    await scraper.scrape()
    assert problem in scraper.problem
    assert scraper.view == before
    time.now += 6
    assert scraper.view is None
    server.page, server.status, server.delay, server.cut = pages.VLLM.encode(), 200, 0.0, False
    await scraper.scrape()
    assert scraper.problem == ""
    assert scraper.view is not None


async def test_nothing_listens() -> None:
    backend = OpenAI(config("sglang", "http://127.0.0.1:9/v1"), Timeouts())
    scraper = Scraper("b", ENGINES["sglang"], backend.fetch, SETTINGS, lambda: 0, Time())
    await scraper.scrape()
    assert scraper.view is None
    assert "does not accept connections" in scraper.problem


async def test_an_engine_without_its_flag_is_told_which(server: Server) -> None:
    backend = OpenAI(config("sglang", server.url), Timeouts())
    server.status = 404
    scraper = Scraper("b", ENGINES["sglang"], backend.fetch, SETTINGS, lambda: 0, Time())
    await scraper.scrape()
    await backend.aclose()
    assert "--enable-metrics" in scraper.problem


async def test_it_reads_on_through_trouble_and_looks_at_the_models_once(
    scraper: Scraper, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    reading = asyncio.create_task(scraper.run())
    await until(lambda: server.asked.count("/metrics") >= 3)
    server.status = 503
    await until(lambda: bool(scraper.problem))
    server.status = 200
    await until(lambda: not scraper.problem)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert server.asked[:2] == ["/metrics", "/v1/models"]
    assert server.asked.count("/v1/models") <= 2
    assert "does not list the model 'tiny'; it has other" in caplog.text
    assert caplog.text.count("does not list") == 1


async def test_an_engine_without_metrics_is_asked_until_it_lists_its_models(server: Server) -> None:
    engine, backend = ENGINES["openai"], OpenAI(config("openai", server.url), Timeouts())
    scraper = Scraper("b", engine, backend.fetch, SETTINGS, lambda: 0, Time(), Discovery(backend.config, engine))
    server.status = 503
    reading = asyncio.create_task(scraper.run())
    await until(lambda: len(server.asked) >= 2)
    server.status = 200
    await asyncio.wait_for(reading, 30)
    await backend.aclose()
    assert set(server.asked) == {"/v1/models"}


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
async def test_a_server_that_closes_without_a_word_is_asked_to_say_so(server: Server, kind: str) -> None:
    backend = OpenAI(config(kind, server.url), Timeouts())
    await backend.fetch("/metrics", 10_000)
    await backend.aclose()
    assert (b"connection: close" in server.heads[0]) == (kind == "llamacpp")


async def test_a_draft_that_costs_more_than_it_saves_is_warned_of_once(
    scraper: Scraper, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def page(passes: int) -> bytes:
        counted = {"drafts": passes, "draft_tokens": 4 * passes, "accepted_tokens": passes // 50}
        return "".join(f"vllm:spec_decode_num_{name}_total {count}\n" for name, count in counted.items()).encode()

    for passes in (100, 200, 200, 300):
        server.page = page(passes)
        await scraper.scrape()
    assert caplog.text.count("closer or smaller draft") == 1
