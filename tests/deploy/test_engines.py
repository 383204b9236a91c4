"""Every flag that a recipe or the compose file names has a page in `flags.yaml`, and a line that says what for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from router.engines import ENGINES
from tests.deploy.stack import DEPLOY, compose, console, flags

RECIPES = sorted(path for path in (DEPLOY / "engines").glob("*.md") if path.stem != "README")
TABLE = yaml.safe_load((DEPLOY / "engines" / "flags.yaml").read_text(encoding="utf-8"))
SERVICES = compose({})["services"]
ENGINE_OF = {"vllm-small": "vllm", "vllm-code": "vllm", "vllm-large": "vllm"} | {
    name: name for name in ("sglang", "llamacpp")
}
ROW = re.compile(r"^\| (`.+?`) \| (.+) \|$", re.MULTILINE)


def documented(engine: str) -> set[str]:
    return {flag for page in TABLE[engine] for flag in page["flags"]}


def explained(recipe: str) -> dict[str, str]:
    return {flag: line for cell, line in ROW.findall(recipe) for flag in re.findall(r"`([^`]+)`", cell)}


def used(recipe: str) -> set[str]:
    commands = console(recipe)
    variables = {word.partition("=")[0] for command in commands for word in command if re.match(r"[A-Z_]+=", word)}
    return variables | {flag for command in commands for flag in flags(command)}


def keys(recipe: str) -> set[str]:
    found = set()
    for block in re.findall(r"^```yaml\n(.*?)^```$", recipe, re.MULTILINE | re.DOTALL):
        for key, value in yaml.safe_load(block).items():
            found |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    return found


def test_every_recipe_has_its_pages_and_every_page_a_version() -> None:
    assert {path.stem for path in RECIPES} == set(TABLE)
    for pages in TABLE.values():
        for page in pages:
            assert set(page) == {"page", "version", "flags"}
            assert page["version"]
            assert page["flags"] == sorted(set(page["flags"]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_flag_of_a_recipe_is_explained_and_documented(path: Path) -> None:
    recipe = path.read_text(encoding="utf-8")
    lines = explained(recipe)
    assert used(recipe) | keys(recipe)
    assert (used(recipe) | keys(recipe)) - set(lines) == set()
    assert set(lines) - documented(path.stem) == set()
    assert documented(path.stem) - set(lines) == set(), "documented, but the recipe does not name it"
    assert all(len(line) > 10 for line in lines.values())


@pytest.mark.parametrize(("service", "engine"), ENGINE_OF.items())
def test_every_flag_of_the_compose_file_is_documented(service: str, engine: str) -> None:
    given = set(flags(SERVICES[service]["command"]))
    assert given
    assert given - documented(engine) == set()


def test_every_engine_of_the_compose_file_is_looked_at() -> None:
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == set(ENGINE_OF)


ENGINE_ROW = re.compile(
    r"^\| .+? \| \[.+?\]\((\w[\w-]*)\.md\) \| `([\w-]+)` \| `(/\S*)` \| (?:`(/\S*)`|none) \|$", re.MULTILINE
)


def test_the_table_of_engines_says_what_the_router_knows() -> None:
    """Kind, health and metrics of each engine are those that the router asks for."""
    rows = ENGINE_ROW.findall((DEPLOY / "engines" / "README.md").read_text(encoding="utf-8"))
    assert {kind for _, kind, _, _ in rows} == set(ENGINES) - {"openai", "simulated"}
    for recipe, kind, health, metrics in rows:
        assert recipe in TABLE
        engine = ENGINES[kind]
        assert health == (engine.health if engine.health.startswith("/") else f"/v1/{engine.health}")
        assert (metrics or None) == engine.metrics


@pytest.mark.parametrize("kind", [kind for kind, engine in ENGINES.items() if engine.flags and kind != "simulated"])
def test_every_flag_that_the_router_asks_for_is_documented(kind: str) -> None:
    """What the log tells an operator to start an engine with stands in that engine's documentation."""
    flags = [flag for text in ENGINES[kind].flags.values() for flag in re.findall(r"--[\w-]+|\w+_\w+(?=:)", text)]
    assert flags
    assert set(flags) - documented(kind) == set()


def test_llama_cpp_takes_no_equals_sign() -> None:
    assert not [word for word in SERVICES["llamacpp"]["command"] if word.startswith("--") and "=" in word]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llamacpp"])
def test_a_recipe_covers_what_a_router_cares_about(engine: str) -> None:
    recipe = (DEPLOY / "engines" / f"{engine}.md").read_text(encoding="utf-8").lower()
    for topic in ("quantis", "prefix cache", "draft", "metrics"):
        assert topic in recipe
