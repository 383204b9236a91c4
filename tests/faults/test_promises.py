"""Promises are made in two documents, each with the tests that try to break it: those must be there."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def rows(document: Path, heading: str) -> list[str]:
    """The rows of the table of promises under a heading."""
    section = re.split(r"^#+ ", document.read_text(encoding="utf-8").partition(heading)[2], maxsplit=1, flags=re.M)[0]
    return [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| promise")]


def test_each_promise_of_the_readme_has_a_test() -> None:
    promises = rows(ROOT / "README.md", "## Reliability\n")
    assert len(promises) > 8
    for promise in promises:
        linked = re.findall(r"\[(test_\w+\.py)\]\(([\w/.]+)\)", promise)
        assert linked, promise
        for name, path in linked:
            assert path.endswith(f"/{name}")
            assert "def test_" in (ROOT / path).read_text(encoding="utf-8")


def test_each_promise_about_faults_has_a_test() -> None:
    promises = rows(HERE / "README.md", "# What Tierwise promises when backends fail\n")
    assert len(promises) > 15
    for promise in promises:
        named = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`", promise)
        assert named, promise
        for name in named:
            places = [ROOT / name, HERE / name, ROOT / "tests" / "router" / name]
            assert any(place.is_file() for place in places), name
