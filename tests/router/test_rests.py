"""Rests shared between proxies: told once, heard once, and a backend that has recovered here is left alone."""

from __future__ import annotations

from time import time

from router.rests import SharedRests


class Board:
    """What the store keeps of rests."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}

    def rest(self, backend: str, seconds: float) -> None:
        self.until[backend] = time() + seconds

    def rests(self) -> dict[str, float]:
        return self.until


class Rested:
    """What a dispatcher was told to rest."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def rest(self, backend: str, seconds: float) -> None:
        self.told.append((backend, seconds))


def test_one_proxy_finds_out_and_the_other_lets_it_rest_once() -> None:
    board, here, there = Board(), Rested(), Rested()
    one, other = SharedRests(board), SharedRests(board)  # type: ignore[arg-type]
    one.tell("gpu-1", 15.0)
    for _ in range(3):
        one.hear(here)  # type: ignore[arg-type]
        other.hear(there)  # type: ignore[arg-type]
    assert here.told == []
    ((backend, seconds),) = there.told
    assert backend == "gpu-1"
    assert 14 < seconds <= 15


def test_a_longer_rest_is_heard_again() -> None:
    board, there = Board(), Rested()
    other = SharedRests(board)  # type: ignore[arg-type]
    board.rest("gpu-1", 5.0)
    other.hear(there)  # type: ignore[arg-type]
    board.rest("gpu-1", 30.0)
    other.hear(there)  # type: ignore[arg-type]
    assert [round(seconds) for _, seconds in there.told] == [5, 30]
