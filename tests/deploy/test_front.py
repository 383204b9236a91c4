"""The front, run for real: two proxies on one store behind HAProxy, one of them killed."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic, sleep

import httpx
import pytest

from router.launch import Proxy, running_proxy
from router.state.embedded import EmbeddedStore
from tests.debian import program
from tests.deploy.stack import DEPLOY


@dataclass(frozen=True, slots=True)
class Front:
    url: str
    proxies: tuple[Proxy, Proxy]

    def ask(self, model: str = "auto") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Name a colour."}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(url: str, seconds: float = 20.0) -> None:
    deadline = monotonic() + seconds
    with httpx.Client() as client:
        while monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            sleep(0.05)
    raise AssertionError(f"{url} was not there after {seconds:g} s")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    tmp_path = tmp_path_factory.mktemp("front")
    store = EmbeddedStore(tmp_path / "shared")
    with ExitStack() as stack:
        environ = {**os.environ, "REDIS_URL": store.start()}
        stack.callback(store.stop)
        policy = DEPLOY / "policies" / "simulated.yaml"
        a = stack.enter_context(running_proxy(policy, tmp_path / "a", environ=environ))
        b = stack.enter_context(running_proxy(policy, tmp_path / "b", environ=environ))
        port = free_port()
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
        for name, address in (
            ("bind :8080", f"bind 127.0.0.1:{port}"),
            ("proxy-a:8080", a.url.removeprefix("http://")),
            ("proxy-b:8080", b.url.removeprefix("http://")),
            ("init-addr none resolvers docker", ""),
        ):
            assert name in text
            text = text.replace(name, address)
        (tmp_path / "haproxy.cfg").write_text(text)
        running = subprocess.Popen([program("haproxy"), "-db", "-f", str(tmp_path / "haproxy.cfg")])
        stack.callback(running.wait)
        stack.callback(running.terminate)
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield Front(f"http://127.0.0.1:{port}", (a, b))


def test_the_configuration_is_valid() -> None:
    ran = subprocess.run(
        [program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy" / "haproxy.cfg")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def test_operators_pages_stay_inside(front: Front) -> None:
    assert httpx.get(f"{front.url}/metrics").status_code == 404
    assert httpx.get(f"{front.url}/report?since=1h").status_code == 404
    assert httpx.get(f"{front.url}/v1/models").status_code == 200
    assert httpx.get(f"{front.proxies[0].url}/metrics").status_code == 200


def test_clients_do_not_notice_a_killed_proxy(front: Front) -> None:
    assert front.ask().status_code == 200
    front.proxies[0].process.kill()
    front.proxies[0].process.wait()
    assert [front.ask().status_code for _ in range(10)] == [200] * 10
