"""Whole entries, one line or row each, for other tools.

Columns have the names of the FinOps FOCUS standard (https://focus.finops.org, version 1.2) where it has one; ours begin
with ``x_``, as it asks. Money is in dollars as decimal text, so that nothing is rounded; an unpriced entry's is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from policies.money import usd
from policies.values import Entry
from router.ledger import codec

_ROWS_AT_ONCE = 10_000


class ExportFailed(Exception):
    """The export cannot be made; the text says why and what to do."""


def row(entry: Entry) -> dict[str, Any]:
    """One entry as FOCUS columns."""
    cost = None if entry.cost_nanos is None else str(usd(entry.cost_nanos))
    began = datetime.fromtimestamp(entry.at, UTC)
    usage = entry.usage
    return {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"{entry.requested_model} answered by {entry.served_model or 'nobody'}",
        "ChargePeriodStart": began.isoformat(),
        "ChargePeriodEnd": (began + timedelta(milliseconds=entry.total_ms)).isoformat(),
        "ConsumedQuantity": usage.input_tokens + usage.output_tokens,
        "ConsumedUnit": "Tokens",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": entry.tier,
        "ResourceId": entry.backend,
        "ResourceName": entry.served_model,
        "ResourceType": "Language Model",
        "SubAccountId": entry.key_id,
        "x_RequestId": entry.id,
        "x_RequestedModel": entry.requested_model,
        "x_Domain": entry.signals.domain if entry.signals and entry.signals.knows_domain else None,
        "x_Complexity": entry.signals.complexity if entry.signals else None,
        "x_Reason": "; ".join(entry.decision.reasons),
        "x_PolicyHash": entry.decision.policy_hash,
        "x_Propensity": entry.decision.propensity,
        "x_Status": entry.status,
        "x_Outcome": entry.outcome,
        "x_Attempts": len(entry.attempts),
        "x_InputTokens": usage.input_tokens,
        "x_CachedInputTokens": usage.cached_input_tokens,
        "x_CacheWriteTokens": usage.cache_write_tokens,
        "x_OutputTokens": usage.output_tokens,
        "x_ReasoningTokens": usage.reasoning_tokens,
        "x_CacheWrite1hTokens": usage.cache_write_1h_tokens,
        "x_AudioInputTokens": usage.audio_input_tokens,
        "x_AudioOutputTokens": usage.audio_output_tokens,
        "x_ImageInputTokens": usage.image_input_tokens,
        "x_ImageOutputTokens": usage.image_output_tokens,
        "x_UsageMeasured": usage.measured,
        "x_BaselineCost": None if entry.baseline_nanos is None else str(usd(entry.baseline_nanos)),
        "x_ClassifyMs": entry.classify_ms,
        "x_OverheadMs": entry.overhead_ms,
        "x_TtftMs": entry.ttft_ms,
        "x_TotalMs": entry.total_ms,
    }


def export(bodies: Iterable[bytes], path: Path) -> int:
    """Write journalled entries to a ``.jsonl`` or ``.parquet`` file; returns how many. Raises `ExportFailed`."""
    rows = (row(codec.decode(body)) for body in bodies)
    if path.suffix == ".jsonl":
        return _jsonl(rows, path)
    if path.suffix == ".parquet":
        return _parquet(rows, path)
    raise ExportFailed(f"{path.name}: name a file that ends in .jsonl or .parquet")


def _jsonl(rows: Iterable[dict[str, Any]], path: Path) -> int:
    with path.open("wb") as out:
        return sum(bool(out.write(orjson.dumps(line) + b"\n")) for line in rows)


def _parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExportFailed("Parquet needs pyarrow (pip install pyarrow); .jsonl needs nothing") from error
    schema, count = _schema(pa), 0
    with pq.ParquetWriter(path, schema) as out:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            out.write_table(pa.Table.from_pylist(chunk, schema))
            count += len(chunk)
    return count


def _schema(pa: Any) -> Any:
    numbers = {"ConsumedQuantity", "x_Status", "x_Attempts"} | {name for name in _COLUMNS if name.endswith("Tokens")}
    reals = {"x_Complexity", "x_Propensity"} | {name for name in _COLUMNS if name.endswith("Ms")}
    kinds = {**dict.fromkeys(numbers, pa.int64()), **dict.fromkeys(reals, pa.float64()), "x_UsageMeasured": pa.bool_()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])


_COLUMNS = (
    "BilledCost", "EffectiveCost", "BillingCurrency", "ChargeCategory", "ChargeFrequency", "ChargeDescription",
    "ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity", "ConsumedUnit", "ServiceCategory", "ServiceName",
    "ResourceId", "ResourceName", "ResourceType", "SubAccountId", "x_RequestId", "x_RequestedModel", "x_Domain",
    "x_Complexity", "x_Reason", "x_PolicyHash", "x_Propensity", "x_Status", "x_Outcome", "x_Attempts", "x_InputTokens",
    "x_CachedInputTokens", "x_CacheWriteTokens", "x_OutputTokens", "x_ReasoningTokens", "x_CacheWrite1hTokens",
    "x_AudioInputTokens", "x_AudioOutputTokens", "x_ImageInputTokens", "x_ImageOutputTokens", "x_UsageMeasured",
    "x_BaselineCost", "x_ClassifyMs", "x_OverheadMs", "x_TtftMs", "x_TotalMs",
)  # fmt: skip
