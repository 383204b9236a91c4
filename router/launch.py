"""Starting ``tierwise serve`` as a child process, as the demo, the journeys and the benchmarks do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

LISTENING = "tierwise is listening on "
"""What ``serve`` prints on standard output, before the address, once its socket is bound."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: its address and its process."""

    url: str
    process: subprocess.Popen[str]

    def wait_until_ready(self, seconds: float = 60.0, part: str | None = None) -> Mapping[str, object]:
        """Poll ``/readyz`` until the proxy (or ``part`` of it, as ``full``) is ready, and return what it says.

        Raises `RuntimeError` when the process ends or the time is up.
        """
        import httpx  # serving, which prints LISTENING, does without it

        deadline = monotonic() + seconds
        state: Mapping[str, object] = {}
        while monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the proxy ended with exit code {self.process.returncode}")
            try:
                response = httpx.get(f"{self.url}/readyz", timeout=5)
            except httpx.TransportError:
                sleep(0.02)
                continue
            state = response.json()
            if response.status_code == 200 and part in (None, state.get("classifier")):
                return state
            sleep(0.02)
        raise RuntimeError(f"the proxy was not ready after {seconds:g} s: {state}")


@contextmanager
def running_proxy(
    policy: Path, data_dir: Path, *options: str, environ: Mapping[str, str] | None = None, log: IO[bytes] | None = None
) -> Iterator[Proxy]:
    """Run ``tierwise serve`` on a free port unless told otherwise, and stop it (gracefully) on the way out.

    ``log`` is a file for what it says on standard error, which else is ours.

    Raises `RuntimeError` when it ends before it listens; its own words are on standard error by then.
    """
    port: Sequence[str] = () if "--port" in options else ("--port", "0")
    command = [sys.executable, "-m", "router.cli", "serve", str(policy), "--data-dir", str(data_dir), *port, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(LISTENING):
                yield Proxy(line.removeprefix(LISTENING).strip(), process)
                return
        raise RuntimeError(f"the proxy did not start (exit code {process.wait()})")
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
