"""What a worker is started with, and the policy it reads; commands that explain one read it the same way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import available_timezones

from policies import document, presets
from policies.document import Loaded
from router import prices


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is started with; everything else is in the policy."""

    policy: Path
    data_dir: Path
    cache_dir: Path
    log_level: str = "INFO"


def policy_file(name: str, data_dir: Path) -> Path:
    """The file of a policy, or of a preset named in its place, written beside the data to be read and edited."""
    if name not in presets.names() or Path(name).exists():
        return Path(name)
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / f"{name}.yaml"
    if not path.exists():
        path.write_text(presets.text(name), encoding="utf-8")
    return path


def load_policy(path: Path) -> Loaded:
    """Read and validate a policy, and fill in list prices. Raises `OSError` or `PolicyErrors`."""
    text = path.read_text(encoding="utf-8")
    loaded = document.load(text, file=str(path), environ=os.environ, is_timezone=available_timezones().__contains__)
    return document.complete(loaded, prices.facts(loaded.policy))
