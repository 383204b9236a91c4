"""The example policies: valid without a warning, and of one piece with the compose file that runs their engines."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from policies.document import load
from policies.schema import Backend, GpuPrice
from router.cli import main
from tests.deploy.stack import DEPLOY, compose, flags

POLICIES = sorted((DEPLOY / "policies").glob("*.yaml"))
SERVICES = compose({})["services"]
PRECISION = {"awq_marlin": "int4", "fp8": "fp8"}
"""What the flag ``--quantization`` makes of weights, as policies call it."""


def backends(path: Path) -> list[Backend]:
    policy = load(path.read_text(encoding="utf-8"), file=str(path), environ={}).policy
    return [backend for tier in policy.tiers.values() for backend in tier.backends]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_passes_the_strict_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--strict", str(path)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_explains_itself_and_takes_its_store_from_outside(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}: ")
    given = load(text, file=str(path), environ={"REDIS_URL": "redis://elsewhere:6379/0"}).policy
    assert given.redis == "redis://elsewhere:6379/0"


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_engines_of_the_compose_file_are_what_the_policy_says(path: Path) -> None:
    stated = re.search(r"Compose profiles?: ([\w, -]+)\.", path.read_text(encoding="utf-8"))
    profiles = set(stated[1].split(", ")) if stated else set()
    used = set()
    for backend in backends(path):
        address = urlsplit(backend.base_url or "")
        service = SERVICES.get(address.hostname)
        if service is None or not service.get("profiles"):
            continue
        used |= set(service["profiles"])
        command = flags(service["command"])
        assert backend.model == (command.get("--served-model-name") or command["--alias"])
        assert address.port == int(command.get("--port", "8000"))
        window = command.get("--max-model-len") or command.get("--context-length") or command["--ctx-size"]
        assert backend.context_window == int(window) // int(command.get("--parallel", "1"))
        if "--quantization" in command:
            assert backend.precision == PRECISION[command["--quantization"]]
        if "deploy" in service:
            (device,) = service["deploy"]["resources"]["reservations"]["devices"]
            assert isinstance(backend.cost, GpuPrice)
            assert backend.cost.gpus == device["count"] == int(command.get("--tensor-parallel-size", "1"))
        if "--max-num-seqs" in command:
            assert isinstance(backend.cost, GpuPrice)
            assert backend.cost.capacity == int(command["--max-num-seqs"])
    assert used == profiles
