"""What workers and the encoder's process say to each other over a unix socket: a length, and so many bytes of marshal.

Both ends run the same code, or do not speak (see `build`). Marshal gives floats and text back bit for bit, lone
surrogates too, and takes a tenth of the time that Python's objects take to pickle; it never runs code.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Any

import classifiers
import policies
from classifiers.targets import Target
from policies.values import Features, Signals, Success

HELLO, TAKE, DROP, LOOK, FORGET = range(5)
"""From a worker: its `build`; a number and the `Terms` that it stands for from now on; a number that it does not any
more; a look's number, its terms' number, until when it is wanted on `time.monotonic`, its size and what is `read`; the
number of a look that nobody waits for any more."""

HERE, TAKEN, REFUSED, BROKEN, SEEN, SKIPPED, FAILED = range(5, 12)
"""From the process: why there is nothing to encode with yet, empty where that is not known; terms' number and what runs
the encoder; terms' number (None: all of them) and why not; why there is nothing to encode with, for ever; a look's
number, its seconds, the size of what others wait for, and its signals, or nothing where nobody waited for it any more,
or what went wrong."""

_LENGTH = Struct("<I")
_ROOMS = (Path(classifiers.__path__[0]), Path(policies.__path__[0]), Path(__file__).parent)


@cache
def build() -> str:
    """Names the code that makes signals, and the Python that runs it. Two that differ may not read each other."""
    digest = hashlib.sha256(sys.version.encode())
    for room in _ROOMS:
        for path in sorted(room.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a classifier is made of, beside its encoders: see `classifiers.classifier.Classifier.load`.

    ``artifact`` is the id of what lies in ``folder``.
    """

    folder: str
    artifact: str
    targets: tuple[Target, ...]
    domains: Mapping[str, Sequence[str]]
    baseline: str

    def packed(self) -> bytes:
        """The same bytes for the same terms."""
        domains = tuple((name, tuple(prompts)) for name, prompts in self.domains.items())
        targets = tuple(map(astuple, self.targets))
        return marshal.dumps((self.folder, self.artifact, targets, domains, self.baseline))

    @classmethod
    def unpacked(cls, packed: bytes) -> Terms:
        """The terms again."""
        folder, artifact, targets, domains, baseline = marshal.loads(packed)
        return cls(folder, artifact, tuple(Target(*target) for target in targets), dict(domains), baseline)


def pack(*message: Any) -> bytes:
    """A message as it is sent; its first item is its kind."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Messages from the bytes of one connection, however these were cut."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """The messages that are whole by now. Raises `ValueError`, `EOFError` or `TypeError` for what is none."""
        data, at = self._left + data, 0
        while len(data) - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                break
            message: tuple[Any, ...] = marshal.loads(memoryview(data)[at + _LENGTH.size : end])
            at = end
            yield message
        self._left = data[at:]


_READ = (
    "text", "last_text", "last_characters", "system_text", "turns", "input_tokens", "max_output_tokens", "choices",
    "stream", "language", "has_code", "has_tools", "has_images", "requires",
)  # fmt: skip
"""What of `Features` is about the request; who asks stays in the worker."""

read = attrgetter(*_READ)
"""Features as they are sent."""


def features(values: Sequence[Any]) -> Features:
    """Features as they came."""
    return Features(**dict(zip(_READ, values, strict=True)))


def plain(signals: Signals) -> tuple[object, ...]:
    """Signals as they are sent."""
    success = {
        tier: (found.probability, found.standard_error, found.source, found.shared, found.enough)
        for tier, found in signals.success.items()
    }
    return (
        signals.domain, dict(signals.domain_probs), signals.complexity, success, signals.ood, signals.look,
        signals.artifact, signals.missing, signals.aside,
    )  # fmt: skip


def signals(values: Sequence[Any]) -> Signals:
    """Signals as they came."""
    domain, probabilities, complexity, success, *rest = values
    return Signals(domain, probabilities, complexity, {tier: Success(*of) for tier, of in success.items()}, *rest)
