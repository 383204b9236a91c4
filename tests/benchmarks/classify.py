"""What classifying costs: ``python -m tests.benchmarks.classify [--prompts FILE …]``.

First each path alone, in this process: the first look, a text that is still known, the second look, and prompts as they
come, with the share of them for which a second look could change the choice. Then through the proxy, where each request
brings a text that was never seen before: what the first look adds to ``tier/small``, how many requests with a given
share of second looks get through beside what the encoder alone would allow, and how late the event loop is meanwhile
(``tierwise_loop_lag_seconds``), also where every request wants the encoder, and the policy's patience is the default.

What ``auto`` adds to a request (`added`) is the difference to ``tier/small`` with the same texts, by the processes'
clocks: of prompts that the first look decides, at the median of what they cost.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count, cycle, islice
from pathlib import Path
from statistics import mean, median
from statistics import quantiles as cut
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from classifiers import prepare
from classifiers.classifier import Classifier
from policies.document import Loaded
from policies.values import View
from router import wire
from router.cli import cache_dir
from router.settings import load_policy
from router.signals import first_look, load_classifier
from tests.benchmarks import figures, load, machine, subjects

PACKAGED = subjects.ROOT / "classifiers" / "data" / "domain_prompts.jsonl"
SHARE = 0.3
_PATIENT = "classifier: {deadline: 30s}"
_AT_ONCE = 16
_GROUP, _FEW_AT_ONCE = 20, 8
"""Requests between two readings of the clock, and how many of them are in flight."""
_ADDED = 300
"""Prompts of which it is measured what they add."""
_SHARED = f"auto, {SHARE:.0%} second looks"
_APART = f"{_SHARED}, the encoder on the other core"


def prompts(*files: Path, most: int = 1000) -> list[str]:
    """The prompts of JSON-lines files, packed or not, evenly from each, spread over all of it."""
    found = [list(_read(file)) for file in files]
    each = most // len(files)
    return [text for texts in found for text in texts[:: max(1, len(texts) // each)][:each]]


def _read(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        yield from (row["prompt"] for row in map(json.loads, lines) if row.get("prompt"))


def body(model: str, text: str) -> bytes:
    """One request."""
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": text}]})


def bodies(model: str, texts: Sequence[str]) -> list[bytes]:
    """One request for each prompt."""
    return [body(model, text) for text in texts]


@dataclass(frozen=True, slots=True)
class Judge:
    """The proxy's own classifier and policy, in this process."""

    loaded: Loaded
    classifier: Classifier

    @classmethod
    def of(cls, policy: Path) -> Judge:
        """For a policy's file, on the prepared encoder."""
        loaded, encoders = load_policy(policy), prepare.load(cache_dir())
        return cls(loaded, load_classifier(loaded.policy, encoders.static, encoders.full))

    def features(self, text: str) -> Any:
        """What the proxy would read off a request with this text."""
        client = wire.Client("benchmark")
        read = wire.read_chat(
            body("auto", text), {}, client, seen=frozenset(), session_header="", keeps_text=lambda _: True
        )
        return read.features

    def doubts(self, features: Any) -> bool:
        """Whether a second look at it could matter."""
        return first_look(self.classifier, self.loaded, features, View(now=datetime.now(UTC)), again=True)[2]


def paths(judge: Judge, texts: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Milliseconds of CPU of each path over the prompts, each seen for the first time."""
    read = [judge.features(text) for text in texts]
    for warm in read[:20]:
        judge.classifier.classify([warm])
    first, doubt, second, known = [], [], [], []
    for features in read:
        first.append(_cpu_ms(lambda features=features: judge.classifier.first_look(features)))
        known.append(_cpu_ms(lambda features=features: judge.classifier.first_look(features)))
        took, doubts = _timed(lambda features=features: judge.doubts(features))
        doubt.append(took)
        second.append(_cpu_ms(lambda features=features: judge.classifier.second_look(features)) if doubts else 0.0)
    for name, took in (("first look", first), ("known text", known), ("does it matter?", doubt)):
        yield name, _quantiles(took)
    yield "second look", _quantiles([ms for ms in second if ms])
    mixed = [a + b + c for a, b, c in zip(first, doubt, second, strict=True)]
    yield "as they come", {**_quantiles(mixed), "second looks": sum(map(bool, second)) / len(second)}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.thread_time_ns()
    result = work()
    return (time.thread_time_ns() - began) / 1e6, result


def _cpu_ms(work: Callable[[], Any]) -> float:
    return _timed(work)[0]


def _quantiles(took: Sequence[float]) -> dict[str, float]:
    return {f"p{q} ms": load.quantile(took, q / 100) for q in (50, 95)}


class Fresh:
    """Texts that no proxy has seen, for which a second look does or does not matter."""

    def __init__(self, judge: Judge, texts: Sequence[str]) -> None:
        self._judge = judge
        sorted_out: dict[bool, list[str]] = {True: [], False: []}
        for text in texts:
            sorted_out[judge.doubts(judge.features(text))].append(text)
        self._numbers = count()
        self._made = {doubts: self._varied(some, doubts) for doubts, some in sorted_out.items()}

    def _varied(self, texts: Sequence[str], doubts: bool) -> Iterator[str]:
        for text in cycle(texts):
            varied = f"{text} [{next(self._numbers)}]"
            if self._judge.doubts(self._judge.features(varied)) == doubts:
                yield varied

    def take(self, number: int, share: float) -> list[str]:
        """So many texts, this share of them evenly such that a second look matters."""
        due = [int((index + 1) * share) > int(index * share) for index in range(number)]
        return [next(self._made[doubts]) for doubts in due]


@dataclass(frozen=True, slots=True)
class Added:
    """CPU µs that ``auto`` costs a request more than ``tier/small``, by group of texts, from the cheapest group on."""

    auto: tuple[float, ...]
    small: tuple[float, ...]

    def quantiles(self) -> dict[str, float]:
        """Of the difference, and what the median is a difference of."""
        more = [auto - small for auto, small in zip(self.auto, self.small, strict=True)]
        low, middle, high = cut(more, n=4, method="inclusive")
        both = {"auto, p50": median(self.auto), "tier/small, p50": median(self.small)}
        return {"p25": low, "p50": middle, "p75": high, "mean": mean(more), **both}


def added(subject: subjects.Subject, judge: Judge, texts: Sequence[str], passes: int) -> Added:
    """Measure it on texts for which no second look matters, each of them new to the proxy in every pass.

    Those whose first look costs about the same are sent together, so that the median over groups is the prompts'. Of
    each group the quietest pass counts, for either model; between two passes of one all others have their turn.
    """
    numbers = count()
    groups = list(_alike(judge, [text for text in texts if not judge.doubts(judge.features(text))]))
    least: dict[tuple[str, int], float] = {}
    for number in range(passes):
        for place, group in enumerate(groups):
            new = [varied for text in group if (varied := _sure(judge, text, numbers)) is not None]
            for model in figures.rotated(("auto", "tier/small"), number):
                began = machine.cpu_of(subject.pids)
                result = load.drive(subject.url, bodies(model, new), _FEW_AT_ONCE, 0, requests=len(new))
                took = (machine.cpu_of(subject.pids) - began) / result.requests * 1e6
                if result.failures:
                    raise RuntimeError(f"{model} failed {len(result.failures)} requests: {result.failures[0][:200]!r}")
                least[model, place] = min(took, least.get((model, place), took))
    auto, small = (tuple(least[model, place] for place in range(len(groups))) for model in ("auto", "tier/small"))
    return Added(auto, small)


def _alike(judge: Judge, texts: Sequence[str]) -> Iterator[list[str]]:
    """Groups of texts whose first looks cost alike, from the cheapest on."""

    def cost(text: str) -> float:
        features = [judge.features(text)]
        return min(_cpu_ms(lambda: judge.classifier.classify(features, look="static")) for _ in range(3))

    ordered = sorted(texts, key=cost)
    for start in range(0, len(ordered) - _GROUP + 1, _GROUP):
        yield ordered[start : start + _GROUP]


def _sure(judge: Judge, text: str, numbers: Iterator[int]) -> str | None:
    """The text with a number behind it, for which no second look matters either; None where that is hard to find."""
    for number in islice(numbers, 10):
        varied = f"{text} {number}"
        if not judge.doubts(judge.features(varied)):
            return varied
    return None


def encoder_alone(judge: Judge, texts: Sequence[str]) -> float:
    """Second looks a second, one after the other, by this process's CPU time."""
    read = [judge.features(text) for text in texts]
    began = time.thread_time()
    for features in read:
        judge.classifier.second_look(features)
    return len(read) / (time.thread_time() - began)


@dataclass(frozen=True, slots=True)
class Gauges:
    """A proxy's counters at one moment."""

    looks: dict[str, float]
    lag: dict[float, float]

    @classmethod
    def read(cls, url: str) -> Gauges:
        """Ask a proxy."""
        text = httpx.get(url.removesuffix("/v1") + "/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        looks = {s.labels["outcome"]: s.value for s in samples if s.name == "tierwise_looks_total"}
        lag = {float(s.labels["le"]): s.value for s in samples if s.name == "tierwise_loop_lag_seconds_bucket"}
        return cls(looks, lag)

    def since(self, before: Gauges) -> Gauges:
        """What was counted in between."""
        looks = {name: value - before.looks.get(name, 0.0) for name, value in self.looks.items()}
        return Gauges(looks, {bound: value - before.lag[bound] for bound, value in self.lag.items()})

    def share(self, *outcomes: str) -> float:
        """The share of classified requests that came to one of these."""
        return sum(self.looks.get(outcome, 0.0) for outcome in outcomes) / max(1.0, sum(self.looks.values()))

    def lag_ms(self, q: float) -> float:
        """A quantile of the event loop's lag, evenly within a bucket."""
        due, below, lower = q * max(self.lag.values()), 0.0, 0.0
        for bound, reached in sorted(self.lag.items()):
            if reached >= due:
                upper = bound if bound < float("inf") else lower
                return (lower + (upper - lower) * (due - below) / max(1.0, reached - below)) * 1e3
            below, lower = reached, bound
        return 0.0


def measure(subject: subjects.Subject, texts: Sequence[str], most: int) -> dict[str, float]:
    """One round of one subject: these texts once, ``most`` in flight."""
    before, began, looking = Gauges.read(subject.url), machine.cpu_of(subject.pids), machine.cpu_of(subject.encoders)
    result = load.drive(subject.url, bodies(subject.model, texts), most, 0, requests=len(texts))
    looking = machine.cpu_of(subject.encoders) - looking
    cpu, seen = machine.cpu_of(subject.pids) - began, Gauges.read(subject.url).since(before)
    if result.failures:
        raise RuntimeError(f"{subject.name} failed {len(result.failures)} requests: {result.failures[0][:200]!r}")
    return {
        "CPU µs a request": cpu / result.requests * 1e6,
        "of it the encoder's": looking / result.requests * 1e6,
        "requests/s": result.requests / result.seconds,
        "p50 ms": result.quantile_ms(0.5),
        "p99 ms": result.quantile_ms(0.99),
        "second looks": seen.share("second"),
        "late": seen.share("late"),
        "turned away": seen.share("busy"),
        "lag p50 ms": seen.lag_ms(0.5),
        "lag p99 ms": seen.lag_ms(0.99),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=5, seconds=3)
    options.add_argument(
        "--prompts", type=Path, nargs="+", default=[PACKAGED], help="JSON lines with a prompt each, or .gz of them"
    )
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    alone, found = figures.Figures("classify, each path alone"), figures.Figures("classify, through the proxy")
    more = figures.Figures("classify, what auto adds to tier/small, first look alone")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url, home = stack.enter_context(subjects.upstream()), Path(folder)

        def started(name: str, settings: str) -> subjects.Subject:
            (home / name).mkdir()
            return replace(
                stack.enter_context(subjects.tierwise(url, home / name, more=settings, part="full")), model="auto"
            )

        patient, default, apart = started("patient", _PATIENT), started("default", ""), started("apart", _PATIENT)
        machine.move(apart.encoders, machine.cores()[1])
        judge, texts = Judge.of(home / "default" / "policy.yaml"), prompts(*args.prompts)
        for name, measured in paths(judge, texts):
            alone.add(name, **measured)
        quantiles = added(patient, judge, texts[:: max(1, len(texts) // _ADDED)], args.rounds).quantiles()
        more.add("CPU µs a request", **quantiles)
        found.add("what auto adds, first look alone", **{"CPU µs a request": quantiles["p50"]})
        fresh = Fresh(judge, texts)
        few, many = int(args.seconds * 100), int(args.seconds * 500)
        plans = (
            (replace(patient, name="tier/small", model="tier/small"), 0.0, many),
            (replace(patient, name="auto, first look alone"), 0.0, many),
            (replace(patient, name=_SHARED), SHARE, many // 2),
            (replace(apart, name=_APART), SHARE, many // 2),
            (replace(patient, name="auto, second looks only"), 1.0, few),
            (replace(default, name=f"auto, {SHARE:.0%}, default patience"), SHARE, many // 2),
            (replace(default, name="auto, second looks only, default patience"), 1.0, many // 2),
        )
        for number in range(args.rounds):
            for subject, share, requests in figures.rotated(plans, number):
                found.add(subject.name, **measure(subject, fresh.take(requests, share), _AT_ONCE))
            found.add("the encoder alone", **{"requests/s": encoder_alone(judge, fresh.take(few, 1.0))})
    alone.print()
    more.print()
    found.print()
    _allowed(found)
    found.write(args.json)


def _allowed(found: figures.Figures) -> None:
    """What the encoder's own throughput would allow, on a core that it shares with the loop and on another.

    On one core its looks and the loop's own work, as it was in that run, stand one after the other; on two the slower
    of them decides. The other core is not its own either: load and upstream have it too.
    """
    look = 1e6 / (found.value("the encoder alone", "requests/s") or 1.0)
    print(f"\nThe encoder alone allows {1e6 / look / SHARE:.0f} requests/s with {SHARE:.0%} second looks.")
    for name in (_SHARED, _APART):
        cpu, looking, reached = (
            found.value(name, what) or 0.0 for what in ("CPU µs a request", "of it the encoder's", "requests/s")
        )
        loop, looks = cpu - looking, SHARE * look
        allowed = 1e6 / (loop + looks if name == _SHARED else max(loop, looks))
        print(f"{name}: {allowed:.0f} allowed beside the loop's {loop:.0f} µs a request; {reached:.0f} reached,")
        print(f"  {reached / allowed:.0%} of it, or {1e6 / cpu:.0f} in a second of its own CPU time")


if __name__ == "__main__":
    main()
