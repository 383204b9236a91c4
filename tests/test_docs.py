"""What the documents show works: YAML passes ``check``, Python and curl run on a real proxy, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.document import load
from router.cli import COMMANDS
from router.launch import Proxy, running_proxy

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(path.relative_to(ROOT).parts)
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    found = [(path, match) for path in DOCUMENTS for match in BLOCK.finditer(path.read_text(encoding="utf-8"))]
    return [(str(path.relative_to(ROOT)), match[2]) for path, match in found if match[1] == language]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    data = tmp_path_factory.mktemp("docs")
    with running_proxy(Path("demo"), data, environ={**os.environ, "TIERWISE_DATA_DIR": str(data)}) as proxy:
        proxy.wait_until_ready()
        yield proxy


@pytest.mark.parametrize(("document", "text"), [block for block in blocks("yaml") if "version: 1" in block[1]])
def test_policies_in_documents_are_valid(document: str, text: str) -> None:
    assert load(text, file=document, environ={}).policy.tiers


@pytest.mark.parametrize(("document", "code"), blocks("python"))
def test_python_in_documents_runs(proxy: Proxy, document: str, code: str) -> None:
    code = code.replace("http://localhost:8080", proxy.url)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.parametrize(("document", "code"), blocks("sh"))
def test_shell_in_documents_runs(proxy: Proxy, document: str, code: str) -> None:
    code = code.replace("http://localhost:8080", proxy.url)
    ran = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "x-tierwise-tier" in ran.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    missing = [
        (file, section)
        for file, section in LINK.findall(document.read_text(encoding="utf-8"))
        if not (path := document.parent / file if file else document).exists()
        or (section and section not in sections(path.read_text(encoding="utf-8")))
    ]
    assert missing == []


def sections(text: str) -> set[str]:
    """What GitHub makes of headings in an address."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def test_documents_name_no_command_that_there_is_not() -> None:
    text = "\n".join(code for language in ("console", "sh") for _, code in blocks(language))
    named = set(re.findall(r"^\$ tierwise (\w+)", text, re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "router.cli", command, "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: tierwise " + command)
