"""The chart, rendered by Helm itself: every object is valid for Kubernetes, and the objects fit each other."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from policies.document import load
from router.cli import keys
from router.telemetry import Telemetry
from tests.deploy.stack import DEPLOY, ROOT, serving

CHART = str(DEPLOY / "helm" / "tierwise")
KUBERNETES = ("1.31.0", kubernetes_validate.latest_version())
Values = Mapping[str, Any]

CASES: dict[str, Values] = {
    "as it comes": {},
    "without volumes": {"journal": {"persistent": False}},
    "fixed size": {"autoscaling": {"enabled": False}, "replicas": 3},
    "open to all": {"open": True},
    "by CPU alone": {"autoscaling": {"inFlight": 0}},
    "everything": {
        "image": {"repository": "example/tierwise", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "existingPolicy": "my-policy",
        "redis": {"secret": "store", "key": "address"},
        "secrets": [{"env": "OPENAI_API_KEY", "secret": "keys", "key": "openai"}],
        "env": {"SMALL_URL": "http://vllm:8000/v1", "DEPTH": 3},
        "journal": {"persistent": True, "size": "20Gi", "storageClass": "fast"},
        "service": {"type": "LoadBalancer", "port": 8080},
        "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}], "internet": False},
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "key": {"secret": "keys", "key": "prometheus"},
        },
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"a": "b"},
    },
}

SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": {"type": "object"}, "matchExpressions": {"type": "array"}},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                            "authorization": {
                                "type": "object",
                                "required": ["credentials"],
                                "additionalProperties": False,
                                "properties": {
                                    "credentials": {
                                        "type": "object",
                                        "required": ["name", "key"],
                                        "additionalProperties": False,
                                        "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
                                    }
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The part of the Prometheus operator's ServiceMonitor that the chart uses; it is not Kubernetes' own."""


def render(values: Values) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        manifests = chart.render(dict(values), name="tw", namespace="llm")
    documents = [yaml.safe_load_all(text) for name, text in manifests.items() if name.endswith(".yaml")]
    return [document for each in documents for document in each if document]


def by_kind(values: Values) -> dict[str, dict[str, Any]]:
    """The objects by kind; of the two services, the one that clients call."""
    return {object["kind"]: object for object in render(values) if not object["metadata"]["name"].endswith("-pods")}


def pod(objects: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    workload = objects.get("StatefulSet") or objects["Deployment"]
    return dict(workload["spec"]["template"])


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_helm_finds_nothing_wrong() -> None:
    found = helm.lint(CHART)
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid(case: str, version: str) -> None:
    for manifest in render(CASES[case]):
        if manifest["kind"] == "ServiceMonitor":
            Draft202012Validator(SERVICE_MONITOR).validate(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_validation_is_strict() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}},
            KUBERNETES[-1],
            strict=True,
        )


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": 0},
        {"redis": {"secret": "redis://user:password@host:6379", "key": "url"}},
        {"secrets": [{"env": "OPENAI_API_KEY", "value": "sk-in-the-open"}]},
        {"autoscaling": {"cpuPercent": 300}},
        {"journal": {"size": "much"}},
        {"policy": ""},
        {"networkPolicy": {"clients": [{}]}},
        {"open": "yes"},
        {"serviceMonitor": {"enabled": True, "key": {"secret": "keys"}}},
    ],
)
def test_the_schema_refuses(values: Values) -> None:
    with pytest.raises(helm.HelmError):
        render(values)


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((DEPLOY / "helm" / "tierwise" / "values.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    values = yaml.safe_load((DEPLOY / "helm" / "tierwise" / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    used = set()
    for template in (DEPLOY / "helm" / "tierwise" / "templates").iterdir():
        used |= set(re.findall(r"\.Values\.(\w+)", template.read_text()))
    assert used == set(values)


@pytest.mark.parametrize("case", CASES)
def test_objects_fit_each_other(case: str) -> None:
    objects = by_kind(CASES[case])
    template = pod(objects)
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    workload = objects.get("StatefulSet") or objects["Deployment"]
    assert selects(workload["spec"]["selector"]["matchLabels"], labels)
    assert selects(objects["Service"]["spec"]["selector"], labels)
    assert selects(objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"], labels)
    assert selects(objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"], labels)
    assert template["spec"]["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] in ports
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    if "HorizontalPodAutoscaler" in objects:
        target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"])
        assert "replicas" not in workload["spec"]
    if "ServiceMonitor" in objects:
        spec = objects["ServiceMonitor"]["spec"]
        assert selects(spec["selector"]["matchLabels"], objects["Service"]["metadata"]["labels"])
        assert spec["endpoints"][0]["port"] == objects["Service"]["spec"]["ports"][0]["name"]


def test_scrapes_each_pod_once() -> None:
    objects = render({"serviceMonitor": {"enabled": True}})
    (monitor,) = [each for each in objects if each["kind"] == "ServiceMonitor"]
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert expression["operator"] == "DoesNotExist"
    services = [each["metadata"] for each in objects if each["kind"] == "Service"]
    assert [meta["name"] for meta in services if expression["key"] not in meta["labels"]] == ["tw"]


@pytest.mark.parametrize("case", CASES)
def test_the_container_may_do_little(case: str) -> None:
    spec = pod(by_kind(CASES[case]))["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert str(spec["securityContext"]["runAsUser"]) in (DEPLOY / "Dockerfile").read_text()
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_runs_the_policy_it_was_given() -> None:
    objects = by_kind({})
    (container,) = pod(objects)["spec"]["containers"]
    args = serving(container["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    folder, _, name = args.policy.rpartition("/")
    assert mounts[folder] == "policy"
    assert mounts[args.data_dir] == "data"
    assert (args.host, args.open, args.workers) == ("0.0.0.0", False, 1)
    assert {args.port} == {port["containerPort"] for port in container["ports"]}
    loaded = load(objects["ConfigMap"]["data"][name], file=name, environ={"REDIS_URL": "redis://store:6379"})
    assert loaded.policy.redis == "redis://store:6379"
    assert loaded.policy.auth.required, "or it would refuse to start"
    assert loaded.policy.auth.public_metrics, "for the ServiceMonitor brings no key"
    assert loaded.warnings == ()


def test_it_is_open_only_where_somebody_says_so() -> None:
    (container,) = pod(by_kind({"open": True}))["spec"]["containers"]
    assert serving(container["args"]).open
    for values, said in (({}, "Clients need keys"), ({"open": True}, "whoever reaches it may spend")):
        with helm.Chart.load(CHART) as chart:
            notes = chart.render(dict(values), name="tw", namespace="llm")
        assert said in next(text for name, text in notes.items() if name.endswith("NOTES.txt"))


def test_the_commands_of_the_notes_are_understood() -> None:
    with helm.Chart.load(CHART) as chart:
        notes = chart.render({}, name="tw", namespace="llm")
    text = next(text for name, text in notes.items() if name.endswith("NOTES.txt"))
    commands = re.findall(r"-- tierwise (keys .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    parser = argparse.ArgumentParser()
    keys.register(parser)
    for command in commands:
        args = parser.parse_args(command.split()[1:])
        assert args.policy == "/etc/tierwise/policy.yaml"


def test_a_monitor_may_bring_an_admins_key_by_reference() -> None:
    endpoint = by_kind(CASES["everything"])["ServiceMonitor"]["spec"]["endpoints"][0]
    assert endpoint["authorization"] == {"credentials": {"name": "keys", "key": "prometheus"}}
    (plain,) = by_kind({"serviceMonitor": {"enabled": True}})["ServiceMonitor"]["spec"]["endpoints"]
    assert "authorization" not in plain


def test_a_changed_policy_rolls_the_pods() -> None:
    before, after = (pod(by_kind({"policy": policy}))["metadata"]["annotations"] for policy in ("a: 1", "a: 2"))
    assert before["checksum/policy"] != after["checksum/policy"]


def test_there_is_time_to_drain() -> None:
    spec = pod(by_kind({"drainSeconds": 90}))["spec"]
    pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > 90 + pause


def test_secrets_come_by_reference_only() -> None:
    env = pod(by_kind(CASES["everything"]))["spec"]["containers"][0]["env"]
    references = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in env if "valueFrom" in each}
    assert references == {
        "REDIS_URL": {"name": "store", "key": "address"},
        "OPENAI_API_KEY": {"name": "keys", "key": "openai"},
    }
    assert "Secret" not in {each["kind"] for each in render(CASES["everything"])}


def test_scales_by_cpu_and_by_what_is_in_flight() -> None:
    metrics = by_kind({})["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    name = metrics[1]["pods"]["metric"]["name"]
    assert f"\n{name} " in Telemetry().exposition().decode()
    assert len(by_kind(CASES["by CPU alone"])["HorizontalPodAutoscaler"]["spec"]["metrics"]) == 1


def test_strangers_reach_nothing() -> None:
    spec = by_kind(CASES["everything"])["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = spec["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"team": "a"}}} in ingress["from"]
    assert {"podSelector": {}} not in ingress["from"]
    assert not [rule for rule in spec["egress"] if any("ipBlock" in peer for peer in rule.get("to", []))]
    (default,) = by_kind({})["NetworkPolicy"]["spec"]["ingress"]
    assert {"podSelector": {}} in default["from"]


def test_the_version_is_the_projects() -> None:
    chart = yaml.safe_load((DEPLOY / "helm" / "tierwise" / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert chart["appVersion"] == version[1]
