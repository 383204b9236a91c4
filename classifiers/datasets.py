"""Rows to train and evaluate on: JSON lines, plain or gzip, streamed, and refused with the row's number when wrong."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from classifiers.features import extract
from policies.values import DOMAINS, Features


class DataError(ValueError):
    """A file of rows that cannot be used: the message names the file, the line, the key and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with what is known of it.

    ``scores`` maps a model's name to 0..1 (1 is right) and may name some of the models only. ``task`` groups prompts
    that look alike. ``domain`` is one of `policies.values.DOMAINS` or empty. ``weight`` scales the row's pull.
    """

    id: str
    features: Features
    task: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    domain: str = ""
    weight: float = 1.0


def read(paths: Sequence[Path], *, need_scores: bool = False) -> Iterator[Row]:
    """Stream the rows of ``paths`` in order.

    Each line is ``{"id", "prompt" or "messages", "task"?, "scores"?, "domain"?, "weight"?}``; other keys are ignored.
    Raises `DataError` naming file and line for a line that is not such an object, an id seen before, a score outside
    0..1 or not a number, or (with ``need_scores``) a row without scores.
    """
    seen: set[bytes] = set()
    for path in paths:
        try:
            with _open(path) as file:
                for number, row in _rows(file, str(path), need_scores):
                    key = hashlib.blake2b(row.id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
                    if key in seen:
                        raise DataError(
                            f"{path}, line {number}: id {row.id!r} was already used by an earlier row; make ids unique"
                        )
                    seen.add(key)
                    yield row
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error


def read_lines(file: IO[bytes], name: str) -> Iterator[Row]:
    """Stream the rows of an open file called ``name``; ids may repeat and scores may be absent. Raises `DataError`."""
    for _, row in _rows(file, name, need_scores=False):
        yield row


def sha256(path: Path) -> str:
    """The file's SHA-256, for manifests."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(file: IO[bytes], name: str, need_scores: bool) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield number, _row(_object(line, where), where, need_scores)


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        nan = "; JSON has no NaN: leave out a score that is not known" if b"NaN" in line else ""
        raise DataError(f"{where}: not valid JSON ({error}); expected one object a line{nan}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _row(value: Mapping[str, Any], where: str, need_scores: bool) -> Row:
    if not isinstance(value.get("id"), str | int):
        raise DataError(f"{where}: key 'id' is missing; give each row a unique string")
    if isinstance(value.get("messages"), list):
        body: Mapping[str, object] = value
    elif isinstance(value.get("prompt"), str):
        body = {"messages": [{"role": "user", "content": value["prompt"]}]}
    else:
        raise DataError(f"{where}: expected a string under 'prompt' or a list under 'messages'")
    domain = value.get("domain") or ""
    if domain and domain not in DOMAINS:
        raise DataError(f"{where}: unknown domain {domain!r}; known: {', '.join(DOMAINS)}")
    weight = value.get("weight", 1.0)
    if not _number(weight) or not 0 < weight < float("inf"):
        raise DataError(f"{where}: 'weight' must be a positive number, found {weight!r}")
    return Row(
        id=str(value["id"]),
        features=extract(body),
        task=str(value.get("task") or ""),
        scores=_scores(value.get("scores"), where, need_scores),
        domain=domain,
        weight=float(weight),
    )


def _scores(value: object, where: str, needed: bool) -> dict[str, float]:
    if value is None and not needed:
        return {}
    if not isinstance(value, dict) or (needed and not value):
        raise DataError(f"{where}: expected 'scores' to map model names to numbers from 0 to 1")
    for model, score in value.items():
        if not _number(score) or not 0.0 <= score <= 1.0:
            raise DataError(f"{where}: the score of {model!r} is {score!r}; scores are numbers from 0 to 1")
    return {model: float(score) for model, score in value.items()}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
