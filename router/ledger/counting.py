"""Counts tokens where a backend reports none: with a tokenizer, in a thread of its own, marked as not measured.

The tokenizer is o200k_base, on which today's larger vocabularies agree to some percent. Its file comes with litellm; it
is read when something is to be counted, which takes a third of a second and 48 MiB, and let go of when nothing was for
a minute. Requests whose backends report their usage cost nothing here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from classifiers.features import count_input
from policies import money
from policies.values import Attempt, Usage
from router.memory import return_memory
from router.prices import litellm_file
from router.trail import Trail, Uncounted

if TYPE_CHECKING:
    from tiktoken import Encoding

log = logging.getLogger(__name__)

COUNTED_CHARACTERS: Final = 262_144
"""How much of a prompt is counted. The rest of it, as of an answer, is taken to have as many tokens a character."""

_NAME = "o200k_base"
_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"
_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_MOST_WAITING = 256
_MOST_TOKENS_WAITING = 500_000
"""As first estimated; counting so many takes a second or two."""
_KEPT_SECONDS = 60.0


class Counting:
    """Counts for one proxy."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "counting")
        self._later: set[asyncio.Task[None]] = set()
        self._waiting = self._tokens_waiting = 0
        self._encoding: Encoding | None = None
        self._missing = False
        self._idle: asyncio.TimerHandle | None = None

    async def settle(self, trail: Trail, body: Mapping[str, Any]) -> None:
        """Put what is counted in the place of first estimates in a trail, and price it.

        ``body`` is what was asked. Where too many wait already, first estimates stay.
        """
        uncounted = trail.uncounted
        if self._waiting < _MOST_WAITING and self._tokens_waiting < _MOST_TOKENS_WAITING:
            tokens = sum(min(u.input_tokens + u.output_tokens, COUNTED_CHARACTERS // 4) for u, _, _ in uncounted)
            self._waiting += 1
            self._tokens_waiting += tokens
            try:
                usages = await asyncio.get_running_loop().run_in_executor(self._thread, self._counted, body, uncounted)
            finally:
                self._waiting -= 1
                self._tokens_waiting -= tokens
                self._let_go_later()
            for (first, _, price), usage in zip(uncounted, usages, strict=True):
                for place, attempt in enumerate(trail):
                    if attempt.usage is first:
                        trail[place] = _billed(attempt, usage, price)
        uncounted.clear()

    def later(self, trail: Trail, body: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Settle a trail and call ``then``; returns at once."""
        task = asyncio.create_task(self._settle_then(trail, body, then))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _settle_then(self, trail: Trail, body: Mapping[str, Any], then: Callable[[], None]) -> None:
        try:
            await self.settle(trail, body)
        finally:
            then()

    async def close(self) -> None:
        """Wait until all is counted."""
        if self._later:
            await asyncio.wait(self._later)
        if self._idle is not None:
            self._idle.cancel()
        self._thread.shutdown()

    def _let_go_later(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(_KEPT_SECONDS, lambda: self._thread.submit(self._let_go))

    # in the thread

    def _let_go(self) -> None:
        """Give the tokenizer's memory back, all but some MiB of it."""
        self._encoding = None
        return_memory()

    def _counted(self, body: Mapping[str, Any], uncounted: Sequence[Uncounted]) -> list[Usage]:
        """The usage of attempts at one request; their first estimates where it cannot be counted."""
        try:
            if self._encoding is None and not self._missing:
                self._encoding = tokenizer()
                self._missing = self._encoding is None
            if self._encoding is not None:
                return _count(body, uncounted, self._encoding)
        except Exception:
            log.exception("tokens could not be counted; they are estimated by bytes")
        return [usage for usage, _, _ in uncounted]


def _billed(attempt: Attempt, usage: Usage, price: money.Price | None) -> Attempt:
    """The attempt with this usage; what a GPU's time costs does not depend on it."""
    nanos = money.cost_nanos(usage, price)
    return replace(attempt, usage=usage, cost_nanos=attempt.cost_nanos if isinstance(price, money.GpuRates) else nanos)


def _count(body: Mapping[str, Any], uncounted: Sequence[Uncounted], encoding: Encoding) -> list[Usage]:
    given = count_input(body, _Tally(encoding))
    counted = []
    for _, said, _ in uncounted:
        tally = _Tally(encoding)
        written = 0 if said is None else tally(said.text) + tally.likely(said.beyond)
        counted.append(Usage(input_tokens=given, output_tokens=written, measured=False))
    return counted


class _Tally:
    """Counts tokens of some texts, together no more than `COUNTED_CHARACTERS`, and goes on at the rate so far."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._characters = self._tokens = 0

    def __call__(self, text: str) -> int:
        room = COUNTED_CHARACTERS - self._characters
        tokens = len(self._encoding.encode_ordinary(text[:room])) if room > 0 else 0
        self._characters += min(room, len(text))
        self._tokens += tokens
        return tokens + self.likely(len(text) - room)

    def likely(self, characters: int) -> int:
        """The tokens of so many characters at the rate so far."""
        return round(max(0, characters) * self._tokens / max(1, self._characters))


def tokenizer() -> Encoding | None:
    """The tokenizer; None, said in the log, where its file is not there as it should be: it is fetched from nowhere."""
    file = litellm_file(_FILE)
    if file is None or hashlib.sha256(file.read_bytes()).hexdigest() != _SHA256:
        log.warning("the installed litellm has no %s: tokens that no backend reports are estimated by bytes", _NAME)
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(file.parent)
    import tiktoken
    from tiktoken_ext.openai_public import o200k_base

    made = o200k_base()
    encoding = tiktoken.Encoding(**made)
    made["mergeable_ranks"].clear()  # it has its own by now, and these take 30 MiB
    return_memory()
    return encoding
