"""Every ``when:`` predicate, one registry: the fields of `When`.

A predicate is three things side by side: the shape of its setting, whether it holds, and the sentence that says so. To
add one, write its function here and one field in `When`.

Truth has three values (Kleene's strong logic): a predicate on a signal that is absent is neither true nor false, so it
matches neither as itself nor under ``not``, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from policies.frozen import quick
from policies.values import Band, Features, Signals

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)


def one_or_many(value: object) -> object:
    """Let a list of one be written without its brackets."""
    return [value] if isinstance(value, str) else value


Names: TypeAlias = Annotated[
    tuple[str, ...], BeforeValidator(one_or_many, json_schema_input_type=str | tuple[str, ...])
]
SomeNames: TypeAlias = Annotated[Names, Field(min_length=1)]


@quick
@dataclass(frozen=True, slots=True)
class Facts:
    """What predicates are asked about. ``signals`` is None before classification, ``now`` before the clock is read."""

    features: Features
    signals: Signals | None = None
    now: datetime | None = None


@quick
@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a predicate holds (None: what it asks about is not known), and what writes the sentence that says so."""

    holds: bool | None
    tell: Callable[[], str]

    @property
    def why(self) -> str:
        """The sentence, written when it is asked for: most decisions never do."""
        return self.tell()


@dataclass(frozen=True, slots=True)
class Predicate:
    """Marks a field of `When` with the function that judges it, and whether it asks about a signal."""

    judge: Callable[[Any, Facts], Verdict]
    asks_signals: bool = False


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Range(_Shape):
    """Bounds on a number; every bound that is given must hold."""

    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Range:
        if all(bound is None for bound in (self.at_least, self.more_than, self.at_most, self.less_than)):
            raise ValueError("state at least one bound: at_least, more_than, at_most or less_than")
        return self

    def holds(self, number: float) -> bool:
        """Say whether ``number`` is within every bound."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.more_than is None or number > self.more_than)
            and (self.at_most is None or number <= self.at_most)
            and (self.less_than is None or number < self.less_than)
        )

    def interval(self, low: float, high: float = math.inf, *, whole: bool = False) -> tuple[float, float] | None:
        """Give the least and greatest number of low..high within every bound, or None where there is none.

        With ``whole`` only whole numbers count; without it an open end is given as its limit.
        """
        (floor, floor_open), (ceiling, closed) = self._bounds(low, high)
        if whole:
            first = math.floor(floor) + 1 if floor_open else math.ceil(floor)
            last = ceiling if math.isinf(ceiling) else math.floor(ceiling) if closed else math.ceil(ceiling) - 1
            return (first, last) if first <= last else None
        empty = floor > ceiling or (floor == ceiling and (floor_open or not closed))
        return None if empty else (floor, ceiling)

    def includes(self, other: Range) -> bool:
        """Say whether every number within ``other`` is within this range."""
        (floor, ceiling), (others_floor, others_ceiling) = self._bounds(), other._bounds()
        return floor <= others_floor and others_ceiling <= ceiling

    def _bounds(self, low: float = -math.inf, high: float = math.inf) -> tuple[tuple[float, bool], tuple[float, bool]]:
        """Give the lower bound and whether it is open, and the upper one and whether it is closed."""
        floor = max((low, False), (_or(self.at_least, low), False), (_or(self.more_than, -math.inf), True))
        ceiling = min((high, True), (_or(self.at_most, high), True), (_or(self.less_than, math.inf), False))
        return floor, ceiling

    def __str__(self) -> str:
        named = {name.replace("_", " "): getattr(self, name) for name in type(self).model_fields}
        return " and ".join(f"{words} {bound:g}" for words, bound in named.items() if bound is not None)


def _or(bound: float | None, otherwise: float) -> float:
    return otherwise if bound is None else bound


def _any_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _named(what: str, actual: str, wanted: Sequence[str]) -> Verdict:
    if actual in wanted:
        return Verdict(True, lambda: f"{what} is {actual}")
    return Verdict(False, lambda: f"{what} is {actual or 'not given'}, not {_any_of(wanted)}")


def _within(what: str, actual: float, wanted: Range) -> Verdict:
    held = wanted.holds(actual)
    return Verdict(held, lambda: f"{what} {actual:g} is {'' if held else 'not '}{wanted}")


def _flag(what: str, actual: bool, wanted: bool) -> Verdict:
    return Verdict(actual == wanted, lambda: f"the request has {what}" if actual else f"the request has no {what}")


def _domain(wanted: Sequence[str], facts: Facts) -> Verdict:
    if facts.signals is None or not facts.signals.knows_domain:
        return Verdict(None, lambda: "domain is not known (no signals)")
    return _named("domain", facts.signals.domain, wanted)


Complexity: TypeAlias = Annotated[
    Annotated[Range, Tag("a range")]
    | Annotated[
        tuple[Band, ...],
        BeforeValidator(one_or_many, json_schema_input_type=Band | tuple[Band, ...]),
        Field(min_length=1),
        Tag("some bands"),
    ],
    Discriminator(lambda value: "a range" if isinstance(value, Mapping | Range) else "some bands"),
]


def _complexity(wanted: Range | tuple[Band, ...], facts: Facts) -> Verdict:
    if facts.signals is None or facts.signals.complexity is None:
        return Verdict(None, lambda: "complexity is not known (no signals)")
    if isinstance(wanted, Range):
        return _within("complexity", round(facts.signals.complexity, 3), wanted)
    return _named("complexity", facts.signals.band or "", wanted)


def _input_tokens(wanted: Range, facts: Facts) -> Verdict:
    return _within("input of about", facts.features.input_tokens, wanted)


def _turns(wanted: Range, facts: Facts) -> Verdict:
    return _within("turn", facts.features.turns, wanted)


def _language(wanted: Sequence[str], facts: Facts) -> Verdict:
    return _named("language", facts.features.language, wanted)


def _has_code(wanted: bool, facts: Facts) -> Verdict:
    return _flag("code", facts.features.has_code, wanted)


def _has_tools(wanted: bool, facts: Facts) -> Verdict:
    return _flag("tools", facts.features.has_tools, wanted)


def _has_images(wanted: bool, facts: Facts) -> Verdict:
    return _flag("images", facts.features.has_images, wanted)


def _model(wanted: Sequence[str], facts: Facts) -> Verdict:
    return _named("the model asked for", facts.features.model, wanted)


def _api_key(wanted: Sequence[str], facts: Facts) -> Verdict:
    return _named("the key", facts.features.key_id, wanted)


def _lower_case(headers: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    return {name.lower(): values for name, values in headers.items()}


Headers: TypeAlias = Annotated[Mapping[str, SomeNames], Field(min_length=1), AfterValidator(_lower_case)]


def _header(wanted: Mapping[str, Sequence[str]], facts: Facts) -> Verdict:
    given = facts.features.headers
    return _all(_named(f"header {name}", given.get(name, ""), values) for name, values in wanted.items())


class Hours(_Shape):
    """Hours of the day and days of the week, in the policy's timezone.

    From after to runs over midnight, and the hours after it belong to the day on which they began. ``to`` is exclusive.
    """

    from_: Annotated[str, Field(alias="from", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "00:00"
    to: Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")] = "24:00"
    days: Annotated[
        tuple[Day, ...], BeforeValidator(one_or_many, json_schema_input_type=Day | tuple[Day, ...]), Field(min_length=1)
    ] = DAYS

    def holds(self, now: datetime) -> bool:
        """Say whether ``now`` is within these hours."""
        clock, over_midnight = f"{now:%H:%M}", self.to <= self.from_
        after_midnight = over_midnight and clock < self.to
        began = now - timedelta(days=1) if after_midnight else now
        inside = after_midnight or (clock >= self.from_ and (over_midnight or clock < self.to))
        return inside and DAYS[began.weekday()] in self.days

    def __str__(self) -> str:
        days = "" if len(self.days) == len(DAYS) else f" on {_any_of(self.days)}"
        return f"between {self.from_} and {self.to}{days}"


def _time(wanted: Hours, facts: Facts) -> Verdict:
    if facts.now is None:
        return Verdict(None, lambda: "the time is not known")
    held = wanted.holds(facts.now)
    now = facts.now
    return Verdict(held, lambda: f"it is {DAYS[now.weekday()]} {now:%H:%M}, {'' if held else 'not '}{wanted}")


def _and(wanted: Iterable[When], facts: Facts) -> Verdict:
    return _all(when.match(facts) for when in wanted)


def _or_else(wanted: Iterable[When], facts: Facts) -> Verdict:
    verdicts = [when.match(facts) for when in wanted]
    for truth in (True, None):
        decisive = [verdict for verdict in verdicts if verdict.holds is truth]
        if decisive:
            return decisive[0]
    return Verdict(False, lambda: _sentence(verdicts))


def _not(wanted: When, facts: Facts) -> Verdict:
    verdict = wanted.match(facts)
    return Verdict(None if verdict.holds is None else not verdict.holds, verdict.tell)


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    found = list(verdicts)
    if len(found) == 1:
        return found[0]
    for truth in (False, None):
        decisive = [verdict for verdict in found if verdict.holds is truth]
        if decisive:
            return Verdict(truth, partial(_sentence, decisive))
    return Verdict(True, lambda: _sentence(found) or "always")


def _sentence(verdicts: Iterable[Verdict]) -> str:
    return "; ".join(verdict.why for verdict in verdicts)


class When(_Shape):
    """Conditions that must all hold; none at all hold always."""

    domain: Annotated[SomeNames | None, Predicate(_domain, asks_signals=True)] = None
    complexity: Annotated[Complexity | None, Predicate(_complexity, asks_signals=True)] = None
    input_tokens: Annotated[Range | None, Predicate(_input_tokens)] = None
    language: Annotated[SomeNames | None, Predicate(_language)] = None
    has_code: Annotated[bool | None, Predicate(_has_code)] = None
    has_tools: Annotated[bool | None, Predicate(_has_tools)] = None
    has_images: Annotated[bool | None, Predicate(_has_images)] = None
    turns: Annotated[Range | None, Predicate(_turns)] = None
    model: Annotated[SomeNames | None, Predicate(_model)] = None
    api_key: Annotated[SomeNames | None, Predicate(_api_key)] = None
    header: Annotated[Headers | None, Predicate(_header)] = None
    time: Annotated[Hours | None, Predicate(_time)] = None
    and_: Annotated[tuple[When, ...] | None, Field(alias="and", min_length=1), Predicate(_and)] = None
    or_: Annotated[tuple[When, ...] | None, Field(alias="or", min_length=1), Predicate(_or_else)] = None
    not_: Annotated[When | None, Field(alias="not"), Predicate(_not)] = None

    def match(self, facts: Facts) -> Verdict:
        """Judge every condition that is given and say why."""
        return _all([judge(wanted, facts) for judge, wanted in self.judges])

    @cached_property
    def judges(self) -> tuple[tuple[Callable[[Any, Facts], Verdict], Any], ...]:
        """What judges each condition that is given, with its setting."""
        return tuple((PREDICATES[name].judge, wanted) for name, wanted in self.given())

    def given(self) -> list[tuple[str, Any]]:
        """Name each condition that is given, with its setting, in registry order."""
        return [(name, wanted) for name in PREDICATES if (wanted := getattr(self, name)) is not None]

    def __copy__(self) -> Self:
        """Copy the conditions without what was worked out of them: a copy is made to change one."""
        copied = super().__copy__()
        for worked_out in ("judges", "signals"):
            copied.__dict__.pop(worked_out, None)
        return copied

    def nested(self) -> Iterator[When]:
        """Give this and every `When` inside it."""
        yield self
        for inner in (*(self.and_ or ()), *(self.or_ or ()), *((self.not_,) if self.not_ else ())):
            yield from inner.nested()

    @cached_property
    def signals(self) -> frozenset[str]:
        """What anything here asks of a classifier: ``domain``, ``complexity``, both or nothing."""
        return frozenset(name for when in self.nested() for name, _ in when.given() if PREDICATES[name].asks_signals)


PREDICATES: Mapping[str, Predicate] = {
    name: next(mark for mark in field.metadata if isinstance(mark, Predicate))
    for name, field in When.model_fields.items()
}
"""The registry: each predicate's name in Python and how it is judged."""


def headers_read(whens: Iterable[When]) -> frozenset[str]:
    """Name every request header, in lower case, that these conditions look at."""
    return frozenset(name for when in whens for inner in when.nested() for name in inner.header or ())


def texts_read(whens: Iterable[When]) -> bool:
    """Say whether any of these conditions looks at a request's language, at whether it has code, or at a signal."""
    asks = (inner.language or inner.has_code is not None or inner.signals for when in whens for inner in when.nested())
    return any(asks)
