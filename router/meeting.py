"""Where processes of one data folder meet: file locks, which the kernel releases for who dies, and unix sockets."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import IO

_LONGEST_SOCKET_PATH = 100

_FRESH_SECONDS = 60.0
"""A socket so young may be one that is not listened at yet."""


def taken(lock: IO[bytes]) -> bool:
    """Take a lock for oneself alone, or say that somebody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make something in a folder while nobody else does: whoever comes meanwhile waits. Leaves nothing behind."""
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


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


def make_room(path: Path) -> None:
    """Have a private folder for a socket, without those that the dead left there. Raises `PermissionError`."""
    make_private(path.parent)
    for other in path.parent.glob("*.sock"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            if time() - other.lstat().st_mtime > _FRESH_SECONDS and caller.connect_ex(str(other)) == errno.ECONNREFUSED:
                other.unlink()
