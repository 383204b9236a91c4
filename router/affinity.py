"""Which backend probably has how much of a prompt in its prefix cache. Bounded, and never asked of anyone.

Each backend's cache is modelled as its engine keeps it: blocks of the prompt from its beginning, each named by a hash
of all text up to its end, the least recently used given up first (vLLM, "Automatic Prefix Caching"; Kwon et al. 2023,
arXiv 2309.06180). So a shared system prompt, a shared document and a conversation so far are all one thing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import orjson

BLOCK = 512
"""Characters of one block."""

BLOCK_TOKENS = BLOCK // 4
"""Tokens of one block, as they are estimated everywhere."""

LONGEST = 1_024
"""Blocks of a prompt that are looked at: 128k tokens."""

CACHE_TOKENS = 500_000
"""The size of a prefix cache whose engine does not say."""

HOLDERS = 8
"""Backends of very large tiers that are remembered to have a block: the latest."""

MOST_TOKENS = 4_000_000
"""The size to which every backend's model is bounded: some 31,000 hashes of eight bytes."""

Trace: TypeAlias = tuple[bytes, ...]
"""A prompt's blocks, from its beginning."""


def trace(body: Mapping[str, Any]) -> Trace:
    """The blocks of a request's prompt: tools first, as chat templates put them, then its messages. Never raises."""
    try:
        tools = orjson.dumps(body["tools"]) if body.get("tools") else b""
        text = tools + b"".join(_told(message) for message in body.get("messages") or ())
    except (TypeError, orjson.JSONEncodeError):
        return ()
    digest, blocks = blake2b(digest_size=8), []
    for start in range(0, min(len(text) - BLOCK + 1, LONGEST * BLOCK), BLOCK):
        digest.update(text[start : start + BLOCK])
        blocks.append(digest.copy().digest())
    return tuple(blocks)


def _told(message: object) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS)


class Affinity:
    """The modelled prefix caches of some backends.

    Of those in a ``crowd`` it is known the other way round too, who has a block, so that not all need be asked.
    """

    def __init__(self, backends: Iterable[str], crowd: Collection[str] = ()) -> None:
        self._caches: dict[str, OrderedDict[bytes, None]] = {name: OrderedDict() for name in backends}
        self._crowd = frozenset(crowd)
        self._holders: dict[bytes, list[str]] = {}

    def warm(self, prompt: Trace, among: Iterable[str] | None = None) -> dict[str, int]:
        """Tokens of the prompt's beginning that each backend probably has; those that have none are left out.

        Of all, or of those ``among`` these names whose caches are modelled.
        """
        found = {}
        for name in self._caches if among is None else among:
            cache = self._caches.get(name, ())
            blocks = next((place for place, block in enumerate(prompt) if block not in cache), len(prompt))
            if blocks:
                found[name] = blocks * BLOCK_TOKENS
        return found

    def holders(self, prompt: Trace) -> Sequence[str]:
        """Those of the crowd that probably have most of the prompt: the latest few."""
        return next((found for block in reversed(prompt) if (found := self._holders.get(block))), ())

    def served(self, backend: str, prompt: Trace, cache_tokens: float | None = None) -> None:
        """The backend has just computed this prompt; ``cache_tokens`` is how much its cache holds, where known.

        The end of a prompt is given up before its beginning, which more prompts share.
        """
        cache = self._caches.get(backend)
        if cache is None:
            return
        for block in reversed(prompt):
            cache[block] = None
            cache.move_to_end(block)
        most = int(min(cache_tokens or CACHE_TOKENS, MOST_TOKENS)) // BLOCK_TOKENS
        crowded = backend in self._crowd
        if crowded:
            self._hold(backend, prompt)
        while len(cache) > most:
            block, _ = cache.popitem(last=False)
            if crowded:
                self._let_go(backend, block)

    def forget(self, backend: str) -> None:
        """The backend started again: its cache is empty."""
        cache = self._caches.get(backend)
        if cache:
            if backend in self._crowd:
                for block in cache:
                    self._let_go(backend, block)
            cache.clear()

    def _hold(self, backend: str, prompt: Trace) -> None:
        for block in prompt:
            holders = self._holders.setdefault(block, [])
            if backend in holders:
                holders.remove(backend)
            holders.insert(0, backend)
            del holders[HOLDERS:]

    def _let_go(self, backend: str, block: bytes) -> None:
        holders = self._holders.get(block, [])
        if backend in holders:
            holders.remove(backend)
            if not holders:
                del self._holders[block]

    def __len__(self) -> int:
        return sum(map(len, self._caches.values()))
