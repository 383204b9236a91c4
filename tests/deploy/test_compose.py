"""The compose file: valid by the specification, of one piece, and closed to everybody beyond this machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from policies.document import load
from policies.durations import parse
from tests.deploy.stack import DEPLOY, compose, serving

STACK = compose({})
SERVICES = STACK["services"]
PROXIES = [name for name, service in SERVICES.items() if service["image"] == "tierwise"]
ENGINES = {name for name, service in SERVICES.items() if service.get("profiles")}
SIMULATED = (DEPLOY / "policies" / "simulated.yaml").read_text(encoding="utf-8")


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [volume.split(":") for volume in service.get("volumes", [])]


@pytest.mark.parametrize("environ", [{}, {"TIERWISE_POLICY": "edge.yaml", "TIERWISE_PORT": "1", "MODELS": "/gguf"}])
def test_follows_the_specification(environ: dict[str, str]) -> None:
    stack = compose(environ)
    assert sorted(PyCompose.from_yaml(yaml.safe_dump(stack)).service_names()) == sorted(stack["services"])


def test_the_specification_is_enforced() -> None:
    with pytest.raises(ValueError, match="imgae"):
        PyCompose.from_yaml("services: {a: {image: x, imgae: y}}")


def test_variables_are_taken_from_the_environment() -> None:
    stack = compose({"TIERWISE_PORT": "9", "OPENAI_API_KEY": "secret"})
    assert stack["services"]["front"]["ports"] == ["127.0.0.1:9:8080"]
    assert stack["services"]["proxy-a"]["environment"]["OPENAI_API_KEY"] == "secret"


@pytest.mark.parametrize("name", SERVICES)
def test_everything_a_service_names_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("networks", [])) <= set(STACK["networks"])
    assert set(service.get("depends_on", [])) <= set(SERVICES) - ENGINES
    for source, *_ in mounts(service):
        if not source.startswith("."):
            assert source in STACK["volumes"]
        elif name not in ENGINES:
            assert (DEPLOY / source).exists(), source


def test_every_volume_and_profile_is_used() -> None:
    used = {source for service in SERVICES.values() for source, *_ in mounts(service)}
    assert set(STACK["volumes"]) <= used
    assert {profile for name in ENGINES for profile in SERVICES[name]["profiles"]} == {
        "small", "code", "large", "sglang", "edge",
    }  # fmt: skip


def test_waiting_for_health_is_waiting_for_a_check_that_exists() -> None:
    own = {"tierwise"} if "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text() else set()
    for service in SERVICES.values():
        needs = service.get("depends_on", {})
        for needed in needs if isinstance(needs, dict) else ():
            assert "healthcheck" in SERVICES[needed] or SERVICES[needed]["image"] in own, needed


def test_two_proxies_on_one_store_with_a_journal_each() -> None:
    assert len(PROXIES) == 2
    journals = {source for name in PROXIES for source, target, *_ in mounts(SERVICES[name]) if target == "/data"}
    assert len(journals) == 2
    drain = load(SIMULATED, file="simulated.yaml", environ={}).policy.limits.drain
    for name in PROXIES:
        args = serving(SERVICES[name]["command"])
        assert (args.host, args.open, args.data_dir, args.workers) == ("0.0.0.0", True, "/data", 1)
        assert (DEPLOY / "policies" / args.policy).is_file()
        assert SERVICES[name]["environment"]["REDIS_URL"] == "redis://valkey:6379/0"
        assert parse(SERVICES[name]["stop_grace_period"]) > drain


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_listens_beyond_loopback_or_gains_privileges(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service.get("privileged")
    if name not in ENGINES:
        assert "no-new-privileges:true" in service["security_opt"]
        assert service.get("read_only") or name == "grafana"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_name_no_registry(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    owner, slash, _ = image.partition("/")
    assert not slash or "." not in owner
    assert (tag and tag != "latest") or image == "tierwise"


def test_the_store_keeps_books() -> None:
    command = SERVICES["valkey"]["command"]
    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--maxmemory-policy"] == "noeviction"
