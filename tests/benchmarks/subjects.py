"""What is measured side by side: nothing in between, the floor, Tierwise, and peers in environments of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.benchmarks import machine
from tests.benchmarks.upstream import MODEL

ROOT = Path(__file__).parents[2]
KEY = "sk-benchmark"

POLICY = """\
version: 1
tiers:
  small:
    trained_as: qwen2.5-7b-instruct
    backends:
      - {{name: bench-small, kind: openai, base_url: "{url}", model: {model}, api_key: upstream, context_window: 32768,
         max_in_flight: 4096, cost: {{input_usd_per_mtok: 0.05, output_usd_per_mtok: 0.10}}}}
  large:
    trained_as: llama3-70b-instruct
    backends:
      - {{name: bench-large, kind: openai, base_url: "{url}", model: {model}, api_key: upstream, context_window: 131072,
         max_in_flight: 4096, cost: {{input_usd_per_mtok: 2.50, output_usd_per_mtok: 10.00}}}}
baseline: large
objective: {{keep_quality: 0.95}}
fallback: {{small: [large]}}
{more}"""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers chat completions.

    ``pids`` are its processes, whose CPU time is its cost; ``helpers`` are those of them that keep the books, and
    ``encoders`` those that take second looks, for all workers.
    """

    name: str
    url: str
    model: str
    pids: tuple[int, ...] = ()
    helpers: tuple[int, ...] = ()
    encoders: tuple[int, ...] = ()
    start_s: float = 0.0
    version: str = ""

    def workers(self) -> tuple[int, ...]:
        """The processes that answer requests: those that were spawned for it, else the first."""
        spawned = tuple(pid for pid in self.pids if "spawn_main" in _command_line(pid))
        return spawned or self.pids[:1]


@dataclass(frozen=True, slots=True)
class Peer:
    """A router of somebody else's: what to install, and how it is started in front of one upstream."""

    package: str
    distribution: str
    model: str

    def command(self, folder: Path, python: Path, upstream: str, port: int) -> tuple[str | Path, ...]:
        """The command line."""
        base = upstream.removesuffix("/v1")
        match self.distribution:
            case "litellm":
                return (python.with_name("litellm"), "--config", _litellm(folder, upstream), "--port", str(port))
            case "sglang-router":
                command = (python, "-m", "sglang_router.launch_router")
            case "vllm-router":
                command = (python.with_name("vllm-router"),)
            case _:
                raise ValueError(self.distribution)
        options = ("--worker-urls", base, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin")
        return (*command, *options, "--prometheus-port", str(_free_port()))


def _litellm(folder: Path, upstream: str) -> Path:
    file = folder / "litellm.yaml"
    backend = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": "upstream"}
    file.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": backend}]}))
    return file


PEERS = {
    "litellm": Peer("litellm[proxy]>=1.106,<1.107", "litellm", MODEL),
    "sglang": Peer("sglang-router==0.3.2", "sglang-router", MODEL),
    "vllm": Peer("vllm-router==0.1.17", "vllm-router", MODEL),
}


@contextmanager
def upstream() -> Iterator[str]:
    """The base URL of a model server on the core of the load."""
    command = [sys.executable, "-m", "tests.benchmarks.upstream"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=machine.pinned(machine.cores()[1])
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        _stop(process)


@contextmanager
def floor(url: str) -> Iterator[Subject]:
    """The floor, in front of an upstream."""
    port = _free_port()
    command = (sys.executable, "-m", "tests.benchmarks.floor", url, "--port", str(port))
    with _started(command, port, {}) as (process, seconds):
        yield Subject("floor", f"http://127.0.0.1:{port}/v1", MODEL, (process.pid,), start_s=seconds)


@contextmanager
def tierwise(
    url: str, folder: Path, *options: str, more: str = "", part: str | None = None, policy: str = POLICY
) -> Iterator[Subject]:
    """Tierwise in front of an upstream, with all that it does switched on. ``model`` is the tier ``small``.

    ``more`` is added to the policy; ``part`` is the classifier's look to wait for.
    """
    file = folder / "policy.yaml"
    file.write_text(policy.format(url=url, model=MODEL, more=more))
    port = _free_port()
    serve = (
        sys.executable,
        "-m",
        "router.cli",
        "serve",
        str(file),
        "--port",
        str(port),
        "--data-dir",
        str(folder),
        "--log-level",
        "error",
    )
    with _started((*serve, *options), port, {}) as (process, seconds):
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while part is not None and httpx.get(f"{base}/readyz").json()["classifier"] != part:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the classifier never came to {part}")
            time.sleep(0.05)
        pid = folder / "store" / "server.pid"
        helpers = (int(pid.read_text()),) if pid.exists() else ()
        family = _family(process.pid)
        encoders = tuple(pid for pid in family if "router.looks.server" in _command_line(pid))
        yield Subject("tierwise", f"{base}/v1", "tier/small", (*family, *helpers), helpers, encoders, seconds)


@contextmanager
def peer(name: str, url: str, folder: Path) -> Iterator[Subject]:
    """A peer, installed on first use into an environment of its own."""
    settings, python, port = PEERS[name], _installed(name), _free_port()
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
    environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    log = (folder / f"{name}.log").open("w")
    with _started(settings.command(folder, python, url, port), port, environ, log) as (process, seconds):
        asked = [python, "-c", f"from importlib.metadata import version; print(version({settings.distribution!r}))"]
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        yield Subject(
            name, f"http://127.0.0.1:{port}/v1", settings.model, _family(process.pid), (), (), seconds, version
        )


@contextmanager
def side_by_side(folder: Path, peers: Sequence[str]) -> Iterator[list[Subject]]:
    """The upstream itself, the floor, Tierwise with ``tier/small``, and peers, all running and all answering."""
    with ExitStack() as stack:
        url = stack.enter_context(upstream())
        subjects = [Subject("direct", url, MODEL), stack.enter_context(floor(url))]
        subjects.append(stack.enter_context(tierwise(url, folder, part="full")))
        subjects += [stack.enter_context(peer(name, url, folder)) for name in peers]
        yield subjects


@contextmanager
def _started(
    command: Sequence[str | Path], port: int, environ: Mapping[str, str], log: object = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start a server on the measured core; gives it with the seconds until it first answered a chat completion."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, stdout=log or subprocess.DEVNULL, stderr=log,  # type: ignore[call-overload]
        preexec_fn=machine.pinned(machine.cores()[0]),
    )  # fmt: skip
    try:
        yield process, _until_answered(process, port, began)
    finally:
        _stop(process)


def _until_answered(process: subprocess.Popen[bytes], port: int, began: float) -> float:
    model = "tier/small" if "router.cli" in process.args else MODEL  # type: ignore[operator]
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    while time.monotonic() - began < 120:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with exit code {process.returncode}")  # type: ignore[str-bytes-safe]
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {KEY}"},
                timeout=60,
            )
        except httpx.TransportError:
            time.sleep(0.005)
            continue
        if answer.status_code == 200:
            return time.monotonic() - began
        time.sleep(0.02)
    raise RuntimeError(f"{process.args} never answered")  # type: ignore[str-bytes-safe]


def _family(pid: int) -> tuple[int, ...]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return (pid, *(one for child in children for one in _family(child)))


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _installed(name: str) -> Path:
    """The Python of a peer's environment, made on first use; TIERWISE_BENCHMARK_PEERS names the folder they are in."""
    home = Path(os.environ.get("TIERWISE_BENCHMARK_PEERS", Path.home() / ".cache" / "tierwise-benchmarks"))
    python = home / name / "bin" / "python"
    if not (home / name / "installed").exists():
        venv.create(home / name, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEERS[name].package], check=True)
        (home / name / "installed").touch()
    return python
