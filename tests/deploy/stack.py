"""The compose file as compose reads it, and command lines as `tierwise serve` reads them."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from router.cli import serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::-([^}]*))?\})")


def compose(environ: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables and anchors resolved. Raises `KeyError` for one unset without a default."""

    def value(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        return environ.get(found[2]) or (found[3] if found[3] is not None else environ[found[2]])

    resolved = yaml.safe_load(_VARIABLE.sub(value, (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    return {key: section for key, section in resolved.items() if not key.startswith("x-")}


def flags(command: Sequence[str]) -> dict[str, str]:
    """The flags of a command by name, with their values ("" where there is none)."""
    found: dict[str, str] = {}
    words = [str(word) for word in command]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            found[name] = text if equals else "" if after.startswith("--") else after
    return found


def serving(words: Sequence[str]) -> argparse.Namespace:
    """What `tierwise serve` makes of a command line that begins with ``serve``; `SystemExit` where it refuses."""
    parser = argparse.ArgumentParser()
    serve.register(parser)
    assert words[0] == "serve", words
    return parser.parse_args([str(word) for word in words[1:]])


def console(markdown: str) -> list[list[str]]:
    """The commands shown in a document's ``console`` blocks, in words."""
    blocks = re.findall(r"^```console\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]
