"""Figures of a benchmark: gathered over interleaved rounds, printed as a table, written as JSON for `compare`."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import machine


@dataclass(slots=True)
class Figures:
    """What one benchmark found: for each subject, each measure's value in every round."""

    benchmark: str
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, subject: str, **measures: float) -> None:
        """One round's values."""
        for name, value in measures.items():
            self.rounds[subject][name].append(value)

    def value(self, subject: str, measure: str) -> float | None:
        """The median over rounds."""
        values = self.rounds.get(subject, {}).get(measure)
        return median(values) if values else None

    def print(self, base: str | None = None) -> None:
        """Print a Markdown table; with ``base``, each figure is followed by its ratio to that subject's."""
        measures = list(dict.fromkeys(name for measured in self.rounds.values() for name in measured))
        rows = [["", *measures]]
        for subject in self.rounds:
            shown = [self._cell(subject, measure, base) for measure in measures]
            rows.append([f"{subject} {self.versions.get(subject, '')}".strip(), *shown])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        print(f"\n{self.benchmark}\n\n" + "\n".join(lines))

    def _cell(self, subject: str, measure: str, base: str | None) -> str:
        value = self.value(subject, measure)
        if value is None:
            return "–"
        against = self.value(base, measure) if base not in (None, subject) else None
        return shown(value) + (f" ({shown(value / against)}×)" if against else "")

    def write(self, file: Path | None) -> None:
        """Write everything, rounds included, where a file is named."""
        if file is not None:
            file.write_text(json.dumps(self.document(), indent=1) + "\n")

    def document(self) -> dict[str, Any]:
        """The figures with what they depend on."""
        return {
            "benchmark": self.benchmark,
            "machine": machine.describe(),
            "versions": self.versions,
            "median": {s: {m: median(values) for m, values in of.items()} for s, of in self.rounds.items()},
            "rounds": self.rounds,
        }


def shown(value: float) -> str:
    """A figure in three digits."""
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3g}"
    )


def parser(description: str | None, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds; figures are their medians")
    options.add_argument("--seconds", type=float, default=seconds, help="length of one measurement")
    options.add_argument("--json", type=Path, metavar="FILE", help="write everything there, for compare")
    return options


def rotated(subjects: Sequence[Any], by: int) -> list[Any]:
    """The subjects beginning with another one each round, so that none is always first."""
    by %= len(subjects)
    return [*subjects[by:], *subjects[:by]]
