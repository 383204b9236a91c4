"""``tierwise report`` as it is called: from a store, from a journal, offline, and in every shape."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from policies.schema import Budget
from policies.values import Attempt, Entry, Usage
from router.cli import main
from router.ledger import Ledger
from router.ledger.budgets import Amount, Claim, Grant, account
from router.ledger.journal import Journal
from router.ledger.journal_file import Batch, JournalFile, Line
from router.ledger.ledger import JOURNAL_NAME
from router.ledger.sums import held
from router.ledger.tallying import pack_entries
from router.reports import export
from router.state import open_store
from router.state.embedded import EmbeddedStore
from router.state.store import RedisStore
from tests.router.ledger.entries import entry

POLICY = """
version: 1
tiers:
  small:
    backends:
      - {name: qwen, kind: vllm, base_url: "http://localhost:1/v1", model: qwen-7b,
         cost: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  large:
    backends:
      - {name: gpt, kind: vllm, base_url: "http://localhost:2/v1", model: gpt-4o,
         cost: {input_usd_per_mtok: 10, output_usd_per_mtok: 30}}
baseline: large
budgets:
  - {name: daily, per: day, usd: 2}
"""


def recorded() -> list[Entry]:
    now = time.time()
    made = [entry(f"s{i}", at=now, cost=1_000 + i, baseline=9_000) for i in range(20)]
    made += [entry(f"l{i}", at=now, cost=50_000, baseline=50_000, tier="large", backend="gpt") for i in range(3)]
    return [*made, entry("u", at=now, cost=None, tier="large", backend="unknown")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = JournalFile(tmp_path / JOURNAL_NAME)
    file.write([Line(made) for made in recorded()], time.time())
    file.close()
    return tmp_path


@pytest.fixture
def budgeted(tmp_path: Path) -> Path:
    budget = Budget(name="daily", per="day", usd=Decimal(2))
    grant = Grant((Claim(budget, account(budget, "", datetime.now(UTC)), Amount(1, 1)),))

    async def serve() -> None:
        async with open_store("", tmp_path) as store:
            ledger = Ledger(Journal(tmp_path / JOURNAL_NAME), store, every=0.05)
            await ledger.start()
            for made in recorded():
                ledger.record(made, grant)
            await ledger.stop()

    asyncio.run(serve())
    return tmp_path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def report(*options: object, code: int = 0) -> None:
    assert main(["report", *map(str, options)]) == code


def as_json(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, object]:
    report("--json", *options)
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_offline_and_from_the_store_the_figures_are_the_same(
    budgeted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = ("--by", "tier,backend", "--by", "key")
    offline = as_json(capsys, "--journal", budgeted / JOURNAL_NAME, *by)
    assert not EmbeddedStore(budgeted).running()
    assert as_json(capsys, "--data-dir", budgeted, *by) == offline
    embedded = EmbeddedStore(budgeted)
    url = embedded.start()
    assert as_json(capsys, "--data-dir", budgeted, *by) == offline
    assert as_json(capsys, "--redis", url, *by) == offline
    (budgeted / JOURNAL_NAME).unlink()
    assert as_json(capsys, "--data-dir", budgeted, *by) == offline
    embedded.stop()
    expected = sum(made.cost_nanos or 0 for made in recorded())
    assert offline["total"]["cost_nanos"] == expected  # type: ignore[index]
    assert offline["by"] == ["tier", "backend", "key"]


def test_a_window_that_cuts_a_day_kept_whole_is_widened_to_it_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = int(time.time()) // 86_400 - 40
    sums = pack_entries([entry(f"r{hour}", at=86_400 * day + 3_600 * hour, cost=7) for hour in range(24)])

    async def ship_and_compact(url: str) -> None:
        store = RedisStore(url)
        await store.ship(Batch("j", 1, 1, tuple((hour, name, packed) for (hour, name), packed in sums.items())))
        await store.compact(86_400 * (day + 5))
        await store.aclose()

    embedded = EmbeddedStore(tmp_path)
    asyncio.run(ship_and_compact(embedded.start()))
    at = datetime.fromtimestamp(86_400 * day, UTC)
    cut = (
        "--data-dir",
        tmp_path,
        "--timezone",
        "UTC",
        "--since",
        f"{at:%Y-%m-%d}T09:30",
        "--until",
        f"{at:%Y-%m-%d}T17:00",
    )
    found = as_json(capsys, *cut)
    assert (found["total"]["requests"], found["total"]["cost_nanos"]) == (24, 24 * 7)  # type: ignore[index]
    assert (found["since"], found["until"]) == (at.isoformat(), (at + timedelta(days=1)).isoformat())
    assert found["asked"] == [(at + timedelta(hours=9.5)).isoformat(), (at + timedelta(hours=17)).isoformat()]
    report(*cut, "--by", "hour")
    out = " ".join(capsys.readouterr().out.split())
    assert f"Cost report, {at:%Y-%m-%d} 00:00 to {at + timedelta(days=1):%Y-%m-%d} 00:00 UTC" in out
    assert f"asked for {at:%Y-%m-%d} 09:30 to {at:%Y-%m-%d} 17:00, summed over whole UTC hours, and before" in out
    embedded.stop()


def test_what_is_not_shipped_yet_is_in_the_report_all_the_same(
    budgeted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded = EmbeddedStore(budgeted)
    embedded.start()
    file = JournalFile(budgeted / JOURNAL_NAME)
    file.write([Line(entry("late", at=time.time(), cost=7))], time.time())
    file.close()
    assert as_json(capsys, "--data-dir", budgeted)["total"]["requests"] == 25  # type: ignore[index]
    embedded.stop()


@pytest.mark.parametrize("shape", ["table", "json", "csv", "markdown", "html"])
def test_every_shape_goes_to_the_terminal_and_to_a_file(
    data: Path, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report("--data-dir", data, "--format", shape)
    text = capsys.readouterr().out
    assert "large" in text
    suffix = {"markdown": "md", "table": "txt"}.get(shape, shape)
    report("--data-dir", data, "--output", data / f"report.{suffix}")
    assert (data / f"report.{suffix}").read_text().split() == text.split()
    assert capsys.readouterr().out == ""


def test_a_picture_goes_to_a_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report("--data-dir", data, "--output", data / "report.png")
    assert (data / "report.png").read_bytes().startswith(b"\x89PNG")
    report("--data-dir", data, "--format", "png", code=2)
    assert "--output report.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--by", "colour"), 2, "expected one of tier, model, backend"),
        (("--since", "soon"), 2, "expected an ISO date"),
        (("--timezone", "Mars/Olympus"), 2, "Mars/Olympus"),
        (("--since", "1d", "--until", "2d"), 2, "ends before it begins"),
        (("--watch", "--json"), 2, "--watch shows the table"),
        (("--compare", "7d", "--format", "csv"), 2, "as a table or as JSON"),
        (("--journal", "none.sqlite"), 1, "no journal at none.sqlite"),
        (("--redis", "redis://127.0.0.1:1"), 1, "is away"),
        (("--redis", "http://127.0.0.1:1"), 2, "not the URL of a store"),
        (("--redis", "redis+sentinel://h:1"), 2, "names its primary"),
        (("--reprice", "none.yaml"), 1, "none.yaml"),
        (("--export", "out.xls"), 1, "ends in .jsonl or .parquet"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(
    data: Path, options: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = () if {"--redis", "--journal"} & set(options) else ("--data-dir", data)
    report(*where, *options, code=code)
    assert words in capsys.readouterr().err


def test_a_folder_where_nothing_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report("--data-dir", tmp_path / "none", code=1)
    assert "nothing has been recorded" in capsys.readouterr().err


def test_passwords_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report("--redis", "redis://me:hunter2@127.0.0.1:1/0", code=1)
    error = capsys.readouterr().err
    assert "hunter2" not in error
    assert "me:***@127.0.0.1" in error


def test_comparing_two_windows(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--data-dir", data, "--since", "24h", "--compare", "7d")
    assert found["total"]["requests"] == {"before": 0, "now": 24}  # type: ignore[index]
    report("--data-dir", data, "--compare", "7d")
    assert "0 → 24" in capsys.readouterr().out


def test_other_prices(data: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = as_json(capsys, "--data-dir", data, "--reprice", policy)
    small, large = 100 * 1_000 + 20 * 2_000, 100 * 10_000 + 20 * 30_000
    by_tier = {row["tier"]: row for row in total["rows"]}  # type: ignore[attr-defined]
    assert by_tier["small"]["cost_nanos"] == 20 * small
    assert by_tier["small"]["baseline_nanos"] == 20 * large
    assert by_tier["large"]["cost_nanos"] == 4 * large - large + small, "unknown is found by its model, qwen-7b"
    assert any("at the prices of" in note for note in total["notes"])  # type: ignore[attr-defined]


def test_where_budgets_stand(budgeted: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spent = sum(made.cost_nanos or 0 for made in recorded())
    offline = as_json(capsys, "--data-dir", budgeted, "--budget", "--policy", policy)
    (row,) = offline["budgets"]  # type: ignore[misc]
    assert (row["budget"], row["spent_nanos"], row["requests"]) == ("daily", spent, 24)
    assert row["share"] == pytest.approx(spent / (2 * 10**9))
    embedded = EmbeddedStore(budgeted)
    embedded.start()
    assert as_json(capsys, "--data-dir", budgeted, "--budget", "--policy", policy) == offline
    report("--data-dir", budgeted, "--budget", "--policy", policy)
    assert "$2 a day" in capsys.readouterr().out
    embedded.stop()


def test_idle_gpus_and_what_tokens_would_cost_at_full_load(
    data: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_json(capsys, "--data-dir", data, "--idle") == {"gpus": []}
    now = time.time()
    file = JournalFile(data / JOURNAL_NAME)
    file.write([], now, held("qwen", 3_600 * 10**9, now - 10, now - 1))
    file.close()
    by_time = "cost: {gpu_hour_usd: 3600, capacity: 10, tokens_per_second: 50}"
    policy.write_text(POLICY.replace("cost: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}", by_time))
    (bill,) = as_json(capsys, "--data-dir", data, "--idle", "--policy", policy)["gpus"]  # type: ignore[misc]
    assert bill["billed_nanos"] == 10 * 10**9 == bill["paid_nanos"] + bill["idle_nanos"]
    assert bill["paid_nanos"] == sum(1_000 + i for i in range(20))
    assert bill["usd_per_mtok"] == pytest.approx(10 / 400 * 1e6)
    assert bill["usd_per_mtok_full"] == pytest.approx(1e6 / 500)
    report("--data-dir", data, "--idle", "--policy", policy)
    assert "$2,000.00" in capsys.readouterr().out


def test_entries_are_exported_with_the_standards_names(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report("--data-dir", data, "--export", data / "out.jsonl")
    assert "24 entries" in capsys.readouterr().out
    rows = [orjson.loads(line) for line in (data / "out.jsonl").read_bytes().splitlines()]
    assert sum(Decimal(row["BilledCost"]) for row in rows if row["BilledCost"]) == Decimal("0.000170190")
    assert [row["x_RequestId"] for row in rows if row["BilledCost"] is None] == ["u"]
    assert set(rows[0]) == set(export._COLUMNS)
    assert all(name.startswith("x_") or name[0].isupper() for name in rows[0])


def test_entries_are_exported_as_parquet_where_pyarrow_is(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        report("--data-dir", data, "--export", data / "out.parquet", code=1)
        assert "pip install pyarrow" in capsys.readouterr().err
        return
    report("--data-dir", data, "--export", data / "out.parquet")
    table = pq.read_table(data / "out.parquet")
    assert table.num_rows == 24
    assert table.column_names == list(export._COLUMNS)


@pytest.fixture
def watching(data: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "router.cli", "report", "--data-dir", str(data), "--watch", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_watching_shows_what_is_recorded_meanwhile(data: Path, watching: subprocess.Popen[str]) -> None:
    assert watching.stdout is not None
    assert any(line.split()[:2] == ["total", "24"] for line in watching.stdout)
    file = JournalFile(data / JOURNAL_NAME)
    file.write([Line(entry("more", at=time.time()))], time.time())
    file.close()
    assert any(line.split()[:2] == ["total", "25"] for line in watching.stdout)


def test_an_attempt_that_failed_is_billed_and_shown_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage(10, output_tokens=5)
    attempts = (
        Attempt("qwen", "small", "qwen-7b", "error", 500, usage=usage, cost_nanos=30),
        Attempt("gpt", "large", "gpt-4o", "ok", 200, usage=usage, cost_nanos=700),
    )
    made = replace(entry("r", at=time.time(), attempts=attempts, cost=730, tier="large", backend="gpt"))
    file = JournalFile(tmp_path / JOURNAL_NAME)
    file.write([Line(made)], time.time())
    file.close()
    total = as_json(capsys, "--data-dir", tmp_path)["total"]
    assert (total["cost_nanos"], total["wasted_nanos"], total["failed_attempts"]) == (730, 30, 1)  # type: ignore[index]
