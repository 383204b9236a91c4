"""The systemd unit: what it runs is a command line that is understood, and it may do little."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess

import pytest

from policies.durations import parse
from policies.schema import Limits
from router.cli import COMMANDS
from tests.deploy.stack import DEPLOY, serving

UNIT = DEPLOY / "systemd" / "tierwise.service"
LINES = re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
SETTINGS = dict(LINES)
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def test_has_the_three_sections_and_no_stray_line() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_what_it_runs_is_understood() -> None:
    program, *words = SETTINGS["ExecStart"].split()
    args = serving(words)
    assert program == "/opt/tierwise/bin/tierwise"
    assert args.data_dir == "${STATE_DIRECTORY}"
    assert not args.open
    for name, text in LINES:
        if name == "ExecStartPre":
            assert text.split()[:1] == [program]
            assert text.split()[1] in COMMANDS


def test_waits_longer_than_the_proxy_drains() -> None:
    assert parse(f"{SETTINGS['TimeoutStopSec']}s") > Limits().drain
    assert SETTINGS["KillMode"] == "mixed"


@needs_systemd
def test_systemd_accepts_it() -> None:
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(UNIT)], capture_output=True, text=True)
    lines = [line for line in ran.stderr.splitlines() if UNIT.name in line]
    assert [line for line in lines if "not executable" not in line] == [], "it need not be installed here"


@needs_systemd
def test_systemd_calls_its_exposure_low() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)]
    assert subprocess.run(command, capture_output=True).returncode == 0
