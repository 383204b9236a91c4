"""Whom a request looks at in tiers of very many backends."""

from __future__ import annotations

from collections import Counter

from router.muster import Muster

MANY = tuple(f"small-{place}" for place in range(1_000))
FEW = tuple(f"dear-{place}" for place in range(3))


def a_muster(resting: set[str] | None = None) -> Muster:
    rests = resting if resting is not None else set[str]()
    return Muster({"small": (MANY, FEW)}, rests.__contains__)


def test_a_few_of_each_group_are_drawn_and_all_of_a_group_of_few() -> None:
    (drawn,) = a_muster().draw(()).values()
    assert len(drawn) == len(set(drawn)) == 8 + len(FEW)
    assert set(drawn).issuperset(FEW)


def test_whoever_is_wanted_is_among_them_once_and_nobody_who_is_not_of_a_crowd() -> None:
    (drawn,) = a_muster().draw((MANY[7], FEW[0], "large-1")).values()
    assert Counter(drawn)[MANY[7]] == Counter(drawn)[FEW[0]] == 1
    assert "large-1" not in drawn


def test_every_backend_has_its_turn() -> None:
    muster = a_muster()
    seen = Counter(name for _ in range(5_000) for name in muster.draw(())["small"])
    assert set(seen) == {*MANY, *FEW}
    turns = [seen[name] for name in MANY]
    assert min(turns) > 12 < max(turns) < 90, "40 on average; 28 less would be one in 10⁶, or a bias"


def test_those_that_rest_are_passed_by_and_come_back() -> None:
    resting = {*MANY[10:], FEW[1]}
    muster = a_muster(resting)
    for _ in range(300):
        assert not resting.intersection(muster.draw(())["small"])
    resting.clear()
    seen = {name for _ in range(3_000) for name in muster.draw(())["small"]}
    assert seen == {*MANY, *FEW}


def test_where_all_rest_some_are_drawn_all_the_same() -> None:
    resting = {*MANY, *FEW}
    muster = a_muster(resting)
    for _ in range(3):
        (drawn,) = muster.draw(()).values()
        assert len(drawn) == len(set(drawn)) == 8 + len(FEW)
    resting.clear()
    assert len({name for _ in range(3_000) for name in muster.draw(())["small"]}) == len(MANY) + len(FEW)


def test_a_draw_looks_at_few_however_many_there_are() -> None:
    asked: list[str] = []

    def rests(name: str) -> bool:
        asked.append(name)
        return False

    Muster({"small": (tuple(map(str, range(50_000))),)}, rests).draw(())
    assert len(asked) == 16
