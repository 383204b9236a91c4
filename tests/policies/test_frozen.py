"""Values that are made quickly are what they would be otherwise."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.frozen import maker, quick, replacer


@dataclass(frozen=True, slots=True)
class Slow:
    one: Any
    two: Any = 2
    three: Any = field(default_factory=dict)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    one: Any
    two: Any = 2
    three: Any = field(default_factory=dict)


def told_or_made(cls: type[Any], places: list[int], named: dict[str, int | None]) -> Any:
    try:
        return cls(*places, **named)
    except TypeError as error:
        return str(error).replace(cls.__name__, "")


NAMED = st.dictionaries(st.sampled_from(["one", "two", "three", "four"]), st.none() | st.integers(), max_size=4)


@given(st.lists(st.integers(), max_size=4), NAMED)
def test_a_value_is_made_of_what_it_would_be_made_of(places: list[int], named: dict[str, int | None]) -> None:
    slow, made = (told_or_made(cls, places, named) for cls in (Slow, Quick))
    if isinstance(slow, str):
        assert made == slow
        with pytest.raises(TypeError):
            maker(Quick)(*places, **named)
        return
    for one in (made, maker(Quick)(*places, **named)):
        assert type(one) is Quick
        assert [getattr(one, each.name) for each in fields(one)] == [getattr(slow, each.name) for each in fields(slow)]
        assert one == Quick(one.one, one.two, one.three)
        assert repr(one) == repr(slow).replace("Slow", "Quick")


@given(st.lists(st.integers(), min_size=3, max_size=3), st.lists(st.integers(), min_size=2, max_size=2))
def test_a_value_is_changed_as_it_would_be_otherwise(places: list[int], others: list[int]) -> None:
    whole = Quick(*places)
    changed = replacer(Quick, "three", "one")(whole, *others)
    assert changed == replace(whole, three=others[0], one=others[1])
    assert type(changed) is Quick
    assert whole == Quick(*places)
    with pytest.raises((FrozenInstanceError, TypeError)):
        changed.one = 0
    with pytest.raises(TypeError, match="Quick has no field four"):
        replacer(Quick, "one", "four")


def test_it_is_frozen_once_it_is_made() -> None:
    made = Quick(1)
    for change in (lambda: setattr(made, "one", 2), lambda: setattr(made, "four", 2), lambda: delattr(made, "one")):
        with pytest.raises((FrozenInstanceError, TypeError)):
            change()
    assert not hasattr(made, "__dict__")
    assert Quick(1).three is not Quick(1).three


def test_it_is_replaced_copied_and_pickled_like_any_other() -> None:
    made = Quick(1, three=(1, 2))
    assert replace(made, one=2) == Quick(2, three=(1, 2))
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == copy.copy(made) == made
    assert hash(made) == hash(Quick(1, three=(1, 2)))
    assert str(inspect.signature(Quick)).count("=") == 2


def test_what_does_more_when_it_is_made_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Busy:
        one: int

        def __post_init__(self) -> None:
            assert self.one

    @dataclass(frozen=True, slots=True)
    class Named:
        one: int = field(kw_only=True)

    for cls in (Busy, Named):
        with pytest.raises(TypeError, match="no plain dataclass"):
            quick(cls)
        with pytest.raises(TypeError, match="no plain dataclass"):
            maker(cls)
