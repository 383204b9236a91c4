from __future__ import annotations

import csv
import io
import json
import struct
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from rich.console import Console

from router.ledger.sums import held
from router.reports import formats
from router.reports.html import as_html
from router.reports.png import NoPictures, as_png
from router.reports.report import Report
from router.reports.table import print_comparison, print_gpus, print_report
from tests.router.ledger.entries import NOON, entry
from tests.router.reports.test_report import made


@pytest.fixture
def found() -> Report:
    recorded = [entry(str(i), cost=333_333_333, baseline=1_000_000_000, domain="math") for i in range(3)]
    recorded += [entry("dear", cost=2 * 10**9, baseline=10**9, tier="large", domain="a|b", key="<script>")]
    recorded += [entry("u", cost=None, tier="mystery", backend="who")]
    return made(recorded, "tier", "domain", "key", extra=held("qwen", 10**9, NOON, NOON + 99))


def test_json_is_exact_and_complete(found: Report) -> None:
    plain = json.loads(formats.as_json(found))
    assert plain["by"] == ["tier", "domain", "key"]
    assert [row["tier"] for row in plain["rows"]] == ["large", "small", "mystery"]
    assert plain["total"]["cost_nanos"] == 2_999_999_999 == sum(row["cost_nanos"] for row in plain["rows"])
    assert plain["total"]["cost_usd"] == 2.999999999
    assert plain["total"]["unpriced"] == 1
    assert plain["rows"][0]["saving_usd"] == -1.0
    assert plain["saving_interval"]["confidence"] == 0.95
    assert plain["gpus"][0]["billed_nanos"] == 10**9 * 100 // 3600
    assert plain["rows"][1]["total_ms_p99"] == pytest.approx(40, rel=0.01)


def test_csv_columns_add_up_to_the_total(found: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(formats.as_csv(found))))
    assert len(lines) == 3
    assert sum(int(line["cost_nanos"]) for line in lines) == found.total.cost_nanos
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal("2.999999999")
    assert lines[0]["domain"] == "a|b"


def test_markdown_is_one_table_whatever_the_names(found: Report) -> None:
    lines = formats.as_markdown(found).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "unpriced" in table[4]
    assert table[-1].startswith("| total |")
    assert any(line.startswith("- 1 requests (20.0%) are unpriced") for line in lines)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_html_needs_nothing_else_and_runs_nothing(found: Report) -> None:
    text = as_html(found)
    page = _Page()
    page.feed(text)
    assert page.tags.count("svg") == 2
    assert page.tags.count("rect") == 2 * 2 * len(found.rows)
    assert "script" not in page.tags
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "http" not in text
    assert "&lt;script&gt;" in text


def test_html_of_nothing() -> None:
    assert "<svg" in as_html(made([]))


def test_png_is_a_picture(found: Report) -> None:
    picture = as_png(found)
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 800 < height * 4


def test_without_matplotlib_it_says_how_to_have_it(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(NoPictures, match="pip install matplotlib"):
        as_png(found)


def shown(found: Report, *, terminal: bool) -> str:
    out = io.StringIO()
    print_report(Console(file=out, width=200, force_terminal=terminal, color_system=None), found)
    return out.getvalue()


def test_bars_are_drawn_on_a_terminal_alone(found: Report) -> None:
    assert "█" in shown(found, terminal=True)
    assert "█" not in shown(found, terminal=False)


def test_the_table_says_everything(found: Report) -> None:
    text = shown(found, terminal=False)
    for words in (
        "-$1.0000",
        "unpriced",
        "95% interval",
        "GPUs of qwen up to 2026-11-22 12:01:40: 0.03 h",
        "1 requests (20.0%) are unpriced",
    ):
        assert words in text
    assert "$3.0000" in text.split("total")[-1]


def test_comparisons_and_gpu_bills_are_tables_too(found: Report) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    print_comparison(console, made([entry("x", cost=10**9)], "tier", "domain", "key"), found)
    print_gpus(console, found, {"qwen": 4_340_000_000})
    assert "$1.0000 → $3.0000" in out.getvalue()
    assert "$4.34" in out.getvalue()


@pytest.mark.parametrize(
    ("nanos", "places", "text"),
    [
        (0, 6, "$0.000000"),
        (-1_500_000_000, 2, "-$1.50"),
        (1_234_567 * 10**9, 2, "$1,234,567.00"),
        (-1, 6, "-$0.000000"),
    ],
)
def test_dollars(nanos: int, places: int, text: str) -> None:
    assert formats.dollars(nanos, places) == text
