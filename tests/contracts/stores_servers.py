"""Real servers for the store's tests: Valkey from its wheel, Redis 7 from Debian, a cluster of three on loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from router.state.embedded import find_server
from tests.debian import program
from tests.waiting import eventually


class Server:
    """One server process on a port of its own, with an append-only file so that it can be killed and come back."""

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [
            str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--logfile", str(folder / "log"), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)
        eventually(self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self.resume()
        self._process.terminate()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def _answers(self) -> bool:
        with suppress(RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False


def free_port() -> int:
    """A port whose cluster bus port is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as bus:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port < 55_000:
                with suppress(OSError):
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port


def redis_server() -> Path:
    """Debian's redis-server, installed when it is not there."""
    return program("redis-server")


@contextmanager
def running(binary: Path, folder: Path, *options: str) -> Iterator[Server]:
    server = Server(binary, folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_cluster(folder: Path) -> Iterator[str]:
    """Three nodes that share the slots; gives the URL."""
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(redis_server(), folder / str(i), *options)) for i in range(3)]
        clients = [stack.enter_context(node.client()) for node in nodes]
        share = 16384 // 3 + 1
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTSRANGE", i * share, min(16383, (i + 1) * share - 1))
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        eventually(lambda: all(_settled(client) for client in clients))
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def _settled(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    facts = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return facts["cluster_state"] == "ok" and facts["cluster_known_nodes"] == "3"


@contextmanager
def running_with_tls(folder: Path) -> Iterator[str]:
    """A server that speaks TLS, with a certificate of its own; gives the URL."""
    folder.mkdir(exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject)
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    port = free_port()
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate))
    with running(redis_server(), folder / "data", "--tls-port", str(port), "--tls-auth-clients", "no", *files):
        yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"


@contextmanager
def running_sentinel(folder: Path) -> Iterator[str]:
    """A primary and a Sentinel that knows it; gives the URL."""
    with running(redis_server(), folder / "primary") as primary, watched(primary, folder) as url:
        yield url


@contextmanager
def watched(primary: Server, folder: Path) -> Iterator[str]:
    """A Sentinel that fails over from a primary that has been silent for half a second; gives the URL."""
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor books 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds books 500\nsentinel failover-timeout books 5000\n"
    )
    sentinel = Server(redis_server(), folder / "sentinel")
    command = [str(redis_server()), str(configuration), "--sentinel", "--port", str(sentinel.port)]
    sentinel._command = [*command, "--bind", "127.0.0.1", "--logfile", str(folder / "sentinel.log")]
    sentinel.start()
    try:
        yield f"redis+sentinel://127.0.0.1:{sentinel.port}/books/0"
    finally:
        sentinel.stop()


def valkey_server() -> Path:
    return find_server()


SERVERS: Sequence[str] = ("embedded", "valkey", "redis", "cluster", "sentinel", "tls")
