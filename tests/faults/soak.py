"""Minutes of mixed faults and clients that leave: ``python -m tests.faults.soak --seconds 180``.

The real proxy stands between clients that leave in every phase and backends that misbehave in every way. It must end
with nothing in flight, no task, no socket and no memory more than it began with, and with books (journal, store and
``tierwise report``) that equal what the upstreams counted, to the token and the nano-dollar. Exit code 1 where not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop

from classifiers.features import count_input
from policies.values import Entry
from router.launch import Proxy, running_proxy
from router.ledger import codec, counting
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.wire import Client, read_chat
from tests.faults.audit import Audit, Said
from tests.faults.faults import FAULTS, Fault
from tests.faults.speech import DONE, ROLE, SAID, STOP, TOKENS, answer, usage
from tests.faults.upstream import Behaviour, Peer, Upstream

PRICES = {"bad-0": (123, 4_567), "bad-1": (89, 1_013), "good": (1_009, 7_919), "mute": (1, 1)}
"""Nano-dollars per token in and out: no two backends alike, and primes where it matters, so that no mistake cancels."""

HEAVY = {"gzip bomb", "an event without end", "endless headers", "huge headers"}
HISTORY = {"flapping backend", "usage in every chunk"}
"""Faults whose bill depends on more than the request."""
MILD = [
    fault
    for fault in FAULTS
    if not (fault.url or fault.tls or fault.body or fault.name in HEAVY or fault.name in HISTORY)
]
QUESTIONS = ("What is the capital of Australia?", "Prove that there are infinitely many primes.", "def f(x): # sort x")
SETTLES = 20.0
"""Seconds within which a busy machine lets everything end that has been told to."""
GROWTH_MIB = 16.0
_LONGEST = 60.0
_ERRORS = frozenset(["400", "401", "402", "403", "404", "413", "422", "429", "502", "503", "504"])


def policy(urls: Mapping[str, str]) -> str:
    """A small tier of two backends that misbehave and one that accepts no connection, and a large one that is well."""

    def backend(name: str, slots: int) -> dict[str, Any]:
        input_nanos, output_nanos = PRICES[name]
        cost = {"input_usd_per_mtok": input_nanos / 1000, "output_usd_per_mtok": output_nanos / 1000}
        return {"name": name, "kind": "openai", "model": "m", "base_url": urls[name], "api_key": "none", "cost": cost,
                "max_in_flight": slots}  # fmt: skip

    small = [backend("bad-0", 8), backend("bad-1", 8), backend("mute", 2)]
    return orjson.dumps({
        "version": 1,
        "tiers": {
            "small": {"trained_as": "qwen2.5-7b-instruct", "max_in_flight": 12, "backends": small},
            "large": {"trained_as": "llama3-70b-instruct", "backends": [backend("good", 12)]},
        },
        "baseline": "large",
        "fallback": {"small": ["large"]},
        "session": {"sticky": False},
        "cooldown": {"failures": 8, "rest": "100ms"},
        "retries": {"attempts": 1, "base": "1ms", "cap": "20ms"},
        "timeouts": {"connect": "100ms", "first_token": "500ms", "between_tokens": "500ms", "answer": "500ms",
                     "total": "5s"},
    }).decode()  # fmt: skip


_tokenizer = cache(counting.tokenizer)


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """The URL of a port whose queue is full: the system answers no attempt to connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            yield f"http://127.0.0.1:{address[1]}/v1"


class Backend:
    """An upstream that remembers, by the request's ``user``, what it said to each request that it read."""

    def __init__(self, choose: Callable[[], Fault | Behaviour]) -> None:
        self.said: defaultdict[str, list[Said]] = defaultdict(list)
        self.upstream = Upstream(self._behave)
        self._choose = choose

    async def _behave(self, peer: Peer) -> None:
        self.upstream.requests.clear()
        tokenizer = _tokenizer()
        assert tokenizer is not None
        chosen, tokens = self._choose(), (random.randint(1, 10_000), random.randint(1, 5_000))
        TOKENS.set({"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)})
        seen = (chosen.stream if peer.stream else chosen.whole) if isinstance(chosen, Fault) else None
        asked = count_input(peer.body, lambda text: len(tokenizer.encode_ordinary(text)))
        self.said[peer.body["user"]].append(Said("10/3" if seen is None else seen.billed, tokens, asked))
        await (chosen.behave if isinstance(chosen, Fault) else chosen)(peer)


async def slowly(peer: Peer) -> None:
    """Answer well, with pauses in which a client may leave: before headers, before content, in the middle."""

    async def pause() -> None:
        await asyncio.sleep(random.expovariate(200))

    await pause()
    if not peer.stream:
        return await peer.whole(200, answer())
    await peer.head()
    for part in (ROLE, *SAID, STOP, usage(), DONE):
        await pause()
        await peer.piece(part)
    return await peer.end()


def misbehave() -> Fault | Behaviour:
    """Half the time well, otherwise in a way of chance."""
    return slowly if random.random() < 0.5 else random.choice(MILD)


@dataclass
class Tally:
    """What came of all requests: how they ended for the client, and by their ``user`` the conversations asked."""

    outcomes: Counter[str] = field(default_factory=Counter)
    conversations: dict[str, str] = field(default_factory=dict)
    answered: dict[str, str] = field(default_factory=dict)
    costs: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    left_in: Counter[str] = field(default_factory=Counter)
    audit: Audit = field(default_factory=lambda: Audit(PRICES))


async def client(host: str, port: int, number: int, tally: Tally) -> None:
    """One request, streamed or not, from a client that may leave at any moment: half told, asking, or being told."""
    body: dict[str, Any] = {
        "model": random.choice(("auto", "tier/small", "tier/small", "tier/large")),
        "user": str(number),
        "messages": [{"role": "user", "content": random.choice(QUESTIONS)}],
    }
    if random.random() < 0.5:
        body |= {"stream": True, "stream_options": {"include_usage": random.random() < 0.5}}
    raw = orjson.dumps(body)
    asked = read_chat(raw, {}, Client("anonymous"), seen=frozenset(), session_header="", keeps_text=lambda model: False)
    tally.conversations[asked.features.conversation] = str(number)
    leaves = random.choice(("soon", "half told", "answered")) if random.random() < 0.3 else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nconnection: close\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    outcome = "left"
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.timeout(random.expovariate(20) if leaves == "soon" else _LONGEST):
                writer.write(head.encode() + (raw[: len(raw) // 2] if leaves == "half told" else raw))
                if leaves == "answered":
                    await reader.readuntil(b"\r\n\r\n")
                elif leaves != "half told":
                    outcome = _read(str(number), bool(body.get("stream")), await reader.read(-1), tally)
        finally:
            writer.transport.abort() if random.random() < 0.5 else writer.close()
    except TimeoutError:
        if leaves != "soon":
            tally.wrong.append(f"request {number}: no answer within {_LONGEST:.0f} s")
    except (OSError, asyncio.IncompleteReadError) as error:
        tally.wrong.append(f"request {number}: {error!r}")
    tally.outcomes[outcome] += 1


def _read(user: str, stream: bool, data: bytes, tally: Tally) -> str:
    """Read a whole response as a strict client would; how it ended."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    status = lines[0].split(" ")[1] if lines[0] else "nothing"
    tally.answered[user] = headers.get("x-tierwise-request-id", "")
    if "x-tierwise-cost-usd" in headers:
        tally.costs[user] = headers["x-tierwise-cost-usd"]
    if status != "200":
        if status not in _ERRORS or b'"error"' not in body:
            tally.wrong.append(f"request {user}: {data[:300]!r}")
        if status == "429" and b" is full" in body and "retry-after" not in headers:
            tally.wrong.append(f"request {user}: all is full, and nothing says when to come back")
        return f"error {status}"
    if not stream:
        return "ok" if b'"choices"' in body else "wrong"
    ended = b"data: [DONE]" in body
    if ended == (b'data: {"error"' in body):
        tally.wrong.append(f"request {user}: a silent stop, or two ends: {body[-300:]!r}")
    return "ok" if ended else "broken off"


@dataclass(frozen=True)
class Footprint:
    """What the proxy holds: resident MiB, tasks of its event loop, TCP sockets, and requests in flight.

    Sockets are those beyond the connections that upstreams know of.
    """

    mib: float
    tasks: int
    sockets: int
    in_flight: int


async def footprint(proxy: Proxy, http: httpx.AsyncClient, upstreams: list[Upstream]) -> Footprint:
    """Ask the proxy, and the system about it."""
    told = (await http.get("/metrics")).text.splitlines()
    figures = dict(line.split(" ") for line in told if line.startswith("tierwise_") and "{" not in line)
    process = Path(f"/proc/{proxy.process.pid}")
    inodes = {line.split()[9] for line in (process / "net/tcp").read_text().splitlines()[1:]}
    held = [os.readlink(link) for link in (process / "fd").iterdir() if link.is_symlink()]
    return Footprint(
        mib=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        tasks=int(float(figures["tierwise_tasks"])),
        sockets=sum(link.startswith("socket:[") and link[8:-1] in inodes for link in held)
        - sum(upstream.connections for upstream in upstreams),
        in_flight=int(float(figures["tierwise_in_flight"])),
    )


async def soak(seconds: float, data: Path, at_once: int = 32) -> Tally:
    """Run for so long; what came of it, and everything that is not as it must be."""
    tally = Tally()
    backends = {"bad-0": Backend(misbehave), "bad-1": Backend(misbehave), "good": Backend(lambda: slowly)}
    async with AsyncExitStack() as stack:
        urls = {name: (await stack.enter_async_context(backend.upstream)).url for name, backend in backends.items()}
        urls["mute"] = await stack.enter_async_context(mute())
        path = data / "policy.yaml"
        path.write_text(policy(urls))
        proxy = stack.enter_context(running_proxy(path, data, "--log-level", "error"))
        await asyncio.to_thread(proxy.wait_until_ready, 120, "full")
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=proxy.url, headers={"connection": "close"}))
        upstreams = [each.upstream for each in backends.values()]
        before = await footprint(proxy, http, upstreams)
        warm = await _load(proxy, seconds, at_once, tally, lambda: footprint(proxy, http, upstreams))
        after = await _settled(lambda: footprint(proxy, http, upstreams), before, upstreams)
        held = {"requests in flight": after.in_flight, "tasks": after.tasks - before.tasks,
                "sockets": after.sockets - before.sockets}  # fmt: skip
        tally.wrong += [f"{count} {what} left" for what, count in held.items() if count]
        if after.mib - warm.mib > GROWTH_MIB:
            tally.wrong.append(f"{after.mib - warm.mib:.1f} MiB more memory than after a third of the time")
        print(f"memory: {before.mib:.0f} MiB at first, {warm.mib:.0f} after a third, {after.mib:.0f} at the end")
        totals = {"store": await _shipped(http, tally)}
    found = entries(data)
    _audit(found, backends, tally)
    totals["journal"] = await asyncio.to_thread(_reported, data / JOURNAL_NAME)
    for place, total in totals.items():
        _compare(place, total, tally)
    return tally


async def _load(proxy: Proxy, seconds: float, at_once: int, tally: Tally, look: Callable[[], Any]) -> Footprint:
    """Ask without pause, so many at once; the proxy's footprint after a third of the time."""
    loop, number = asyncio.get_running_loop(), 0
    end, url = loop.time() + seconds, httpx.URL(proxy.url)

    async def clients() -> None:
        nonlocal number
        while loop.time() < end:
            number += 1
            await client(url.host, url.port or 80, number, tally)

    running = [asyncio.create_task(clients()) for _ in range(at_once)]
    await asyncio.sleep(seconds / 3)
    warm: Footprint = await look()
    await asyncio.gather(*running)
    return warm


async def _settled(look: Callable[[], Any], before: Footprint, upstreams: list[Upstream]) -> Footprint:
    """The footprint once nothing changes any more, or when there has been time enough for that."""
    for upstream in upstreams:
        async with asyncio.timeout(SETTLES):
            await upstream.idle()
    end = asyncio.get_running_loop().time() + SETTLES
    while True:
        now: Footprint = await look()
        over = (now.in_flight, now.tasks, now.sockets) == (0, before.tasks, before.sockets)
        if over or asyncio.get_running_loop().time() > end:
            return now
        await asyncio.sleep(0.1)


async def _shipped(http: httpx.AsyncClient, tally: Tally) -> dict[str, Any]:
    """What the store says once it has heard of every request, or when there has been time enough for that."""
    end, last = asyncio.get_running_loop().time() + SETTLES, -1
    while True:
        total: dict[str, Any] = (await http.get("/report", params={"since": "24h"})).json()["total"]
        if (total["requests"] == last and last >= len(tally.answered)) or asyncio.get_running_loop().time() > end:
            return total
        last = total["requests"]
        await asyncio.sleep(1)


def _reported(journal: Path) -> dict[str, Any]:
    """What ``tierwise report`` says of the journal, in all."""
    command = [sys.executable, "-m", "router.cli", "report", "--json", "--journal", str(journal)]
    total: dict[str, Any] = orjson.loads(subprocess.check_output(command))["total"]
    return total


def entries(data: Path) -> list[Entry]:
    """Every entry of the journal."""
    file = JournalFile(data / JOURNAL_NAME, create=False)
    found = [codec.decode(body) for body in file.bodies(0, 2e9)]
    file.close()
    return found


def _audit(found: list[Entry], backends: Mapping[str, Backend], tally: Tally) -> None:
    """One entry for each answered request, at most one for others, and each as the upstreams tell it."""
    users: Counter[str] = Counter()
    for entry in found:
        user = tally.conversations.get(entry.features.conversation, "")
        users[user] += 1
        tally.audit.entry(entry, {name: each.said.pop(user) for name, each in backends.items() if user in each.said})
        if user in tally.answered and tally.answered[user] != entry.id:
            tally.wrong.append(f"request {user}: answered as {tally.answered[user]}, written down as {entry.id}")
        if user in tally.costs and round(float(tally.costs[user]) * 1e9) != entry.cost_nanos:
            tally.wrong.append(f"request {user}: {tally.costs[user]} USD told, {entry.cost_nanos} nanos written down")
        if entry.outcome == "cancelled":
            tally.left_in[_phase(entry)] += 1
    tally.wrong += [f"request {user!r} has {count} entries" for user, count in users.items() if count > 1 or not user]
    tally.wrong += [f"request {user} was answered and has no entry" for user in tally.answered if not users[user]]
    for name, each in backends.items():
        tally.wrong += [f"{name} was asked for request {user}, which has no entry" for user in each.said]
    tally.wrong += tally.audit.wrong


def _phase(entry: Entry) -> str:
    """Where a request was when its client left."""
    if not entry.decision.steps:
        return "classifying"
    last = entry.attempts[-1] if entry.attempts else None
    if last is None or last.outcome != "cancelled":
        return "queued or between attempts"
    return f"{last.phase}{'' if entry.stream else ', not streamed'}"


def _compare(place: str, total: Mapping[str, Any], tally: Tally) -> None:
    audit = tally.audit
    counted = {"requests": audit.requests, "attempts": audit.attempts, **audit.total}
    told = {name: total.get(name) for name in counted}
    if told != counted:
        tally.wrong.append(f"the {place} says {told}; the entries add up to {counted}")
    if audit.measured != audit.stated:
        tally.wrong.append(f"measured {dict(audit.measured)}; upstream stated {dict(audit.stated)}")


def summary(tally: Tally, seconds: float) -> str:
    """What happened, in a few lines."""
    audit = tally.audit
    dollars = audit.total["cost_nanos"] / 1e9
    return "\n".join((
        f"{audit.requests} requests written down in {seconds:.0f} s; for clients: {dict(tally.outcomes.most_common())}",
        f"clients left while: {dict(tally.left_in.most_common())}",
        f"{audit.attempts} attempts, {audit.calls} of them calls ({audit.early} ended early, {audit.unheard} unheard)",
        f"{audit.total['input_tokens']} + {audit.total['output_tokens']} tokens, ${dollars:.9f}; "
        f"measured {audit.measured['input_tokens']} + {audit.measured['output_tokens']}, upstream stated "
        f"{audit.stated['input_tokens']} + {audit.stated['output_tokens']}; {audit.unread} told to nobody, estimated",
        "\n".join(tally.wrong[:20])
        or "nothing in flight, no task or socket left, memory flat; journal, store and report equal upstream's count",
    ))  # fmt: skip


def main() -> int:
    """Soak and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        tally = uvloop.run(soak(asked.seconds, Path(folder)))
    print(summary(tally, asked.seconds))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
