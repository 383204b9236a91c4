"""From an engine's metrics page to numbers: Prometheus' text format, read by prometheus_client's own parser.

Only the lines of wanted metrics are parsed, which is what makes a page of thousands of lines cheap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from router.engines.engine import FACTORS, SHARES, Engine

LARGEST = 8 * 1024 * 1024
"""The most bytes of a metrics page."""

_REPLICAS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})
"""Labels in which the ranks of one model differ that all tell the same of it."""

_MEANS = SHARES | {"tokens_per_pass", "block_tokens"}
_NAME = re.compile(r"(?:# TYPE )?([a-zA-Z_:][a-zA-Z0-9_:]*)")
_SUFFIX = re.compile(r"_(?:total|sum|count)$")


class Unreadable(ValueError):
    """The page is cut off, or is no metrics page; the text says which."""


def read(engine: Engine, page: bytes) -> Mapping[str, float]:
    """The engine's quantities, by name. One that is absent, or not a number, is left out. Raises `Unreadable`.

    Replicas that differ in a label are added up; shares are averaged; ranks of one model count once.
    """
    if not page.endswith(b"\n"):
        raise Unreadable("the metrics page is cut off before its end")
    text = page.decode("utf-8", "replace")
    if page.lstrip().startswith((b"<", b"{", b"[")):
        raise Unreadable("what came is not a metrics page")
    samples = _samples(text, _wanted(engine))
    found = {}
    for quantity, names in engine.names.items():
        for name in names:
            value = _combined(quantity, samples, name)
            if value is not None:
                found[quantity] = value
                break
    if engine.cache_info is not None and (tokens := _product(samples, *engine.cache_info)) is not None:
        found["kv_tokens"] = tokens
    factors = [found.pop(name, None) for name in FACTORS]
    if all(factors):
        found["kv_tokens"] = math.prod(filter(None, factors))
    return found


def _wanted(engine: Engine) -> frozenset[str]:
    names = {name.partition("{")[0] for names in engine.names.values() for name in names}
    return frozenset(_bare(name) for name in (*names, *(engine.cache_info or ())[:1]) if isinstance(name, str))


def _bare(name: str) -> str:
    """A metric's name without what the text format puts behind it: a counter may or may not end in ``_total``."""
    return _SUFFIX.sub("", name)


_Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]


def _samples(text: str, wanted: frozenset[str]) -> _Samples:
    """The samples of wanted metrics by name, a counter's ``_total`` left out."""
    lines = [line for line in text.splitlines() if (name := _NAME.match(line)) and _bare(name[1]) in wanted]
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                found.setdefault(sample.name.removesuffix("_total"), []).append((sample.labels, sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise Unreadable(f"the metrics page cannot be read: {error}") from error
    return found


def _combined(quantity: str, samples: _Samples, name: str) -> float | None:
    name, _, label = name.partition("{")
    key, _, value = label.rstrip("}").partition("=")
    given: dict[frozenset[tuple[str, str]], float] = {}
    for labels, number in samples.get(name.removesuffix("_total"), ()):
        if (key and labels.get(key) != value.strip('"')) or not math.isfinite(number) or number < 0:
            continue
        replica = frozenset(pair for pair in labels.items() if pair[0] not in _REPLICAS)
        given[replica] = max(number, given.get(replica, 0.0))
    if not given:
        return None
    total = math.fsum(given.values())
    if quantity in _MEANS:
        total /= len(given)
    return min(1.0, total) if quantity in SHARES else total


def _product(samples: _Samples, name: str, labels: Iterable[str]) -> float | None:
    """What the labels of an info metric multiply to, over all its samples; None where one is not a number."""
    total = 0
    for stated, _ in samples.get(name, ()):
        numbers = [stated.get(label, "") for label in labels]
        if not all(number.isdecimal() for number in numbers):
            return None
        total += math.prod(map(int, numbers))
    return float(total) if total else None
