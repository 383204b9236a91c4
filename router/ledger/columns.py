"""Entries laid out field by field, so that what many have in common stands once, and is looked at once.

A layout is JSON, and after it its bulk: columns of numbers, moments and hexadecimal text as bytes, one after the other,
which no compression makes much smaller and which would take longest to write and to compress as text.

The JSON is ``[count, node, checksum of the bulk]``; those of version 3 have no checksum and no bulk. A node has as many
values as there are entries, or records within them, and is

- a list: the values, one each;
- ``{"=": node}``: the one value of that node, for all;
- ``{"?": node, "of": node}``: those that are there, the others being null; the first node has booleans;
- ``{"#": node, "of": [node, …]}``: lists, by place: the first node has their lengths, or is one number where all are of
  that length; of the others the first has the first item of each that has one, and so on;
- ``{"~": {key: node, …}}``: mappings that all have these keys;
- ``{"@": place, "as": code}``: in the bulk, from that byte on, little-endian, in the form that `struct` has the code
  for; ``t`` is seconds since 1970, UTC, as ``d``, and ``16x`` is 16 bytes that stand for 32 hexadecimal digits;
- the same with ``"of": node``: which of the values of that node, all of which occur;
- else a record: a node for each field that is not everywhere its default.

Values are as `router.ledger.codec` writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from operator import is_
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints
from zlib import crc32

import orjson
from pydantic import TypeAdapter

from policies.values import Entry

_Column: TypeAlias = Sequence[Any]

_WHOLE: Final = "BHIq"
"""Codes for whole numbers of one, two, four and eight bytes, only the last with a sign."""
_MOST_DISTINCT = 256
_SHORTEST_HEX = 8
_FEW = 8
"""Fewer values than these stand in the JSON."""
_SAMPLE = 16
"""Where most of so many values are objects of their own, most of all are."""


class Layout(NamedTuple):
    """A layout's JSON and its bulk."""

    text: bytes
    bulk: bytes


class _Bulk(bytearray):
    """The bulk as it grows, with the records that are laid out, by the first of each column.

    Some stand in two places: an answer's usage is that of its attempt, a tier's estimate has what its signal says.
    """

    def __init__(self) -> None:
        self.laid: dict[int, tuple[_Column, dict[str, Any]]] = {}


def lay(entries: Sequence[Entry]) -> Layout:
    """The layout of some entries. Raises `ValueError` or `TypeError` for what JSON or 64 bits do not hold."""
    bulk = _Bulk()
    node = _ENTRY.apart(entries, bulk)
    return Layout(orjson.dumps([len(entries), node, crc32(bulk)], option=orjson.OPT_UTC_Z), bytes(bulk))


def lines(layout: Layout, most: int | None = None) -> list[bytes]:
    """The entries of a layout, or the last so many, a line of JSON each. Raises `ValueError` for what is none."""
    count, node, *checksum = orjson.loads(layout.text)
    if checksum and checksum != [crc32(layout.bulk)]:
        raise ValueError("its bulk is not what its checksum is of")
    found = _values(node, count, layout.bulk, 0 if most is None else max(0, count - most))
    return [orjson.dumps(one, option=orjson.OPT_UTC_Z) for one in found]


def reader(names: Sequence[str]) -> Callable[[Iterable[Any]], list[list[Any]]]:
    """A function that reads attributes of values, one value after the other, into a column each."""
    made: dict[str, Any] = {}
    exec(
        f"def read(rows):\n  flat = []\n  for row in rows: flat += ({' '.join(f'row.{name},' for name in names)})\n"
        f"  return [flat[place::{len(names)}] for place in range({len(names)})]",
        made,
    )
    read: Callable[[Iterable[Any]], list[list[Any]]] = made["read"]
    return read


def _values(node: Any, count: int, bulk: bytes, first: int = 0) -> list[Any]:
    """The values of a node that has so many, from one on."""
    if isinstance(node, list):
        return node[first:]
    if "=" in node:
        return _values(node["="], 1, bulk) * (count - first)
    if "@" in node:
        if "of" not in node:
            return _unpacked(node["as"], bulk, node["@"], first, count)
        which = _unpacked(node["as"], bulk, node["@"], 0, count)
        distinct = _values(node["of"], max(which) + 1, bulk)
        return [distinct[place] for place in which[first:]]
    if "?" in node:
        known = _values(node["?"], count, bulk)
        there = iter(_values(node["of"], sum(known), bulk, sum(known[:first])))
        return [next(there) if one else None for one in known[first:]]
    if "#" in node:
        lengths = [node["#"]] * count if isinstance(node["#"], int) else _values(node["#"], count, bulk)
        places = []
        for place, items in enumerate(node["of"]):
            longer = [length > place for length in lengths]
            places.append(iter(_values(items, sum(longer), bulk, sum(longer[:first]))))
        return [[next(items) for items in places[:length]] for length in lengths[first:]]
    node = node.get("~", node)
    alike = {name: _values(one, 1, bulk)[0] for name, one in node.items() if isinstance(one, dict) and "=" in one}
    apart = {name: _values(one, count, bulk, first) for name, one in node.items() if name not in alike}
    if not apart:
        return [alike] * (count - first)
    return [alike | dict(zip(apart, row, strict=True)) for row in zip(*apart.values(), strict=True)]


def _put(bulk: _Bulk, code: str, packed: bytes) -> dict[str, Any]:
    node = {"@": len(bulk), "as": code}
    bulk += packed
    return node


def _unpacked(code: str, bulk: bytes, place: int, first: int, count: int) -> list[Any]:
    """What `_put` put there, from one on."""
    if code.endswith("x"):
        size = int(code[:-1])
        return [bulk[at : at + size].hex() for at in range(place + first * size, place + count * size, size)]
    form = "d" if code == "t" else code
    found = struct.unpack_from(f"<{count - first}{form}", bulk, place + first * struct.calcsize(f"<{form}"))
    return [datetime.fromtimestamp(at, UTC) for at in found] if code == "t" else list(found)


class _Kind:
    """How values of a type are laid out: as they are, one each, unless they are many and there is room in the bulk."""

    def same(self, column: _Column) -> bool:
        """Whether all are one; equal ones that are not may count as different, since to compare them takes long."""
        first = column[0]
        return first is column[-1] and not [value for value in column if value is not first]

    def node(self, column: _Column, bulk: _Bulk) -> Any:
        """The node of values."""
        return {"=": self.apart(column[:1], bulk)} if self.same(column) else self.apart(column, bulk)

    def apart(self, column: _Column, bulk: _Bulk) -> Any:
        """The node of values that are not all the same."""
        return (len(column) >= _FEW and self.packed(column, bulk)) or self.written(column, bulk)

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        """The node of values that are put into the bulk; None for some that cannot be."""
        if len(set(map(id, column[:_SAMPLE]))) > _SAMPLE // 2:
            return None
        return self.chosen(list(map(id, column)), column, bulk)

    def chosen(self, keys: Sequence[Any], column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        """The node of values that are a few distinct ones, told by their keys; None where those are not few."""
        distinct = dict(zip(keys, column, strict=True))
        if len(distinct) > min(_MOST_DISTINCT, len(keys) // 2):
            return None
        places = dict(zip(distinct, range(len(distinct)), strict=True))
        node = _put(bulk, "B", bytes(map(places.__getitem__, keys)))
        return node | {"of": self.written(list(distinct.values()), bulk)}

    def written(self, column: _Column, bulk: _Bulk) -> Any:
        """The node of values that stand in the JSON, but for parts of them."""
        return column


class _Written(_Kind):
    """Of what has to be turned into something else for JSON."""

    def __init__(self, kind: Any) -> None:
        self._all: TypeAdapter[Any] = TypeAdapter(list[kind])

    def written(self, column: _Column, bulk: _Bulk) -> Any:
        return orjson.Fragment(self._all.dump_json(list(column), exclude_defaults=True))


class _Plain(_Kind):
    """Of what is the same as soon as it is equal."""

    def same(self, column: _Column) -> bool:
        return bool(column[0] == column[-1]) and column.count(column[0]) == len(column)


class _Text(_Plain):
    """Of text: one of a few, or hexadecimal digits, as ids are."""

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        return _hexadecimal(column, bulk) or self.chosen(column, column, bulk)


class _Float(_Plain):
    """Of numbers with a fraction."""

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        return _put(bulk, "d", struct.pack(f"<{len(column)}d", *column))


class _Truth(_Plain):
    """Of booleans."""

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        return _put(bulk, "?", bytes(column))


class _Whole(_Plain):
    """Of whole numbers, in as few bytes as all of them take."""

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        for code in _WHOLE:
            with suppress(struct.error):
                return _put(bulk, code, struct.pack(f"<{len(column)}{code}", *column))
        return None


class _Moment(_Kind):
    """Of moments, to the microsecond; those of any time zone but UTC are written."""

    def packed(self, column: _Column, bulk: _Bulk) -> dict[str, Any] | None:
        zone = column[0].tzinfo
        if str(zone) != "UTC" or [moment for moment in column if moment.tzinfo is not zone]:
            return None
        beginning = datetime(1970, 1, 1, tzinfo=zone)  # what `timestamp` does, but for asking the zone each time
        passed = [moment - beginning for moment in column]
        seconds = [86_400 * some.days + some.seconds + some.microseconds / 1_000_000 for some in passed]
        return _put(bulk, "t", struct.pack(f"<{len(column)}d", *seconds))


class _Mapping(_Written):
    """Of mappings from text."""

    def __init__(self, kind: Any, item: Any) -> None:
        super().__init__(kind)
        self._item = _kind(item)

    def same(self, column: _Column) -> bool:
        return super().same(column) if column[0] else not any(column)

    def written(self, column: _Column, bulk: _Bulk) -> Any:
        keys = list(column[0])
        if not keys or any(list(one) != keys for one in column):
            return super().written(column, bulk)
        items = zip(*[one.values() for one in column], strict=True)
        return {"~": {key: self._item.node(values, bulk) for key, values in zip(keys, items, strict=True)}}


class _Record(_Kind):
    """Of a dataclass, by its fields."""

    def __init__(self, kind: Any) -> None:
        hints = get_type_hints(kind)
        defaults = [one.default if one.default_factory is MISSING else one.default_factory() for one in fields(kind)]
        self._fields = [
            (one.name, default, _kind(hints[one.name])) for one, default in zip(fields(kind), defaults, strict=True)
        ]
        self._read = reader([one.name for one in fields(kind)])

    def written(self, column: _Column, bulk: _Bulk) -> Any:
        last, node = bulk.laid.get(id(column[0]), ((), {}))
        if len(last) == len(column) and all(map(is_, last, column)):
            return node
        node = {}
        bulk.laid[id(column[0])] = column, node
        for (name, default, kind), values in zip(self._fields, self._read(column), strict=True):
            if not kind.same(values):
                node[name] = kind.apart(values, bulk)
            elif values[0] != default:
                node[name] = {"=": kind.apart(values[:1], bulk)}
        return node


class _Optional(_Kind):
    """Of a value or None."""

    def __init__(self, there: Any) -> None:
        self._there = _kind(there)
        self.same = self._there.same  # type: ignore[method-assign]

    def apart(self, column: _Column, bulk: _Bulk) -> Any:
        there = [value for value in column if value is not None]
        if len(there) == len(column):
            return self._there.apart(column, bulk)
        if not there:
            return column
        known = _TRUTH.apart([value is not None for value in column], bulk)
        return {"?": known, "of": self._there.node(there, bulk)}


class _Tuple(_Kind):
    """Of tuples of dataclasses."""

    def __init__(self, item: Any) -> None:
        self._item = _kind(item)

    def written(self, column: _Column, bulk: _Bulk) -> Any:
        lengths = list(map(len, column))
        alike = lengths.count(lengths[0]) == len(lengths)
        places = zip(*column, strict=True) if alike else (
            [items[place] for items in column if len(items) > place] for place in range(max(lengths))
        )  # fmt: skip
        return {
            "#": lengths[0] if alike else _WHOLE_NUMBER.apart(lengths, bulk),
            "of": [self._item.node(items, bulk) for items in places],
        }


def _hexadecimal(column: Sequence[str], bulk: _Bulk) -> dict[str, Any] | None:
    """The node of lower-case hexadecimal text that is all of one length; None for other text."""
    size = len(column[0])
    if size < _SHORTEST_HEX or size % 2 or set(map(len, column)) != {size}:
        return None
    text = "".join(column)
    with suppress(ValueError):
        packed = bytes.fromhex(text)
        if packed.hex() == text:
            return _put(bulk, f"{size // 2}x", packed)
    return None


@cache
def _kind(kind: Any) -> _Kind:
    arguments = get_args(kind)
    if is_dataclass(kind):
        return _Record(kind)
    if get_origin(kind) is Mapping:
        return _Mapping(kind, arguments[1])
    if get_origin(kind) is tuple and is_dataclass(arguments[0]):
        return _Tuple(arguments[0])
    if get_origin(kind) in (Union, UnionType) and len(arguments) == 2 and arguments[1] is NoneType:
        return _Optional(arguments[0])
    if get_origin(kind) is Literal:
        return _Text()
    plain: dict[Any, _Kind] = {str: _Text(), float: _Float(), int: _WHOLE_NUMBER, bool: _TRUTH, datetime: _Moment()}
    return plain.get(kind) or _Written(kind)


_TRUTH, _WHOLE_NUMBER = _Truth(), _Whole()
_ENTRY = _kind(Entry)
"""Made when the proxy starts: the first commit would wait for it."""
