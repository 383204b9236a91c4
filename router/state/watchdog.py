"""Ends the embedded store when its last user is gone: a process of its own, because a user that is killed cannot.

It waits for the users' lock, which the kernel takes from whoever dies, and keeps it while the store shuts down, so that
whoever comes meanwhile waits and then starts another. Run as a file, not as a module, it loads next to nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import suppress

_SHUTDOWN_SECONDS = 10.0


def watch(users: str, server: str, mine: int) -> None:
    """Wait until nobody holds the lock file ``users``, then end the store at the socket ``server``.

    ``mine`` is the descriptor that says that somebody watches. It is closed before the users' lock, so that whoever
    comes next sees that nobody does.
    """
    with open(users, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shut_down(server)
        os.close(mine)


def shut_down(server: str) -> None:
    """Have the store at a socket sync its file and end, and wait until it has; nothing where none is there."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(_SHUTDOWN_SECONDS)
        connection.connect(server)
        connection.sendall(b"SHUTDOWN NOSAVE\r\n")
        connection.recv(1)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    os.setsid()
    watch(sys.argv[1], sys.argv[2], int(sys.argv[3]))
