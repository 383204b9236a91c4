"""Training with Ray is training: the same rows and seed give the same bytes. Opt in by installing ``ray[data]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from classifiers.artifact import Artifact, save
from classifiers.datasets import read, sha256
from classifiers.train import Settings, train
from router.cli.train import encoders_for

ROOT = Path(__file__).parents[2]
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


def trained_here(files: list[Path], work: Path) -> Artifact:
    about = {"code": version("tierwise"), "data": {path.name: sha256(path) for path in files}}
    return train(read(files), encoders_for("full", None, None), work, Settings(seed=3), about=about)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ray_gives_the_same_artifact_as_train(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_rows(files[0], 0, 300)
    write_rows(files[1], 300, 200)
    save(trained_here(files, tmp_path / "work"), tmp_path / "here")
    options = ("--out", str(tmp_path / "spread"), "--seed", "3", "--encoders", "2")
    ran = subprocess.run(
        [sys.executable, "deploy/ray/train.py", "--data", *map(str, files), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "spread") == contents(tmp_path / "here")
