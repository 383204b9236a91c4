"""Processes of one data folder that begin at the same instant, and what those leave behind that were killed."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from router.ledger.journal_file import JournalFile
from router.looks.start import EncoderProcess
from router.meeting import make_room, socket_path
from router.settings import load_policy, policy_file
from router.state.embedded import EmbeddedStore
from router.workers import meeting_place
from tests.router.looks.test_process import LOCAL, lives

MANY, ROUNDS = 8, 25


def open_journal(folder: Path) -> None:
    with closing(JournalFile(folder / "journal.sqlite")) as file:
        assert len(file.chapters()) == 1


def use_store(folder: Path) -> None:
    store = EmbeddedStore(folder)
    store.start()
    assert store._client().incr("users")
    store.stop()


def meet(folder: Path) -> None:
    with meeting_place(folder.parent) as made:
        time.sleep(0.001)
        assert (made / "lock").is_file()


def write_preset(folder: Path) -> None:
    load_policy(policy_file("demo", folder))


def again_and_again(do: Callable[[Path], None], folder: Path, together: Barrier) -> None:
    try:
        for number in range(ROUNDS):
            together.wait(60)
            do(folder / str(number))
    except BaseException:
        together.abort()
        raise


@pytest.mark.parametrize("do", [open_journal, use_store, meet, write_preset])
def test_many_processes_begin_in_a_new_folder_at_once(do: Callable[[Path], None], tmp_path: Path) -> None:
    spawn = get_context("spawn")
    together = spawn.Barrier(MANY)
    processes = [spawn.Process(target=again_and_again, args=(do, tmp_path, together)) for _ in range(MANY)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * MANY


def left_behind(path: Path, *, age: float) -> Path:
    """A socket that nobody listens at any more."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_sockets_of_the_dead_are_removed_by_the_next_start_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        path = socket_path(tmp_path / ("d" * 100) / "store.sock")
        make_room(path)
        assert path.parent.parent == Path(short)
        dead = left_behind(path.parent / "dead.sock", age=61)
        begun = left_behind(path.parent / "begun.sock", age=0)
        busy = path.parent / "busy.sock"
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waits:
            listener.bind(str(busy))
            listener.listen(0)
            os.utime(busy, (0, 0))
            waits.connect(str(busy))  # from now on nobody else can: its backlog is full
            make_room(path)
        assert {*path.parent.iterdir()} == {begun, busy}
        assert not dead.exists()


def test_both_kinds_of_servers_clear_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        deep = tmp_path / ("d" * 100)
        store, encoder = EmbeddedStore(deep), EncoderProcess(deep, tmp_path, LOCAL)
        make_room(store.socket)
        dead = left_behind(store.socket.parent / "dead.sock", age=61)
        store.start()
        assert not dead.exists()
        left_behind(dead, age=61)
        process = encoder.begin()
        assert process is not None
        assert not dead.exists()
        encoder.end(process)
        os.waitpid(process, 0)
        assert not lives(encoder)
        store.stop()
