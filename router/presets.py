"""The presets in ``policies/presets``: policies to start from, each a YAML file that explains itself."""

from __future__ import annotations

from importlib.resources import files

_FOLDER = files("policies") / "presets"


def names() -> tuple[str, ...]:
    """List the presets, in alphabetical order."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml")))


def text(name: str) -> str:
    """Give a preset's YAML, comments and all. Raises `KeyError` for a name that is not among `names`."""
    if name not in names():
        raise KeyError(f"there is no preset {name!r}: expected one of {', '.join(names())}")
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
