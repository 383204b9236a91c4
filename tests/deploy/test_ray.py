"""Training with Ray is training: the same rows and seed give the same bytes. Opt in by installing ``ray[data]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.deploy.stack import ROOT

TASKS = ("mmlu/anatomy", "gsm8k", "mbpp", "mt-bench/writing")

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="opt in: pip install 'ray[data]'")


def write_rows(path: Path, start: int, count: int) -> None:
    lines = [
        {
            "id": f"row-{i}",
            "prompt": f"{'Prove that' if i % 3 else 'Write a function for'} {i * 37 % 101} {'x' * (i % 40)} make {i}.",
            "task": TASKS[i % 4],
            "scores": {"small": float(i % 3 == 0), "large": float(i % 7 != 0)},
        }
        for i in range(start, start + count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")


def artifact(out: Path, *command: str) -> dict[str, bytes]:
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ran = subprocess.run(
        [sys.executable, *command, "--out", str(out), "--seed", "3", "--look", "static"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ},
    )
    assert ran.returncode == 0, ran.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_ray_gives_the_same_artifact_as_train(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_rows(files[0], 0, 300)
    write_rows(files[1], 300, 100)
    data = ("--data", *map(str, files))
    here = artifact(tmp_path / "here", "-m", "router.cli", "train", *data)
    spread = artifact(tmp_path / "spread", "deploy/ray/train.py", *data, "--encoders", "2")
    assert len(here) >= 2
    assert spread == here
