"""Hold the books against the upstreams' own count: each attempt in the journal against what its backend said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from policies.values import Attempt, Entry


@dataclass(frozen=True, slots=True)
class Said:
    """What a backend says in answer to one request.

    ``billed`` is what comes of it where nothing disturbs it, as in `faults.Seen`: ``10/3`` stands for ``tokens``, those
    that are stated. ``asked`` is what a tokenizer counts in the request: what an estimate of ours takes it for.
    """

    billed: str
    tokens: tuple[int, int]
    asked: int


@dataclass
class Audit:
    """``wrong`` names every disagreement. The counts are over all attempts, of which ``early`` ended before their time.

    ``unread`` are answers that stated their usage to somebody who had left: their attempts carry an estimate.
    """

    prices: Mapping[str, tuple[int, int]]
    wrong: list[str] = field(default_factory=list)
    requests: int = 0
    attempts: int = 0
    calls: int = 0
    unheard: int = 0
    early: int = 0
    unread: int = 0
    measured: Counter[str] = field(default_factory=Counter)
    stated: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)

    def entry(self, entry: Entry, heard: Mapping[str, Sequence[Said]]) -> None:
        """Hold one entry against what each backend was asked for that request."""
        self.requests += 1
        self.attempts += len(entry.attempts)
        calls = defaultdict(list)
        for attempt in entry.attempts:
            self._add(attempt)
            if attempt.phase == "connect":
                self._expect(attempt.usage is None and not attempt.cost_nanos, entry, attempt, "no call, and a bill")
            else:
                calls[attempt.backend].append(attempt)
        if entry.cost_nanos != sum(attempt.cost_nanos or 0 for attempt in entry.attempts):
            self.wrong.append(f"entry {entry.id}: its cost is not that of its attempts")
        for backend in calls.keys() | heard.keys():
            self._backend(entry, calls[backend], heard.get(backend, ()))

    def _add(self, attempt: Attempt) -> None:
        usage = attempt.usage
        self.total["cost_nanos"] += attempt.cost_nanos or 0
        if usage is None:
            return
        self.total["input_tokens"] += usage.input_tokens
        self.total["output_tokens"] += usage.output_tokens
        if usage.measured:
            self.measured["input_tokens"] += usage.input_tokens
            self.measured["output_tokens"] += usage.output_tokens

    def _backend(self, entry: Entry, made: list[Attempt], heard: Sequence[Said]) -> None:
        """The attempts at one backend against the requests that it read; one that ended early it may not have read."""
        self.calls += len(made)
        for attempt in reversed(made):
            if len(made) <= len(heard):
                break
            if attempt.error == "reset" or (attempt.phase == "headers" and _early(attempt)):
                self.unheard += 1
                self._expect(attempt.usage is None or not attempt.usage.measured, entry, attempt, "measured, unheard")
                made = [other for other in made if other is not attempt]
        if len(made) != len(heard):
            self.wrong.append(f"entry {entry.id}: {len(made)} attempts, and the upstream was asked {len(heard)} times")
            return
        for attempt, said in zip(made, heard, strict=True):
            self._attempt(entry, attempt, said)

    def _attempt(self, entry: Entry, attempt: Attempt, said: Said) -> None:
        usage = attempt.usage
        used = None if usage is None else (usage.input_tokens, usage.output_tokens)
        estimated = said.billed.startswith("~")
        whole = not estimated and said.billed != "nothing"
        states = (0, 0) if said.billed == "0/0" else said.tokens
        if usage is not None and usage.measured:
            self.stated.update(input_tokens=states[0], output_tokens=states[1])
            self._expect(whole and used == states, entry, attempt, f"measured, but upstream said {said}")
        elif _early(attempt):
            self.early += 1
            self.unread += whole
            self._expect(used is None or used[0] == said.asked, entry, attempt, "not our estimate")
        elif said.billed == "nothing":
            self._expect(usage is None, entry, attempt, "billed for nothing")
        else:
            guess = (said.asked, int(said.billed.partition("/")[2])) if estimated else None
            self._expect(used is not None and used == guess, entry, attempt, f"upstream said {said}")
        per_input, per_output = self.prices[attempt.backend]
        cost = 0 if used is None else used[0] * per_input + used[1] * per_output
        self._expect(attempt.cost_nanos == cost, entry, attempt, f"should cost {cost}")

    def _expect(self, holds: bool, entry: Entry, attempt: Attempt, otherwise: str) -> None:
        if not holds:
            self.wrong.append(f"entry {entry.id}: {otherwise}: {attempt}")


def _early(attempt: Attempt) -> bool:
    """Whether it was ended from our side before the backend had said everything."""
    return attempt.outcome in ("cancelled", "timeout")
