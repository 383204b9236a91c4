"""What a worker is started with, and the policy it reads; commands that check or explain one read it the same way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from policies import document
from policies.document import Loaded
from router import presets
from router.meeting import alone


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is started with; everything else is in the policy.

    ``guarded``: that keys are required is all that stands between it and everybody who can reach it. ``meeting`` is the
    folder of `router.workers`, where there are several.
    """

    policy: Path
    data_dir: Path
    cache_dir: Path
    log_level: str = "INFO"
    guarded: bool = False
    meeting: Path | None = None


def policy_file(name: str, data_dir: Path) -> Path:
    """The file of a policy, or of a preset named in its place, written beside the data to be read and edited."""
    if name not in presets.names() or Path(name).exists():
        return Path(name)
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / f"{name}.yaml"
    with alone(data_dir):
        if not path.exists():
            path.write_text(presets.text(name), encoding="utf-8")
    return path


def load_policy(name: str | Path) -> Loaded:
    """Read and validate a policy file, or a preset by its name, and fill in list prices where some are missing.

    Raises `OSError`, `UnicodeDecodeError` or `PolicyErrors`.
    """
    file = str(name)
    is_preset = not Path(file).exists() and file in presets.names()
    text = presets.text(file) if is_preset else Path(file).read_text(encoding="utf-8")
    loaded = document.load(text, file=file, environ=os.environ, is_timezone=_is_timezone)
    if any(backend.cost is None for tier in loaded.policy.tiers.values() for backend in tier.backends):
        from router.prices import facts

        return document.complete(loaded, facts(loaded.policy))
    return loaded


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
