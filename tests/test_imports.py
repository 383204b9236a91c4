"""The import contract of the three rooms: who may import whom, and what loads when."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("policies", "classifiers", "router")
FORBIDDEN_IN_THE_CORE = {
    "asyncio", "socket", "time", "os", "random", "secrets", "urllib", "http", "subprocess", "threading", "pathlib",
    "importlib.resources", "httpx", "aiohttp", "redis", "starlette", "requests", "sqlite3",
}  # fmt: skip
PURE_PARTS = {"urllib.parse"}
FORBIDDEN_IN_CLASSIFIERS = {"asyncio", "httpx", "aiohttp", "redis", "starlette", "requests", "uvicorn"}


def modules(room: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize(("room", "may_not"), [("policies", {"classifiers", "router"}), ("classifiers", {"router"})])
def test_imports_go_down_only(room: str, may_not: set[str]) -> None:
    wrong = [(str(path), name) for path, tree in modules(room) for name in imports(tree) if top(name) in may_not]
    assert wrong == []


def test_the_core_is_pure() -> None:
    wrong = [
        (str(path), name)
        for path, tree in modules("policies")
        for name in imports(tree)
        if {name, top(name)} & FORBIDDEN_IN_THE_CORE and name not in PURE_PARTS
    ]
    assert wrong == []
    opened = [
        (str(path), node.lineno)
        for path, tree in modules("policies")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "input", "print")
    ]
    assert opened == []


def test_classifiers_know_no_network() -> None:
    wrong = [
        (str(path), name)
        for path, tree in modules("classifiers")
        for name in imports(tree)
        if top(name) in FORBIDDEN_IN_CLASSIFIERS
    ]
    assert wrong == []


def test_async_appears_only_in_the_router() -> None:
    kinds = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        str(path)
        for room in ("policies", "classifiers")
        for path, tree in modules(room)
        if any(isinstance(n, kinds) for n in ast.walk(tree))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("packages", "places"),
    [
        ({"litellm"}, {"router/backends/hosted.py"}),
        ({"tiktoken"}, {"router/ledger/counting.py"}),
        ({"torch", "sentence_transformers"}, {"classifiers/torch_encoder.py"}),
        ({"redis"}, {"router/state"}),
        ({"httptools"}, {"router/backends/http1.py"}),
    ],
)
def test_heavy_packages_have_one_importer(packages: set[str], places: set[str]) -> None:
    found = {
        str(path) for room in ROOMS for path, tree in modules(room) for name in imports(tree) if top(name) in packages
    }
    (place,) = places
    assert found
    assert all(path == place or path.startswith(f"{place}/") for path in found), found


HEAVY = ("litellm", "torch", "sentence_transformers", "redis", "sklearn", "onnx", "onnxruntime", "aiohttp", "starlette")


def loaded_by(code: str) -> set[str]:
    """The heavy packages in memory after running ``code`` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()[
            -len(HEAVY) :
        ]
    ) & set(HEAVY)


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_by("import router.cli") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["check", "policies/presets/demo.yaml"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import os, contextlib, io, router.cli\n"
        f"os.chdir({str(ROOT)!r})\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    router.cli.main({arguments!r})"
    )
    assert loaded_by(code) == set()
