"""The reference in policies/README.md: every setting with its default, nothing else, and examples that load."""

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import policies
from policies.document import load
from policies.durations import show
from policies.schema import Policy

README = (Path(policies.__file__).parent / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    "The document": "Policy",
    "`tiers.<name>`": "Tier",
    "`tiers.<name>.escalate`": "Escalate",
    "`tiers.<name>.backends[]`": "Backend",
    "`cost`, by token": "TokenPrice",
    "`cost.above[]`": "RatesAbove",
    "`cost.service_tiers.<name>`": "ServiceRates",
    "`cost`, by time": "GpuPrice",
    "`simulate`": "Simulation",
    "`objective` and `objectives.<name>`": "Objective",
    "`rules[]`": "Rule",
    "`rules[].exclude`": "Exclude",
    "`when`": "When",
    "Ranges": "Range",
    "`when.time`": "Hours",
    "`session`": "SessionSettings",
    "`timeouts`": "Timeouts",
    "`retries`": "Retries",
    "`cooldown`": "Cooldown",
    "`budgets[]`": "Budget",
    "`classifier`": "ClassifierSettings",
    "`auth`": "Auth",
    "`limits`": "Limits",
    "`scrape`": "Scrape",
    "`ledger`": "LedgerSettings",
    "`logging`": "Logging",
}


def models(annotation: Any, seen: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """Collect every model that a policy can have in it."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation.__name__ not in seen:
        seen[annotation.__name__] = annotation
        for field in annotation.model_fields.values():
            models(field.annotation, seen)
    for inner in get_args(annotation):
        models(inner, seen)
    return seen


MODELS = models(Policy, {})


def tables() -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    for heading, body in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+) \|$", body, re.MULTILINE)
        yield heading, {key: (default, meaning) for key, default, meaning in rows}


def written(field: FieldInfo) -> str:
    """Write a default as the reference does."""
    default = field.default
    if field.is_required():
        return "required"
    if default is None or default == "":
        return "–"
    if isinstance(default, timedelta):
        return f"`{show(default)}`"
    if isinstance(default, Decimal):
        return f"`{default}`"
    if isinstance(default, BaseModel):
        default = default.model_dump(by_alias=True, exclude_none=True)
        if len(default) > 2:
            return "as below"
    if isinstance(default, tuple):
        default = list(default)
    if default in ({}, []):
        return "none"
    flow = yaml.safe_dump(default, default_flow_style=True, width=999)
    return f"`{flow.strip().removesuffix('...').strip()}`"


def test_every_section_of_the_document_has_a_table() -> None:
    assert set(MODELS) == set(SECTIONS.values())
    assert [heading for heading, _ in tables()] == list(SECTIONS)


@pytest.mark.parametrize(("heading", "rows"), [*tables()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_setting_is_documented_with_its_default(heading: str, rows: dict[str, tuple[str, str]]) -> None:
    fields = {field.alias or name: field for name, field in MODELS[SECTIONS[heading]].model_fields.items()}
    assert list(rows) == list(fields)
    for key, (default, meaning) in rows.items():
        assert default == written(fields[key]), key
        assert meaning.strip()


EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_loads(example: str) -> None:
    loaded = load(example, file="README.md", environ={})
    assert [warning for warning in loaded.warnings if "unpriced" not in warning.message] == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
