"""Starting the encoder's process: one for a data folder, a build and an encoder, whoever of its workers comes first.

Its lock is taken before it is started and handed down to it, so the kernel holds it for exactly as long as that process
lives; so is its socket, which can be connected to from the first moment on. The lock's file says which process has it,
so that whoever waits for it in vain can end it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from router.encoders import EncoderSettings
from router.looks.messages import build
from router.meeting import make_private, make_room, socket_path, taken

LISTENER, LOCK = 3, 4
"""The descriptors of the socket that the process accepts workers from, and of the lock that it holds."""
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class EncoderProcess:
    """Where the process of a data folder, with these settings, is met."""

    data_dir: Path
    cache_dir: Path
    settings: EncoderSettings

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return socket_path(self._file("sock"))

    @property
    def slowest(self) -> float:
        """Seconds that one look may take it: an endpoint may be slow to connect to, to be asked, and to answer."""
        return 3 * self.settings.timeout

    def begin(self) -> int | None:
        """Start the process, unless one lives. Raises `OSError`.

        Returns the id of the one that lives now; None where somebody is only just starting it.
        """
        lock_file, path = self._file("lock"), self.socket
        make_private(lock_file.parent)
        make_room(path)
        with lock_file.open("ab") as lock:
            if not taken(lock):
                return int(lock_file.read_text() or 0) or None
            lock.truncate(0)
            path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen(_BACKLOG)
                return self._spawn(listener.fileno(), lock)

    def end(self, process: int) -> None:
        """Kill the process of this id, if it still is the one that holds the lock."""
        with suppress(OSError), open(os.pidfd_open(process), "rb") as handle:
            if os.path.samestat(os.stat(f"/proc/{process}/fd/{LOCK}"), self._file("lock").stat()):
                signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)

    def _spawn(self, listener: int, lock: IO[bytes]) -> int:
        """The settings go through a pipe: a command line can be read by everybody.

        Who dies before having sent them leaves a process that ends for want of them; the lock's file names any other.
        """
        told, tell = os.pipe()
        with open(tell, "wb") as pipe, open(told, "rb"):
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            child = os.posix_spawn(
                sys.executable, [sys.executable, "-P", "-m", "router.looks.server"], environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, told, 0), (os.POSIX_SPAWN_DUP2, 2, 1),
                    (os.POSIX_SPAWN_DUP2, listener, LISTENER), (os.POSIX_SPAWN_DUP2, lock.fileno(), LOCK),
                ],
            )  # fmt: skip
            lock.write(b"%d" % child)
            lock.flush()
            pipe.write(json.dumps({"cache_dir": str(self.cache_dir), "settings": asdict(self.settings)}).encode())
        return child

    def _file(self, kind: str) -> Path:
        about = json.dumps([build(), str(self.cache_dir), asdict(self.settings)])
        return self.data_dir / "encoder" / f"{hashlib.sha256(about.encode()).hexdigest()[:12]}.{kind}"


def reaped(child: int) -> bool:
    """Whether a child has ended; the kernel may forget it then."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True
