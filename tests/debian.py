"""Programs that tests run beside ours, from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def program(name: str, package: str | None = None) -> Path:
    """Give the path of a program, installed where it is absent: from the package of its name unless another is said."""
    package = package or name
    if shutil.which(name) is None:
        assert os.geteuid() == 0, f"these tests need {name}: apt-get install {package}"
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True)
    found = shutil.which(name)
    assert found is not None, f"{package} was installed, and {name} is not on the PATH"
    return Path(found)
