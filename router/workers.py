"""What the workers of one proxy tell each other of what they have counted, so that any of them can speak for all.

Each writes its counts to a file of its own, twice a second and before it answers for all. What a worker had counted
stays when it ends; what it had under way does not. A worker that is killed takes half a second of counts with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any

import orjson

from router.meeting import alone, taken

_PREFIX = "workers-"
_LIVES_SECONDS = 5.0


@contextmanager
def meeting_place(data_dir: Path) -> Iterator[Path]:
    """A folder for the files of one proxy's workers. It goes with the proxy, and those of killed ones with the next."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with alone(data_dir):
            for left in data_dir.glob(f"{_PREFIX}*"):
                with suppress(OSError), (left / "lock").open("rb") as lock:
                    if taken(lock):
                        shutil.rmtree(left)
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, dir=data_dir)))
            mine = taken(stack.enter_context((made / "lock").open("wb")))
            assert mine, "only who is alone here looks at it"
        yield made


class Worker:
    """One worker among those that share a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{os.getpid()}-{token_hex(4)}.json"

    def tell(self, counts: Mapping[str, Any]) -> None:
        """Write what this worker has counted. A disk that refuses is said elsewhere; the others see it later."""
        beside = self._file.with_suffix(".new")
        with suppress(OSError):
            beside.write_bytes(orjson.dumps({"at": time(), **counts}))
            beside.replace(self._file)

    def others(self) -> Iterator[tuple[Mapping[str, Any], bool]]:
        """What every other worker has counted, and whether it still lives."""
        for file in self._file.parent.glob("*.json"):
            if file != self._file:
                with suppress(OSError, orjson.JSONDecodeError):
                    told: Mapping[str, Any] = orjson.loads(file.read_bytes())
                    yield told, time() - told["at"] < _LIVES_SECONDS
