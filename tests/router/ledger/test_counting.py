"""Tokens that no backend reports are counted by a real tokenizer, whichever way an answer ends; on real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import tiktoken

from policies import money
from policies.money import GpuRates
from policies.values import Attempt, Entry, Usage
from router.launch import running_proxy
from router.ledger import codec, counting
from router.ledger.counting import COUNTED_CHARACTERS, Counting
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.prices import litellm_file
from router.trail import Trail, Uncounted
from router.usage import KEPT_CHARACTERS, Said
from tests.faults.speech import DONE, ROLE, STOP, answer, chunk
from tests.faults.upstream import Peer, Upstream

pytestmark = pytest.mark.anyio
INPUT_NANOS, OUTPUT_NANOS = 123, 4_567
TEXTS = (
    "A lock-free queue keeps one pointer to its head, and one to its tail.",
    "Ein Vorhängeschloss ohne Schlüssel — naïve façade, œuvre.",
    "Блокировки не нужны: очередь хранит два указателя.",
    "無鎖佇列只需要兩個指標。これはロックフリーです。",
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}  # 🙂🇩🇪 1234567",
    "<|endoftext|> is text like any other here",
)


@pytest.fixture(scope="module")
def encoding() -> tiktoken.Encoding:
    """The tokenizer itself, by another way than the one under test."""
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext import openai_public

    file = litellm_file("fb374d419588a4632f3f557e76b4b70aebbca790")
    assert file is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: load_tiktoken_bpe(str(file)))
        return tiktoken.Encoding(**openai_public.o200k_base())


def tokens(encoding: tiktoken.Encoding, text: str) -> int:
    return len(encoding.encode(text, disallowed_special=()))


@dataclass
class Script:
    """An upstream that says ``pieces`` and no usage, and ends as it is told to."""

    pieces: Sequence[dict[str, Any]] = ()
    ending: str = "well"
    first: bytes = ROLE
    left: list[str] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        if not peer.stream:
            document = answer("".join(str(piece.get("content", "")) for piece in self.pieces))
            for piece in self.pieces:
                document["choices"][0]["message"] |= {n: value for n, value in piece.items() if n != "content"}
            del document["usage"]
            return await peer.whole(200, document)
        await peer.head()
        for part in (self.first, *map(chunk, self.pieces)):
            await peer.piece(part)
        if self.ending == "cut":
            return None
        if self.ending == "silent":
            return await peer.silence()
        for part in (STOP, DONE):
            await peer.piece(part)
        return await peer.end()


@dataclass
class Trial:
    script: Script
    url: str
    data: Path

    async def ask(self, stream: bool, messages: list[dict[str, Any]], **more: Any) -> tuple[bytes, Any]:
        body = {"model": "auto", "stream": stream, "messages": messages, **more}
        async with aiohttp.ClientSession() as session, session.post(self.url, json=body) as response:
            said = b""
            while self.script.ending != "silent" or said.count(b"data: ") <= len(self.script.pieces):
                if not (part := await response.content.readany()):
                    break
                said += part
            return said, response.headers


@asynccontextmanager
async def trial(folder: Path, cost: str = "") -> AsyncIterator[Trial]:
    cost = cost or f"{{input_usd_per_mtok: {INPUT_NANOS / 1000}, output_usd_per_mtok: {OUTPUT_NANOS / 1000}}}"
    script = Script()
    async with Upstream(script) as upstream:
        policy = folder / "policy.yaml"
        backend = f"{{name: b, kind: openai, model: m, base_url: '{upstream.url}', api_key: none, cost: {cost}}}"
        policy.write_text(f"version: 1\ntiers: {{only: {{backends: [{backend}]}}}}\nretries: {{attempts: 0}}\n")
        with running_proxy(policy, folder / "data") as proxy:
            proxy.wait_until_ready()
            yield Trial(script, f"{proxy.url}/v1/chat/completions", folder / "data")


def entries(data: Path) -> list[Entry]:
    file = JournalFile(data / JOURNAL_NAME, create=False)
    found = [codec.decode(body) for body in file.bodies(0, time.time() + 1)]
    file.close()
    return found


@pytest.mark.parametrize(("stream", "ending"), [(False, "well"), (True, "well"), (True, "cut"), (True, "silent")])
async def test_the_count_is_the_tokenizers_own(
    tmp_path: Path, encoding: tiktoken.Encoding, stream: bool, ending: str
) -> None:
    brief = {"role": "system", "content": "Be brief."}
    async with trial(tmp_path) as it:
        it.script.ending = ending
        for text in TEXTS:
            it.script.pieces = [{"content": text[at : at + 3]} for at in range(0, len(text), 3)]
            _, headers = await it.ask(stream, [brief, {"role": "user", "content": text}])
            if not stream:
                cost = INPUT_NANOS * (3 + 4 + tokens(encoding, "Be brief.") + 4 + tokens(encoding, text))
                cost += OUTPUT_NANOS * tokens(encoding, text)
                assert headers["x-tierwise-cost-usd"] == f"0.{cost:09}"
    found = entries(tmp_path / "data")
    assert len(found) == len(TEXTS)
    for entry, text in zip(found, TEXTS, strict=True):
        given = 3 + 4 + tokens(encoding, "Be brief.") + 4 + tokens(encoding, text)
        assert entry.usage == Usage(given, output_tokens=tokens(encoding, text), measured=False)
        assert [attempt.usage for attempt in entry.attempts] == [entry.usage]
        assert entry.cost_nanos == given * INPUT_NANOS + entry.usage.output_tokens * OUTPUT_NANOS
        assert entry.baseline_nanos == entry.cost_nanos
        assert entry.outcome == {"well": "ok", "cut": "error", "silent": "cancelled"}[ending]


@pytest.mark.parametrize("ending", ["well", "cut", "silent"])
async def test_no_output_that_is_stated_before_there_is_any_is_not_believed(
    tmp_path: Path, encoding: tiktoken.Encoding, ending: str
) -> None:
    """Some servers state what they have used so far with the first chunk, and the whole with the last, if it comes."""
    async with trial(tmp_path) as it:
        it.script.ending, it.script.pieces = ending, [{"content": word} for word in ("Three ", "words ", "here")]
        it.script.first = chunk(
            {"role": "assistant", "content": ""}, usage={"prompt_tokens": 9, "completion_tokens": 0}
        )
        await it.ask(True, [{"role": "user", "content": "Hello!"}])
    (entry,) = entries(tmp_path / "data")
    assert entry.usage.output_tokens == tokens(encoding, "Three words here")
    assert not entry.usage.measured


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_tools_count(tmp_path: Path, encoding: tiktoken.Encoding, stream: bool) -> None:
    arguments = '{"city": "København", "days": [1, 2, 3]}'
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"index": 0, "id": "call_9", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    async with trial(tmp_path) as it:
        it.script.pieces = [{"tool_calls": [call]}]
        await it.ask(stream, [{"role": "user", "content": "Rain?"}], tools=[tool])
    (entry,) = entries(tmp_path / "data")
    assert entry.usage.output_tokens == tokens(encoding, "weather" + arguments)
    schemas = orjson.dumps([[tool]]).decode()
    assert entry.usage.input_tokens == 3 + 4 + tokens(encoding, "Rain?") + tokens(encoding, schemas)


async def test_what_a_gpu_costs_does_not_depend_on_the_count(tmp_path: Path, encoding: tiktoken.Encoding) -> None:
    async with trial(tmp_path, "{gpu_hour_usd: 3.6, gpus: 1}") as it:
        it.script.pieces = [{"content": TEXTS[0]}]
        await it.ask(True, [{"role": "user", "content": "Hi"}])
    (entry,) = entries(tmp_path / "data")
    assert entry.usage.output_tokens == tokens(encoding, TEXTS[0])
    assert 0 < (entry.cost_nanos or 0) <= entry.total_ms * 1_000_000


async def test_beyond_the_bounds_the_rate_so_far_goes_on(encoding: tiktoken.Encoding) -> None:
    count, trail, said = Counting(), Trail(), Said()
    prompt, text = TEXTS[0] * 20_000, TEXTS[3] * 9_000
    for at in range(0, len(text), 1_000):
        said.add(text[at : at + 1_000])
    assert said.beyond > 0
    first = Usage(1, output_tokens=1, measured=False)
    trail.append(Attempt("b", "t", "m", "ok", usage=first, cost_nanos=1))
    trail.uncounted.append(Uncounted(first, said, GpuRates(money.Decimal(1), 1, money.Decimal(1))))
    await count.settle(trail, {"messages": [{"role": "user", "content": prompt}]})
    await count.close()
    usage = trail[0].usage
    assert usage is not None
    for counted, kept, whole in (
        (usage.input_tokens - 7, COUNTED_CHARACTERS, prompt),
        (usage.output_tokens, KEPT_CHARACTERS, text),
    ):
        known = tokens(encoding, whole[:kept])
        assert counted == known + round((len(whole) - kept) * known / kept)
        assert counted == pytest.approx(tokens(encoding, whole), rel=0.01)


@pytest.mark.parametrize("text", ["a" * COUNTED_CHARACTERS, " " * COUNTED_CHARACTERS, "\ud800" * 9, "aB1 " * 60_000])
async def test_no_text_is_too_strange_to_be_counted(text: str) -> None:
    count, trail = Counting(), Trail()
    first = Usage(1, output_tokens=1, measured=False)
    trail.append(Attempt("b", "t", "m", "ok", usage=first))
    trail.uncounted.append(Uncounted(first, Said(text), None))
    await count.settle(trail, {"messages": [{"role": "user", "content": text}]})
    await count.close()
    assert trail[0].usage is not None
    assert trail[0].usage is not first
    assert trail[0].cost_nanos is None


async def test_no_answer_waits_long_behind_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 65,000 tokens takes 0.15 s: 256 of them would hold answers, and a proxy that stops, for long."""
    count, go = Counting(), threading.Event()

    def counted(body: Any, uncounted: Sequence[Uncounted]) -> list[Usage]:
        go.wait()
        return [Usage(2, measured=False) for _ in uncounted]

    monkeypatch.setattr(count, "_counted", counted)
    trails, recorded = [Trail() for _ in range(40)], list[int]()
    for number, trail in enumerate(trails):
        first = Usage(65_000, output_tokens=1_000, measured=False)
        trail.append(Attempt("b", "t", "m", "ok", usage=first))
        trail.uncounted.append(Uncounted(first, None, None))
        count.later(trail, {}, lambda number=number: recorded.append(number))  # type: ignore[misc]
    for _ in range(100):
        await asyncio.sleep(0)
    before = list(recorded)
    go.set()
    await count.close()
    assert len(before) >= 30, "their first estimates stay"
    assert sorted(recorded) == list(range(40))
    waited = [trail[0].usage.input_tokens for trail in trails if trail[0].usage is not None]
    assert 4 <= waited.count(2) <= 10


async def test_a_tokenizer_that_nobody_needs_is_let_go_of_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_KEPT_SECONDS", 0.0)
    count, found = Counting(), []
    for _ in range(2):
        trail, first = Trail(), Usage(1, output_tokens=1, measured=False)
        trail.append(Attempt("b", "t", "m", "ok", usage=first))
        trail.uncounted.append(Uncounted(first, Said(TEXTS[3]), None))
        await count.settle(trail, {"messages": []})
        found.append(trail[0].usage)
        while count._encoding is not None:  # noqa: ASYNC110 its thread tells nobody
            await asyncio.sleep(0.001)
    await count.close()
    assert found[0] == found[1] != first


async def test_without_the_tokenizer_the_first_estimate_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "litellm_file", lambda name: None)
    count, trail = Counting(), Trail()
    first = Usage(8, output_tokens=4, measured=False)
    trail.append(Attempt("b", "t", "m", "cancelled", usage=first, cost_nanos=5))
    trail.uncounted.append(Uncounted(first, None, None))
    await count.settle(trail, {"messages": []})
    await count.close()
    assert trail[0].usage == first
    assert not trail.uncounted
