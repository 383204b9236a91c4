"""What Tierwise knows of one kind of inference server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

GAUGES: Final = frozenset({"waiting", "running", "kv_use", "kv_tokens", "prefix_hit_rate", "draft_acceptance",
                           "tokens_per_pass", "tokens_per_second", "prefill_tokens_per_second"})  # fmt: skip
"""Quantities that an engine states as they are now; each becomes the field of `EngineView` with its name."""

COUNTERS: Final = frozenset({"prefix_hits", "prefix_misses", "prefix_queries", "drafted", "accepted", "accepted_first",
                             "drafts", "ttft_seconds", "ttft_count", "generated", "prefill_seconds"})  # fmt: skip
"""Quantities that only grow until the engine starts again; differences of two readings mean something.

``prefix_hits`` and ``prefix_misses`` are prompt tokens found in the prefix cache and computed; ``prefix_queries`` is
both together.
"""

FACTORS: Final = frozenset({"kv_blocks", "block_tokens"})
"""Gauges of which the product is ``kv_tokens``, where an engine does not state that itself."""

SHARES: Final = frozenset({"kv_use", "prefix_hit_rate", "draft_acceptance"})
"""Gauges that lie between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of server: where it listens unless told otherwise, and how it says what it is doing.

    A path that begins with a slash is taken from the server's root, any other one from the base URL. ``names`` gives
    for a quantity (`GAUGES`, `COUNTERS`, `FACTORS`) the metric names that have carried it, newest first; the first one
    present counts. A name may end in one label, as in ``name{position="0"}``. ``cache_info`` is a metric whose labels
    multiply to the size of the KV cache in tokens. ``flags`` says what the server must be started with to tell more.
    ``window`` lists the places of a model's context window in ``/v1/models``, as dotted paths. ``context_errors`` are
    the words in which it refuses an input that is too long; empty where it cuts the input without saying so.
    ``reuses_connections`` is False where it closes them after a response without having said so.
    """

    base_url: str
    health: str
    metrics: str | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cache_info: tuple[str, tuple[str, ...]] | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    window: tuple[str, ...] = ()
    context_errors: tuple[str, ...] = ()
    reuses_connections: bool = True


def prefixed(*prefixes: str, **names: str | Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Metric names by quantity, newest first: each name under every prefix that versions of an engine have given it."""
    each = {quantity: (name,) if isinstance(name, str) else name for quantity, name in names.items()}
    return {quantity: tuple(p + name for name in some for p in prefixes) for quantity, some in each.items()}
