"""Frozen values that are made quickly.

A frozen dataclass sets each of its fields through a call of `object.__setattr__`, since its own refuses: two thirds of
the time that it takes to make one, and a request makes a dozen, of a hundred fields. `quick` has a value be of a twin
class while it is made: a subclass that adds nothing and refuses nothing. (Were it a class with slots of the same names,
the names would be compared each time.) `maker` gives a function that does the same where nothing but time matters:
calling a class, with a dictionary of its arguments, takes longer than all the rest; `replacer` one that changes some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Final, ParamSpec, TypeVar

_REFUSES_NOTHING: Final = {
    "__slots__": (),
    **{name: getattr(object, name) for name in ("__init__", "__setattr__", "__delattr__")},
}

P = ParamSpec("P")
T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Give a dataclass with ``frozen=True, slots=True`` an ``__init__`` that does the same in a third of the time.

    Raises `TypeError` for a dataclass whose ``__init__`` does more than to set its fields.
    """
    init = _compiled(cls, "__init__", ("self",), "_set(self, '__class__', _twin)", "")
    init.__qualname__, init.__annotations__ = f"{cls.__qualname__}.__init__", cls.__init__.__annotations__
    cls.__init__ = init  # type: ignore[method-assign]
    return cls


def maker(cls: Callable[P, T]) -> Callable[P, T]:
    """A function that makes values of such a dataclass, in less than half of the time that calling the class takes.

    Raises `TypeError` as `quick` does.
    """
    return _compiled(cls, "make", (), "self = _twin()", "return self")


def replacer(cls: Callable[..., T], *names: str) -> Callable[..., T]:
    """A function that gives a value of such a dataclass again with other values of these fields, which follow it.

    It takes a fifth of the time that `dataclasses.replace` does. Raises `TypeError` as `quick` does, and for names that
    are no fields.
    """
    if strangers := set(names).difference(one.name for one in _fields(cls)):
        raise TypeError(f"{cls.__name__} has no field {min(strangers)}")
    values = {one.name: one.name if one.name in names else f"_value.{one.name}" for one in _fields(cls)}
    return _function(cls, f"replace(_value, {', '.join(names)})", "self = _twin()", values, "return self", {})


def _fields(cls: Any) -> Sequence[Field[Any]]:
    given = fields(cls)
    if hasattr(cls, "__post_init__") or not all(one.init and not one.kw_only for one in given):
        raise TypeError(f"{cls.__name__} is no plain dataclass")
    return given


def _compiled(cls: Any, name: str, first: Sequence[str], begin: str, end: str) -> Callable[..., Any]:
    """A function of a dataclass's fields that sets them between a first and a last statement."""
    names: dict[str, Any] = {"_missing": MISSING}
    values, given = {}, _fields(cls)
    for one in given:
        made = one.default_factory is not MISSING
        if made:
            names[f"_make_{one.name}"] = one.default_factory
        values[one.name] = f"_make_{one.name}() if {one.name} is _missing else {one.name}" if made else one.name
    arguments = ", ".join((*first, *(_argument(one, names) for one in given)))
    return _function(cls, f"{name}({arguments})", begin, values, end, names)


def _function(
    cls: Any, head: str, begin: str, values: Mapping[str, str], end: str, names: Mapping[str, Any]
) -> Callable[..., Any]:
    """A function that sets a dataclass's fields to what these expressions give, between two statements."""
    twin = type(cls.__name__, (cls,), _REFUSES_NOTHING)
    lines = [begin, *(f"self.{field} = {value}" for field, value in values.items()), "self.__class__ = _cls", end]
    known = {**names, "_cls": cls, "_twin": twin, "_set": object.__setattr__}
    exec(f"def {head}:\n  " + "\n  ".join(lines), known)
    compiled: Callable[..., Any] = known[head.split("(")[0]]
    return compiled


def _argument(one: Field[Any], names: dict[str, Any]) -> str:
    if one.default_factory is not MISSING:
        return f"{one.name}=_missing"
    if one.default is MISSING:
        return one.name
    names[f"_default_{one.name}"] = one.default
    return f"{one.name}=_default_{one.name}"
