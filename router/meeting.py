"""Where processes of one data folder meet: file locks, which the kernel releases for who dies, and unix sockets."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

_LONGEST_SOCKET_PATH = 100


def taken(lock: IO[bytes]) -> bool:
    """Take a lock for oneself alone, or say that somebody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def socket_path(path: Path) -> Path:
    """``path`` itself where it is short enough for a socket, else one in this user's folder of temporary files."""
    path = path.parent.resolve() / path.name
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tierwise-{os.getuid()}" / f"{name}.sock"


def make_private(folder: Path) -> None:
    """Have a folder that nobody else may enter. Raises `PermissionError` where it is somebody else's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else: remove it, or name another data folder")
    folder.chmod(0o700)
