"""Dashboards and alerts ask only for what a proxy exposes: each expression parses, each name and label exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from policies.values import EngineView, Outcome
from router.launch import running_proxy
from router.telemetry import Telemetry
from tests.debian import program
from tests.deploy.stack import DEPLOY, compose

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "tierwise.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((rule["alert"], rule["expr"]) for rule in RULES),
]
FROM_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""
Labels = dict[str, dict[str, set[str]]]
"""Samples by name, with the values of each of their labels."""


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """What a proxy exposes that has answered, streamed, answered without a price, and heard of an engine."""
    folder = tmp_path_factory.mktemp("observability")
    policy = (DEPLOY / "policies" / "simulated.yaml").read_text(encoding="utf-8")
    unpriced = "{name: free, kind: simulated, model: m}"
    policy = policy.replace("tiers:\n", f"tiers:\n  unpriced: {{backends: [{unpriced}]}}\n")
    (folder / "policy.yaml").write_text(policy)
    with running_proxy(folder / "policy.yaml", folder / "data", environ={**os.environ, "REDIS_URL": ""}) as proxy:
        proxy.wait_until_ready()
        for model, stream in (("auto", False), ("tier/large", True), ("free", False)):
            body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Name a colour."}]}
            assert httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
        text = httpx.get(f"{proxy.url}/metrics").text
    engine = EngineView(**dict.fromkeys((field.name for field in fields(EngineView)), 0.5))
    drafting = Telemetry(lambda: {"gpu": engine}).exposition().decode()
    found: Labels = {}
    for family in (*text_string_to_metric_families(text), *text_string_to_metric_families(drafting)):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def nodes(expression: promql.Expr) -> list[promql.Expr]:
    seen: list[promql.Expr] = []
    promql.walk(expression, pre_visit=lambda node: bool(seen.append(node)) or True)
    return seen


def parsed(query: str) -> promql.Expr:
    return promql.parse(query.replace("$__rate_interval", "5m").replace("$instance", ".*"))


def selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    for node in nodes(parsed(query)):
        if isinstance(node, promql.VectorSelector):
            yield node.name, {matcher.name: matcher.value for matcher in node.matchers.matchers}


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_asks_for_what_there_is(scraped: Labels, title: str, query: str) -> None:
    asked = list(selectors(query))
    assert asked
    for name, matchers in asked:
        if name == "up":
            continue
        assert name in scraped, f"{title}: no proxy exposes {name}"
        assert set(matchers) <= set(scraped[name]) | FROM_PROMETHEUS
        for outcome in matchers.get("outcome", "").split("|") if "outcome" in matchers else ():
            assert outcome in get_args(Outcome)
        if "part" in matchers:
            assert matchers["part"] in scraped[name]["part"]
    labels = set().union(*(scraped[name] for name, _ in asked if name != "up"), FROM_PROMETHEUS)
    for node in nodes(parsed(query)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_explains_itself_and_names_what_its_query_keeps(scraped: Labels, panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        kept = set().union(*(scraped[name] for name, _ in selectors(target["expr"]))) | FROM_PROMETHEUS
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept
    assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_the_matter(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    kept = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    by = {label for node in nodes(parsed(rule["expr"])) if isinstance(node, promql.AggregateExpr) and node.modifier
          for label in node.modifier.labels}  # fmt: skip
    assert set(kept) <= by | FROM_PROMETHEUS


def test_prometheus_asks_every_proxy_and_engine_of_the_compose_file() -> None:
    services = compose({})["services"]
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    (proxies,) = jobs.pop("tierwise")["static_configs"]
    assert set(proxies["targets"]) == {f"{n}:8080" for n, s in services.items() if s["image"] == "tierwise"}
    engines = {name for job in jobs.values() for sd in job["dns_sd_configs"] for name in sd["names"]}
    assert engines == {name for name, service in services.items() if service.get("profiles")}


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tierwise.yaml").read_text())["providers"]
    grafana = compose({})["services"]["grafana"]
    assert source["url"] == "http://prometheus:9090"
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).is_file()


def test_prometheus_accepts_its_configuration() -> None:
    command = [program("promtool", "prometheus"), "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
